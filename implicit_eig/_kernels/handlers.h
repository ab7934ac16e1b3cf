// What the handlers of both files check, and how they fail.

#pragma once

#include <algorithm>
#include <cstdint>
#include <new>
#include <string>

#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

inline ffi::Error wrong(const std::string& what) {
  return ffi::Error(ffi::ErrorCode::kInvalidArgument, "implicit_eig: " + what);
}

inline bool is_index(const ffi::AnyBuffer& x) {
  return x.dimensions().size() == 0 &&
         (x.element_type() == ffi::S32 || x.element_type() == ffi::S64);
}

inline int64_t value_of(const ffi::AnyBuffer& x) {
  return x.element_type() == ffi::S32 ? *x.typed_data<int32_t>() : *x.typed_data<int64_t>();
}

inline ffi::DataType with_parts(ffi::DataType real, int c) {
  if (c == 1) return real;
  return real == ffi::F64 ? ffi::C128 : ffi::C64;
}

inline bool has_shape(const ffi::AnyBuffer& x, ffi::DataType type, ffi::Span<const int64_t> dims,
               size_t from = 0) {
  const auto own = x.dimensions();
  return x.element_type() == type && own.size() == dims.size() - from &&
         std::equal(own.begin(), own.end(), dims.begin() + from);
}

// f with a number of the basis's type. No exception may reach XLA.
template <typename F>
ffi::Error computed(ffi::DataType type, F&& f) {
  try {
    if (type == ffi::F32)
      f(float{});
    else
      f(double{});
  } catch (const std::bad_alloc&) {
    return ffi::Error(ffi::ErrorCode::kResourceExhausted, "implicit_eig: out of memory");
  }
  return ffi::Error::Success();
}

}  // namespace
