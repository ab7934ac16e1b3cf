// What XLA's CPU backend has no operation for: products with the vectors of a Krylov basis
// that are in use, and changes of a basis where it stands.
//
// A basis is m1 vectors of c real rows, one after the other in memory: c = 1 real, c = 2 the
// real and the imaginary part. So every loop below runs over real rows. A vector may have
// several parts, each an array of its own.
//
// From the bottom: loops over a piece of all rows; Gram-Schmidt and the rotation made of
// them, by pieces that stay in cache; handlers, which look at shapes before anything else.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>
#include <utility>
#include <vector>

#include "handlers.h"

// One function for each generation of processors; the loader takes the best. Elsewhere than
// on Linux and x86-64 the compiler's own baseline has to do (on arm64 it has all there is).
#if defined(__x86_64__) && defined(__gnu_linux__) && !defined(IMPLICIT_EIG_PLAIN) && \
    (!defined(__clang__) || __clang_major__ >= 17)
#define FOR_EACH_PROCESSOR \
  __attribute__((target_clones("default", "arch=x86-64-v3", "arch=x86-64-v4")))
#else
#define FOR_EACH_PROCESSOR
#endif
// Such a function has no templates around it: these are inlined into it.
#define INLINED inline __attribute__((always_inline))

namespace {

// ---------------------------------------------------------------- loops over a piece

// Sums that run side by side, so that none waits for its last addition. K right sides take
// kSums / K rows at a time. Where fewer rows are left, the last one stands in for those that
// are not there: it is in cache.
constexpr int kSums = 8;

// out[r, k] += rows[r] . x[k]
template <typename T, int K>
INLINED void dots(const T* rows, int64_t stride, int count, const T* const* x,
                  int64_t length, T* out) {
  constexpr int R = kSums / K;
  for (int first = 0; first < count; first += R) {
    const T *a[R], *b[K];
    for (int r = 0; r < R; r++) a[r] = rows + std::min(first + r, count - 1) * stride;
    for (int k = 0; k < K; k++) b[k] = x[k];
    T s0 = 0, s1 = 0, s2 = 0, s3 = 0, s4 = 0, s5 = 0, s6 = 0, s7 = 0;
#pragma omp simd reduction(+ : s0, s1, s2, s3, s4, s5, s6, s7)
    for (int64_t i = 0; i < length; i++) {
      s0 += a[0 / K][i] * b[0 % K][i];
      s1 += a[1 / K][i] * b[1 % K][i];
      s2 += a[2 / K][i] * b[2 % K][i];
      s3 += a[3 / K][i] * b[3 % K][i];
      s4 += a[4 / K][i] * b[4 % K][i];
      s5 += a[5 / K][i] * b[5 % K][i];
      s6 += a[6 / K][i] * b[6 % K][i];
      s7 += a[7 / K][i] * b[7 % K][i];
    }
    const T sums[kSums] = {s0, s1, s2, s3, s4, s5, s6, s7};
    const int there = std::min(R, count - first) * K;
    for (int i = 0; i < there; i++) out[first * K + i] += sums[i];
  }
}

// x[k] -= sum_r h[r, k] rows[r]
template <typename T, int K>
INLINED void subtract(const T* rows, int64_t stride, int count, const T* h, T* const* x,
                      int64_t length) {
  constexpr int R = kSums / K;
  for (int first = 0; first < count; first += R) {
    const T* a[R];
    T g[kSums] = {};
    for (int r = 0; r < R; r++) a[r] = rows + std::min(first + r, count - 1) * stride;
    std::copy_n(h + first * K, std::min(R, count - first) * K, g);
    const T g0 = g[0], g1 = g[1], g2 = g[2], g3 = g[3];
    const T g4 = g[4], g5 = g[5], g6 = g[6], g7 = g[7];
    T* __restrict__ y = x[0];
    if constexpr (K == 1) {
#pragma omp simd
      for (int64_t i = 0; i < length; i++)
        y[i] -= ((g0 * a[0][i] + g1 * a[1][i]) + (g2 * a[2][i] + g3 * a[3][i])) +
                ((g4 * a[4][i] + g5 * a[5][i]) + (g6 * a[6][i] + g7 * a[7][i]));
    } else {
      T* __restrict__ z = x[1];
#pragma omp simd
      for (int64_t i = 0; i < length; i++) {
        const T a0 = a[0][i], a1 = a[1][i], a2 = a[2][i], a3 = a[3][i];
        y[i] -= (g0 * a0 + g2 * a1) + (g4 * a2 + g6 * a3);
        z[i] -= (g1 * a0 + g3 * a1) + (g5 * a2 + g7 * a3);
      }
    }
  }
}

template <typename T>
INLINED T sum_of_squares(const T* x, int64_t length) {
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t i = 0; i < length; i++) sum += x[i] * x[i];
  return sum;
}

template <typename T>
INLINED void scaled(const T* x, T by, int64_t length, T* y) {
#pragma omp simd
  for (int64_t i = 0; i < length; i++) y[i] = x[i] * by;
}

// y[r] = sum_i q[i, r] rows[i] for `kept` rows of y, `length` apart.
template <typename T>
INLINED void turned(const T* rows, int64_t stride, int count, const T* q, int kept,
                    int64_t length, T* y) {
  for (int r = 0; r < kept; r += 2) {
    const bool both = r + 1 < kept;
    T* __restrict__ y0 = y + r * length;
    T* __restrict__ y1 = y + (r + 1) * length;  // there is room for one row more
    std::fill(y0, y0 + length, T(0));
    std::fill(y1, y1 + length, T(0));
    for (int first = 0; first < count; first += 4) {
      const T* a[4];
      T g[4] = {}, h[4] = {};
      for (int i = 0; i < 4; i++) {
        a[i] = rows + std::min(first + i, count - 1) * stride;
        if (first + i < count) {
          g[i] = q[(first + i) * kept + r];
          h[i] = both ? q[(first + i) * kept + r + 1] : 0;
        }
      }
      const T g0 = g[0], g1 = g[1], g2 = g[2], g3 = g[3];
      const T h0 = h[0], h1 = h[1], h2 = h[2], h3 = h[3];
#pragma omp simd
      for (int64_t i = 0; i < length; i++) {
        const T x0 = a[0][i], x1 = a[1][i], x2 = a[2][i], x3 = a[3][i];
        y0[i] += (g0 * x0 + g1 * x1) + (g2 * x2 + g3 * x3);
        y1[i] += (h0 * x0 + h1 * x1) + (h2 * x2 + h3 * x3);
      }
    }
  }
}

#define LOOPS(T)                                                                          \
  FOR_EACH_PROCESSOR void dots(int c, const T* rows, int64_t stride, int count,           \
                               const T* const* x, int64_t length, T* out) {               \
    if (c == 1)                                                                           \
      dots<T, 1>(rows, stride, count, x, length, out);                                    \
    else                                                                                  \
      dots<T, 2>(rows, stride, count, x, length, out);                                    \
  }                                                                                       \
  FOR_EACH_PROCESSOR void subtract(int c, const T* rows, int64_t stride, int count,       \
                                   const T* h, T* const* x, int64_t length) {             \
    if (c == 1)                                                                           \
      subtract<T, 1>(rows, stride, count, h, x, length);                                  \
    else                                                                                  \
      subtract<T, 2>(rows, stride, count, h, x, length);                                  \
  }                                                                                       \
  FOR_EACH_PROCESSOR T squares(const T* x, int64_t length) {                              \
    return sum_of_squares<T>(x, length);                                                  \
  }                                                                                       \
  FOR_EACH_PROCESSOR void scale(const T* x, T by, int64_t length, T* y) {                 \
    scaled<T>(x, by, length, y);                                                          \
  }                                                                                       \
  FOR_EACH_PROCESSOR void turn(const T* rows, int64_t stride, int count, const T* q,      \
                               int kept, int64_t length, T* y) {                          \
    turned<T>(rows, stride, count, q, kept, length, y);                                   \
  }
LOOPS(float)
LOOPS(double)

// ---------------------------------------------------------------- Gram-Schmidt

// A basis, or one part of it.
template <typename T>
struct Part {
  T* basis;
  const T* image;  // what coefficients are taken of; null: w itself
  T* w;            // c rows
  int64_t n;       // length of a row
};

// `used` vectors, and the coefficients of one more in them.
template <typename T>
class GramSchmidt {
 public:
  GramSchmidt(int c, int used) : c_(c), rows_(c * used), sums_(c * rows_), h_(c * rows_) {}

  // <v_i, w> of a piece, added up.
  void look(const Part<T>& part, int64_t at, int64_t length) {
    const T* from = part.image ? part.image : part.w;
    const T* x[2] = {from + at, from + (c_ - 1) * part.n + at};
    dots(c_, part.basis + at, part.n, rows_, x, length, sums_.data());
  }

  // What was looked at becomes what is taken away next.
  void decide() {
    for (int r = 0; r < rows_; r += c_) {
      if (c_ == 1) {
        h_[r] = sums_[r];
        continue;
      }
      const T* s = &sums_[2 * r];  // re.re, re.im, im.re, im.im
      const T re = s[0] + s[3], im = s[1] - s[2];
      const T h[4] = {re, im, -im, re};
      std::copy_n(h, 4, &h_[2 * r]);
    }
    std::fill(sums_.begin(), sums_.end(), T(0));
  }

  // w - sum_i h_i v_i of a piece; its squares.
  T take(const Part<T>& part, int64_t at, int64_t length) {
    T* x[2] = {part.w + at, part.w + (c_ - 1) * part.n + at};
    subtract(c_, part.basis + at, part.n, rows_, h_.data(), x, length);
    return size(part, at, length);
  }

  T size(const Part<T>& part, int64_t at, int64_t length) const {
    T sum = 0;
    for (int k = 0; k < c_; k++) sum += squares(part.w + k * part.n + at, length);
    return sum;
  }

  // Adds the coefficients taken last to `out`, complex ones as pairs.
  void add_to(T* out) const {
    for (int r = 0; r < rows_; r += c_)
      for (int k = 0; k < c_; k++) out[r + k] += h_[c_ * r + k];
  }

  // Pieces of which all rows stay in the second cache from one loop to the next.
  template <typename F>
  void pieces(const std::vector<Part<T>>& parts, F&& f) const {
    const int64_t fit = 128 * 1024 / int64_t(sizeof(T)) / std::max(rows_, 1);
    const int64_t most = std::clamp<int64_t>(fit / 64 * 64, 512, 4096);
    for (const Part<T>& part : parts)
      for (int64_t at = 0; at < part.n; at += most) f(part, at, std::min(most, part.n - at));
  }

 private:
  int c_, rows_;
  std::vector<T> sums_, h_;
};

// w against the basis, a second time where the first one cancelled; the unit rest, or zero
// after a breakdown, goes to vector `row` of the basis.
template <typename T>
bool orthogonalise(std::vector<Part<T>> parts, int c, int used, int row, T* h) {
  GramSchmidt<T> run(c, used);
  const bool anew = row < used;  // w takes the place of a vector that is still in use
  T before = 0, after = 0;
  std::vector<std::vector<T>> aside(anew ? parts.size() : 0);
  for (size_t p = 0; p < parts.size(); p++) {
    Part<T>& part = parts[p];
    T* rest = part.basis + int64_t(row) * c * part.n;
    if (anew) aside[p].resize(c * part.n), rest = aside[p].data();
    std::copy_n(part.w, c * part.n, rest);
    part.w = rest;
  }
  run.pieces(parts, [&](const Part<T>& part, int64_t at, int64_t length) {
    before += run.size(part, at, length);
    run.look(part, at, length);
  });
  run.decide();
  run.add_to(h);
  run.pieces(parts, [&](const Part<T>& part, int64_t at, int64_t length) {
    after += run.take(part, at, length);
    run.look(part, at, length);
  });
  before = std::sqrt(before), after = std::sqrt(after);
  if (after <= before / std::sqrt(T(2))) {
    run.decide();
    run.add_to(h);
    after = 0;
    run.pieces(parts, [&](const Part<T>& part, int64_t at, int64_t length) {
      after += run.take(part, at, length);
    });
    after = std::sqrt(after);
  }
  const bool broken = !anew && after <= 10 * std::numeric_limits<T>::epsilon() * before;
  for (const Part<T>& part : parts) {
    T* rest = part.basis + int64_t(row) * c * part.n;
    if (broken)
      std::fill_n(rest, c * part.n, T(0));
    else
      scale(part.w, 1 / after, c * part.n, rest);
  }
  if (!anew) h[c * used] = broken ? T(0) : after;
  return broken;
}

// w without its part in the basis; its size.
template <typename T>
T project(const std::vector<Part<T>>& parts, int c, int used, T* h) {
  GramSchmidt<T> run(c, used);
  T after = 0;
  run.pieces(parts, [&](const Part<T>& part, int64_t at, int64_t length) {
    run.look(part, at, length);
  });
  run.decide();
  run.add_to(h);
  run.pieces(parts, [&](const Part<T>& part, int64_t at, int64_t length) {
    after += run.take(part, at, length);
  });
  return std::sqrt(after);
}

// ---------------------------------------------------------------- rotation

// The first m of m + 1 vectors turned by the leading columns of q (of order m + 1), and the
// last vector after them.
template <typename T>
void rotate(T* v, int64_t n, int c, int m, int kept, const T* q) {
  const int rows = c * m, left = c * kept;
  // q as it acts on real rows.
  std::vector<T> real(size_t(rows) * left);
  for (int i = 0; i < m; i++)
    for (int j = 0; j < kept; j++) {
      const T* z = q + (int64_t(i) * (m + 1) + j) * c;
      T* to = &real[size_t(c) * i * left + c * j];
      to[0] = z[0];
      if (c == 2) to[1] = z[1], to[left] = -z[1], to[left + 1] = z[0];
    }
  // A piece of all rows, old and new, stays in the first cache.
  const int64_t fit = 32 * 1024 / int64_t(sizeof(T)) / (rows + left + 1);
  const int64_t most = std::max<int64_t>(fit / 32 * 32, 64);
  std::vector<T> turned((left + 1) * most);
  for (int64_t at = 0; at < n; at += most) {
    const int64_t length = std::min(most, n - at);
    turn(v + at, n, rows, real.data(), left, length, turned.data());
    for (int r = 0; r < left; r++)
      std::copy_n(turned.data() + r * length, length, v + r * n + at);
  }
  if (kept < m) std::copy_n(v + m * c * n, c * n, v + kept * c * n);
}

// ---------------------------------------------------------------- handlers

// What all handlers are given: the parts of a basis, of one dtype and number of vectors.
struct Basis {
  int64_t m1;
  int c;
  ffi::DataType type;

  static bool is_one(const ffi::AnyBuffer& x) {
    const auto dims = x.dimensions();
    return dims.size() >= 3 && dims[0] > 0 && (dims[1] == 1 || dims[1] == 2) &&
           (x.element_type() == ffi::F32 || x.element_type() == ffi::F64);
  }

  static Basis of(const ffi::AnyBuffer& x) {
    return {x.dimensions()[0], int(x.dimensions()[1]), x.element_type()};
  }

  bool matches(const ffi::AnyBuffer& x) const {
    return is_one(x) && x.dimensions()[0] == m1 && x.dimensions()[1] == c &&
           x.element_type() == type;
  }

  int64_t row_length(const ffi::AnyBuffer& x) const {
    return int64_t(x.element_count()) / m1 / c;
  }

  bool is_vector(const ffi::AnyBuffer& x) const {  // of coefficients
    return x.element_type() == with_parts(type, c) && x.dimensions().size() == 1 &&
           x.dimensions()[0] == m1;
  }
};

// Results stand where the arguments did, unless XLA could not arrange it.
void in_place(const ffi::AnyBuffer& from, const ffi::AnyBuffer& to) {
  if (from.untyped_data() != to.untyped_data())
    std::memcpy(to.untyped_data(), from.untyped_data(), from.size_bytes());
}

// The buffers of a call; false where something else is among them.
template <typename From>
bool all_of(const From& from, std::vector<ffi::AnyBuffer>& out) {
  for (size_t i = 0; i < from.size(); i++) {
    auto x = from.template get<ffi::AnyBuffer>(i);
    if (!x.has_value()) return false;
    if constexpr (std::is_same_v<From, ffi::RemainingRets>)
      out.push_back(**x);
    else
      out.push_back(*x);
  }
  return true;
}

// used, row, the parts of the basis, those of w -> the basis, coefficients, breakdown
ffi::Error Orthogonalise(ffi::RemainingArgs args, ffi::RemainingRets rets) {
  std::vector<ffi::AnyBuffer> x, y;
  if (!all_of(args, x) || !all_of(rets, y)) return wrong("arguments are not arrays");
  const size_t parts = y.size() < 3 ? 0 : y.size() - 2;
  if (parts == 0 || x.size() != 2 + 2 * parts) return wrong("the number of arguments");
  if (!is_index(x[0]) || !is_index(x[1])) return wrong("`used`, `row` are not integers");
  if (!Basis::is_one(x[2])) return wrong("not a basis");
  const Basis basis = Basis::of(x[2]);
  for (size_t p = 0; p < parts; p++) {
    const auto &old = x[2 + p], &w = x[2 + parts + p];
    if (!basis.matches(old) || !has_shape(y[p], basis.type, old.dimensions()) ||
        !has_shape(w, basis.type, old.dimensions(), 1))
      return wrong("parts of the basis and of the vector do not fit");
  }
  const auto &h = y[parts], &flag = y[parts + 1];
  if (!basis.is_vector(h)) return wrong("coefficients do not fit the basis");
  if (flag.element_type() != ffi::PRED || flag.element_count() != 1)
    return wrong("the flag is not one truth value");
  const int64_t used = value_of(x[0]), row = value_of(x[1]);
  if (used < 0 || used > basis.m1 || row < 0 || row > used || row >= basis.m1)
    return wrong("vector " + std::to_string(row) + " after " + std::to_string(used) + " of " +
                 std::to_string(basis.m1));
  return computed(basis.type, [&](auto one) {
    using T = decltype(one);
    std::vector<Part<T>> all;
    for (size_t p = 0; p < parts; p++) {
      in_place(x[2 + p], y[p]);
      all.push_back({y[p].typed_data<T>(), nullptr, x[2 + parts + p].typed_data<T>(),
                     basis.row_length(y[p])});
    }
    T* out = static_cast<T*>(h.untyped_data());
    std::fill_n(out, basis.c * basis.m1, T(0));
    *flag.typed_data<bool>() =
        orthogonalise(std::move(all), basis.c, int(used), int(row), out);
  });
}

// used, the parts of the basis, those of w, those of an image of w where coefficients are
// not of w itself -> w without its part in the basis, coefficients, its size
ffi::Error Project(ffi::RemainingArgs args, ffi::RemainingRets rets) {
  std::vector<ffi::AnyBuffer> x, y;
  if (!all_of(args, x) || !all_of(rets, y)) return wrong("arguments are not arrays");
  const size_t parts = y.size() < 3 ? 0 : y.size() - 2;
  const bool apart = x.size() == 1 + 3 * parts;
  if (parts == 0 || (!apart && x.size() != 1 + 2 * parts))
    return wrong("the number of arguments");
  if (!is_index(x[0])) return wrong("`used` is not an integer");
  if (!Basis::is_one(x[1])) return wrong("not a basis");
  const Basis basis = Basis::of(x[1]);
  for (size_t p = 0; p < parts; p++) {
    const auto& old = x[1 + p];
    bool fits = basis.matches(old) && has_shape(y[p], basis.type, old.dimensions(), 1);
    for (size_t i = 1 + parts + p; i < x.size(); i += parts)
      fits = fits && has_shape(x[i], basis.type, old.dimensions(), 1);
    if (!fits) return wrong("parts of the basis and of the vector do not fit");
  }
  const auto &h = y[parts], &size = y[parts + 1];
  if (!basis.is_vector(h)) return wrong("coefficients do not fit the basis");
  if (size.element_type() != basis.type || size.element_count() != 1)
    return wrong("the size is not one number");
  const int64_t used = value_of(x[0]);
  if (used < 0 || used > basis.m1)
    return wrong(std::to_string(used) + " vectors of " + std::to_string(basis.m1));
  return computed(basis.type, [&](auto one) {
    using T = decltype(one);
    std::vector<Part<T>> all;
    for (size_t p = 0; p < parts; p++) {
      in_place(x[1 + parts + p], y[p]);
      const T* image = apart ? x[1 + 2 * parts + p].typed_data<T>() : nullptr;
      all.push_back(
          {x[1 + p].typed_data<T>(), image, y[p].typed_data<T>(), basis.row_length(x[1 + p])});
    }
    T* out = static_cast<T*>(h.untyped_data());
    std::fill_n(out, basis.c * basis.m1, T(0));
    *size.typed_data<T>() = project(all, basis.c, int(used), out);
  });
}

// kept, q, a basis -> its vectors but the last turned by the leading columns of q, and the
// last one after them. What follows is left as it was.
ffi::Error Rotate(ffi::AnyBuffer kept_, ffi::AnyBuffer q, ffi::AnyBuffer old,
                  ffi::Result<ffi::AnyBuffer> made) {
  if (!is_index(kept_)) return wrong("`kept` is not an integer");
  if (!Basis::is_one(old)) return wrong("not a basis");
  const Basis basis = Basis::of(old);
  const int64_t m = basis.m1 - 1, kept = value_of(kept_);
  const auto dims = q.dimensions();
  if (q.element_type() != with_parts(basis.type, basis.c) || dims.size() != 2 ||
      dims[0] != basis.m1 || dims[1] != basis.m1)
    return wrong("the rotation does not fit the basis");
  if (!has_shape(*made, basis.type, old.dimensions())) return wrong("the result does not fit");
  if (kept < 0 || kept > m)
    return wrong(std::to_string(kept) + " vectors kept of " + std::to_string(m));
  in_place(old, *made);
  return computed(basis.type, [&](auto one) {
    using T = decltype(one);
    rotate(made->typed_data<T>(), basis.row_length(old), basis.c, int(m), int(kept),
           static_cast<const T*>(q.untyped_data()));
  });
}

}  // namespace

#pragma GCC visibility push(default)

// Of which source this was built.
extern "C" const char* implicit_eig_source() { return IMPLICIT_EIG_SOURCE; }

XLA_FFI_DEFINE_HANDLER_SYMBOL(implicit_eig_orthogonalise, Orthogonalise,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(implicit_eig_project, Project,
                              ffi::Ffi::Bind().RemainingArgs().RemainingRets());
XLA_FFI_DEFINE_HANDLER_SYMBOL(implicit_eig_rotate, Rotate,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

#pragma GCC visibility pop
