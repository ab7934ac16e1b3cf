// What a restart does with the projected matrix, by LAPACK: one Schur form gives the Ritz
// values and vectors, and, put into the order in which they are wanted, the rotation of the
// basis. XLA knows of no routine that reorders.
//
// LAPACK is SciPy's, which JAX itself calls: Python hands over its functions.

#include <cmath>
#include <complex>
#include <limits>
#include <type_traits>
#include <vector>

#include "handlers.h"

namespace {

// ---------------------------------------------------------------- LAPACK

template <typename T>
constexpr bool is_complex = !std::is_arithmetic_v<T>;

template <typename T>
struct RealOf {
  using type = T;
};
template <typename R>
struct RealOf<std::complex<R>> {
  using type = R;
};
template <typename T>
using Real = typename RealOf<T>::type;
template <typename T>
using Complex = std::complex<Real<T>>;

// The functions, in the order in which they are handed over: those of float, double and
// their complex numbers, of each gees, trevc and trexc.
void* functions[12];

template <typename T>
constexpr int first_of = 3 * (2 * is_complex<T> + std::is_same_v<Real<T>, double>);

// A = Z T Zᴴ, A overwritten by T. Returns LAPACK's `info`.
template <typename T>
int gees(int m, T* a, Complex<T>* values, T* z) {
  using R = Real<T>;
  std::vector<T> work(40 * m);
  int none = 0, length = int(work.size()), info = 0;
  void* f = functions[first_of<T>];
  if constexpr (is_complex<T>) {
    std::vector<R> more(m);
    using F = void(const char*, const char*, void*, int*, T*, int*, int*, T*, T*, int*, T*, int*,
                   R*, int*, int*);
    reinterpret_cast<F*>(f)("V", "N", nullptr, &m, a, &m, &none, values, z, &m, work.data(),
                            &length, more.data(), nullptr, &info);
  } else {
    std::vector<R> re(m), im(m);
    using F = void(const char*, const char*, void*, int*, T*, int*, int*, T*, T*, T*, int*, T*,
                   int*, int*, int*);
    reinterpret_cast<F*>(f)("V", "N", nullptr, &m, a, &m, &none, re.data(), im.data(), z, &m,
                            work.data(), &length, nullptr, &info);
    for (int i = 0; i < m; i++) values[i] = {re[i], im[i]};
  }
  return info;
}

// Z, overwritten by the eigenvectors Z X of A: of a real pair real and imaginary parts.
template <typename T>
int trevc(int m, T* t, T* z) {
  using R = Real<T>;
  std::vector<T> work(3 * m);
  int found = 0, info = 0;
  void* f = functions[first_of<T> + 1];
  if constexpr (is_complex<T>) {
    std::vector<R> more(m);
    using F = void(const char*, const char*, int*, int*, T*, int*, T*, int*, T*, int*, int*, int*,
                   T*, R*, int*);
    reinterpret_cast<F*>(f)("R", "B", nullptr, &m, t, &m, nullptr, &m, z, &m, &m, &found,
                            work.data(), more.data(), &info);
  } else {
    using F = void(const char*, const char*, int*, int*, T*, int*, T*, int*, T*, int*, int*, int*,
                   T*, int*);
    reinterpret_cast<F*>(f)("R", "B", nullptr, &m, t, &m, nullptr, &m, z, &m, &m, &found,
                            work.data(), &info);
  }
  return info;
}

// Moves the block at row `from` to row `to`, or as far as it can be told from its
// neighbours, and returns where it stands. Rows are counted from zero.
template <typename T>
int trexc(int m, T* t, T* z, int from, int to) {
  int first = from + 1, last = to + 1, info = 0;
  void* f = functions[first_of<T> + 2];
  if constexpr (is_complex<T>) {
    using F = void(const char*, int*, T*, int*, T*, int*, int*, int*, int*);
    reinterpret_cast<F*>(f)("V", &m, t, &m, z, &m, &first, &last, &info);
  } else {
    std::vector<T> work(m);
    using F = void(const char*, int*, T*, int*, T*, int*, int*, int*, T*, int*);
    reinterpret_cast<F*>(f)("V", &m, t, &m, z, &m, &first, &last, work.data(), &info);
  }
  return last - 1;
}

// ---------------------------------------------------------------- a restart

template <typename T>
void transpose(int m, const T* from, T* to) {  // rows for Python, columns for LAPACK
  for (int i = 0; i < m; i++)
    for (int j = 0; j < m; j++) to[size_t(j) * m + i] = from[size_t(i) * m + j];
}

// The power of two that divides a matrix of extreme size, whose squares under- or overflow.
template <typename T>
int exponent_of(int m, const T* a) {
  using R = Real<T>;
  R largest = 0;
  for (size_t i = 0; i < size_t(m) * m; i++) largest = std::max(largest, R(std::abs(a[i])));
  int exponent = 0;
  if (largest > 0) std::frexp(largest, &exponent);
  return std::abs(exponent) > std::numeric_limits<R>::max_exponent / 4 ? exponent : 0;
}

template <typename T>
void scale(std::vector<T>& x, int exponent) {
  for (T& y : x)
    if constexpr (is_complex<T>)
      y = {std::ldexp(y.real(), exponent), std::ldexp(y.imag(), exponent)};
    else
      y = std::ldexp(y, exponent);
}

// Eigenvalues, eigenvectors of norm one, T (of extreme size: up to a power of two) and Z;
// NaN where the QR iteration fails.
template <typename T>
void schur(int m, const T* a, Complex<T>* values, Complex<T>* vectors, T* t, T* z) {
  using R = Real<T>;
  std::vector<T> triangle(size_t(m) * m), turn(size_t(m) * m);
  transpose(m, a, triangle.data());
  const int exponent = exponent_of(m, a);
  if (exponent != 0) scale(triangle, -exponent);
  bool failed = gees(m, triangle.data(), values, turn.data()) != 0;
  transpose(m, triangle.data(), t);
  transpose(m, turn.data(), z);
  failed = failed || trevc(m, triangle.data(), turn.data()) != 0;
  if (failed) {
    const R nan = std::numeric_limits<R>::quiet_NaN();
    std::fill_n(values, m, Complex<T>(nan, nan));
    std::fill_n(vectors, size_t(m) * m, Complex<T>(nan, nan));
    return;
  }
  for (int j = 0; j < m; j++) {
    const bool pair = !is_complex<T> && j + 1 < m && values[j].imag() > 0;
    const T* x = turn.data() + size_t(j) * m;
    std::vector<Complex<T>> v(m);
    for (int i = 0; i < m; i++) {
      if constexpr (is_complex<T>)
        v[i] = x[i];
      else
        v[i] = {x[i], pair ? x[m + i] : R(0)};
    }
    R norm = 0;
    for (const auto& y : v) norm = std::hypot(norm, std::abs(y));
    if (norm > 0)
      for (auto& y : v) y /= norm;
    for (int i = 0; i < m; i++) {
      vectors[size_t(i) * m + j] = v[i];
      if (pair) vectors[size_t(i) * m + j + 1] = std::conj(v[i]);
    }
    if (pair) j++;
  }
  if (exponent != 0)
    for (int j = 0; j < m; j++)
      values[j] = {std::ldexp(values[j].real(), exponent), std::ldexp(values[j].imag(), exponent)};
}

// A diagonal block of T: the row at which it stood at first, and how many rows it has.
struct Block {
  int row, size;
};

// Two rows that belong together, unless a swap has set a real pair of values apart.
template <typename T>
void split(int m, const T* t, std::vector<Block>& blocks) {
  if constexpr (!is_complex<T>) {
    int row = 0;
    for (size_t i = 0; i < blocks.size(); row += blocks[i++].size)
      if (blocks[i].size == 2 && t[size_t(row) * m + row + 1] == 0) {
        blocks[i].size = 1;
        blocks.insert(blocks.begin() + i + 1, Block{blocks[i].row + 1, 1});
      }
  }
}

// Columns that are orthonormal to some dozen roundings, to one: each restart would add to it.
template <typename T>
void orthonormalise(int m, T* z) {
  for (int j = 0; j < m; j++) {
    T* x = z + size_t(j) * m;
    for (int i = 0; i < j; i++) {
      const T* y = z + size_t(i) * m;
      T dot = 0;
      for (int r = 0; r < m; r++) {
        if constexpr (is_complex<T>)
          dot += std::conj(y[r]) * x[r];
        else
          dot += y[r] * x[r];
      }
      for (int r = 0; r < m; r++) x[r] -= dot * y[r];
    }
    Real<T> size = 0;
    for (int r = 0; r < m; r++) size += std::norm(x[r]);
    size = std::sqrt(size);
    for (int r = 0; r < m; r++) x[r] /= size;
  }
}

// Z whose leading columns belong to the eigenvalues that stood at rows order[0], order[1],
// ..., order[keep - 1] of T. Of two that cannot be told apart either may stand for the other.
template <typename T>
void reorder(int m, int keep, const std::vector<int>& order, const T* t_, const T* z_, T* out) {
  std::vector<T> t(size_t(m) * m), z(size_t(m) * m);
  transpose(m, t_, t.data());
  transpose(m, z_, z.data());
  std::vector<Block> blocks;
  for (int i = 0; i < m; i += blocks.back().size) {
    bool two = false;
    if constexpr (!is_complex<T>) two = i + 1 < m && t[size_t(i) * m + i + 1] != 0;
    blocks.push_back({i, two ? 2 : 1});
  }
  size_t placed = 0;
  int top = 0;  // the rows of the blocks that are placed
  for (int i = 0; i < keep; i++) {
    size_t at = placed;
    int row = top;
    while (at < blocks.size() && !(blocks[at].row <= order[i] &&
                                   order[i] < blocks[at].row + blocks[at].size))
      row += blocks[at++].size;
    if (at == blocks.size()) continue;  // the second row of a block that is placed
    if (row != top) {
      const int to = trexc(m, t.data(), z.data(), row, top);
      const Block moved = blocks[at];
      blocks.erase(blocks.begin() + at);
      size_t where = placed;
      for (int above = top; where < blocks.size() && above < to; where++)
        above += blocks[where].size;
      blocks.insert(blocks.begin() + where, moved);
      split(m, t.data(), blocks);
    }
    top += blocks[placed++].size;
  }
  orthonormalise(m, z.data());
  transpose(m, z.data(), out);
}

// ---------------------------------------------------------------- handlers

// f with a number of the matrix's type.
template <typename F>
ffi::Error computed_with(ffi::DataType type, F&& f) {
  const bool doubles = type == ffi::F64 || type == ffi::C128;
  return computed(doubles ? ffi::F64 : ffi::F32, [&](auto one) {
    using R = decltype(one);
    if (type == ffi::F32 || type == ffi::F64)
      f(R{});
    else
      f(std::complex<R>{});
  });
}

bool is_square(const ffi::AnyBuffer& x) {
  const auto dims = x.dimensions();
  const auto type = x.element_type();
  return dims.size() == 2 && dims[0] > 0 && dims[0] == dims[1] && dims[0] < 1 << 15 &&
         (type == ffi::F32 || type == ffi::F64 || type == ffi::C64 || type == ffi::C128);
}

ffi::DataType complex_of(ffi::DataType type) {
  return type == ffi::F32 || type == ffi::C64 ? ffi::C64 : ffi::C128;
}

// a matrix -> eigenvalues, eigenvectors, T and Z
ffi::Error Schur(ffi::AnyBuffer a, ffi::Result<ffi::AnyBuffer> values,
                 ffi::Result<ffi::AnyBuffer> vectors, ffi::Result<ffi::AnyBuffer> t,
                 ffi::Result<ffi::AnyBuffer> z) {
  if (!is_square(a)) return wrong("not a square matrix of numbers");
  const auto dims = a.dimensions();
  const auto type = a.element_type(), wide = complex_of(type);
  if (!has_shape(*values, wide, dims, 1) || !has_shape(*vectors, wide, dims) ||
      !has_shape(*t, type, dims) || !has_shape(*z, type, dims))
    return wrong("results do not fit the matrix");
  return computed_with(type, [&](auto one) {
    using T = decltype(one);
    schur(int(dims[0]), static_cast<const T*>(a.untyped_data()),
          static_cast<Complex<T>*>(values->untyped_data()),
          static_cast<Complex<T>*>(vectors->untyped_data()), static_cast<T*>(t->untyped_data()),
          static_cast<T*>(z->untyped_data()));
  });
}

// keep, order, what XLA would need instead of the rest, T, Z -> the rotation
ffi::Error Reorder(ffi::AnyBuffer keep_, ffi::AnyBuffer order_, ffi::AnyBuffer, ffi::AnyBuffer,
                   ffi::AnyBuffer, ffi::AnyBuffer, ffi::AnyBuffer t, ffi::AnyBuffer z,
                   ffi::Result<ffi::AnyBuffer> out) {
  if (!is_index(keep_)) return wrong("`keep` is not an integer");
  if (!is_square(t)) return wrong("not a square matrix of numbers");
  const auto dims = t.dimensions();
  const auto type = t.element_type(), whole = order_.element_type();
  if (!has_shape(z, type, dims) || !has_shape(*out, type, dims))
    return wrong("matrices do not fit one another");
  if ((whole != ffi::S32 && whole != ffi::S64) || !has_shape(order_, whole, dims, 1))
    return wrong("the order does not fit the matrix");
  const int m = int(dims[0]);
  const int64_t keep = value_of(keep_);
  if (keep < 0 || keep > m)
    return wrong(std::to_string(keep) + " vectors kept of " + std::to_string(m));
  return computed_with(type, [&](auto one) {
    using T = decltype(one);
    std::vector<int> order(m);
    for (int i = 0; i < m; i++)
      order[i] = whole == ffi::S32 ? order_.typed_data<int32_t>()[i]
                                   : int(order_.typed_data<int64_t>()[i]);
    reorder(m, int(keep), order, static_cast<const T*>(t.untyped_data()),
            static_cast<const T*>(z.untyped_data()), static_cast<T*>(out->untyped_data()));
  });
}

}  // namespace

#pragma GCC visibility push(default)

// Before the first call.
extern "C" void implicit_eig_lapack(void* const* given) {
  std::copy_n(given, 12, functions);
}

XLA_FFI_DEFINE_HANDLER_SYMBOL(implicit_eig_schur, Schur,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());
XLA_FFI_DEFINE_HANDLER_SYMBOL(implicit_eig_reorder, Reorder,
                              ffi::Ffi::Bind()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Arg<ffi::AnyBuffer>()
                                  .Ret<ffi::AnyBuffer>());

#pragma GCC visibility pop
