// The loops of the kernels on arrays of exactly the size they may touch, for a build with
// sanitizers (test_kernels.py). Says how many cases were right.
#define IMPLICIT_EIG_PLAIN
#define IMPLICIT_EIG_SOURCE "driver"
#include "kernels.cc"
#include "restart.cc"

#include <complex>
#include <cstdio>
#include <cstdlib>
#include <random>

namespace {

int cases = 0;

void expect(bool right, const char* what, int c, int used, int64_t n) {
  cases++;
  if (right) return;
  std::printf("%s: c = %d, used = %d, n = %ld\n", what, c, used, long(n));
  std::exit(1);
}

template <typename T>
std::vector<T> random_numbers(size_t size) {
  static std::mt19937 engine;
  std::normal_distribution<double> normal;
  std::vector<T> x(size);
  for (T& y : x) y = T(normal(engine));
  return x;
}

// <a, b> of vectors of two parts.
template <typename T>
std::complex<double> inner(int c, const std::vector<const T*>& a,
                           const std::vector<const T*>& b, const std::vector<int64_t>& n) {
  std::complex<double> sum = 0;
  for (size_t p = 0; p < n.size(); p++)
    for (int64_t i = 0; i < n[p]; i++) {
      const std::complex<double> x(a[p][i], c == 2 ? a[p][n[p] + i] : 0);
      const std::complex<double> y(b[p][i], c == 2 ? b[p][n[p] + i] : 0);
      sum += std::conj(x) * y;
    }
  return sum;
}

template <typename T>
void grow(int c, const std::vector<int64_t>& n, int m1, double tolerance) {
  int64_t length = 0;
  std::vector<std::vector<T>> bases;
  for (int64_t x : n) bases.emplace_back(size_t(m1) * c * x), length += x;
  const auto vector = [&](int r) {
    std::vector<const T*> all;
    for (size_t p = 0; p < n.size(); p++) all.push_back(bases[p].data() + r * c * n[p]);
    return all;
  };
  for (int used = 0; used < m1; used++) {
    std::vector<std::vector<T>> w;
    std::vector<Part<T>> parts;
    for (size_t p = 0; p < n.size(); p++) w.push_back(random_numbers<T>(c * n[p]));
    for (size_t p = 0; p < n.size(); p++)
      parts.push_back({bases[p].data(), nullptr, w[p].data(), n[p]});
    std::vector<T> h(c * m1);
    const bool broken = orthogonalise(parts, c, used, used, h.data());
    if (used >= length) {  // there is no further direction
      expect(broken, "breakdown", c, used, length);
      return;
    }
    expect(!broken, "no breakdown", c, used, length);
    for (int r = 0; r <= used; r++) {
      const double want = r == used;
      expect(std::abs(inner<T>(c, vector(r), vector(used), n) - want) < tolerance,
             "orthonormal", c, used, length);
    }
    // Apart from the basis, with coefficients of an image.
    std::vector<std::vector<T>> image;
    for (size_t p = 0; p < n.size(); p++) image.push_back(random_numbers<T>(c * n[p]));
    for (size_t p = 0; p < n.size(); p++) parts[p].image = image[p].data();
    std::fill(h.begin(), h.end(), T(0));
    const T size = project(parts, c, used, h.data());
    expect(std::isfinite(size), "projection", c, used, length);
    if (used + 1 == length) continue;  // there is nothing else to put there
    // Another vector in the place of the last one.
    for (size_t p = 0; p < n.size(); p++) {
      w[p] = random_numbers<T>(c * n[p]);
      parts[p] = {bases[p].data(), nullptr, w[p].data(), n[p]};
    }
    std::fill(h.begin(), h.end(), T(0));
    orthogonalise(parts, c, used + 1, used, h.data());
  }
  const int m = m1 - 1;
  for (int kept = 0; kept <= m; kept++) {
    std::vector<T> turned = bases[0];
    std::vector<T> q(size_t(m1) * m1 * c);
    for (int i = 0; i < m; i++) q[(i * m1 + (i + 1) % m) * c] = 1;  // v_j <- v_(j - 1)
    rotate(turned.data(), n[0], c, m, kept, q.data());
    for (int r = 0; r < kept; r++) {
      const T* from = bases[0].data() + ((r + m - 1) % m) * c * n[0];
      expect(std::equal(from, from + c * n[0], turned.data() + r * c * n[0]), "rotation", c,
             kept, n[0]);
    }
    const T* last = bases[0].data() + m * c * n[0];
    expect(std::equal(last, last + c * n[0], turned.data() + kept * c * n[0]), "last", c, kept,
           n[0]);
  }
}

// Stand-ins for LAPACK, which is not here: a matrix is taken for its own Schur form, and no
// block can be told from its neighbours. They touch all that LAPACK would.
template <typename T>
void stand_in_gees(int m, T* a, T* z, T* work, int length) {
  for (int i = 0; i < m; i++)
    for (int j = 0; j < m; j++) a[i * m + j] *= 1, z[i * m + j] = T(i == j);
  std::fill_n(work, length, T(0));
}

void real_gees(const char*, const char*, void*, int* m, double* a, int*, int* none, double* re,
               double* im, double* z, int*, double* work, int* length, int*, int* info) {
  stand_in_gees(*m, a, z, work, *length);
  *none = *info = 0;
  for (int i = 0; i < *m; i++) re[i] = a[i * *m + i], im[i] = 0;
  for (int i = 0; i + 1 < *m; i++)
    if (a[i * *m + i + 1] != 0) im[i] = 1, im[i + 1] = -1;
}

void complex_gees(const char*, const char*, void*, int* m, std::complex<double>* a, int*,
                  int* none, std::complex<double>* w, std::complex<double>* z, int*,
                  std::complex<double>* work, int* length, double* more, int*, int* info) {
  stand_in_gees(*m, a, z, work, *length);
  *none = *info = 0;
  for (int i = 0; i < *m; i++) w[i] = a[i * *m + i], more[i] = 0;
}

void real_trevc(const char*, const char*, int*, int* m, double*, int*, double*, int*, double* z,
                int*, int*, int* found, double* work, int* info) {
  for (int i = 0; i < *m * *m; i++) z[i] += 0;
  std::fill_n(work, 3 * *m, 0.0);
  *found = *m, *info = 0;
}

void complex_trevc(const char*, const char*, int*, int* m, std::complex<double>*, int*,
                   std::complex<double>*, int*, std::complex<double>* z, int*, int*, int* found,
                   std::complex<double>* work, double* more, int* info) {
  for (int i = 0; i < *m * *m; i++) z[i] += 0;
  std::fill_n(work, 2 * *m, 0.0);
  std::fill_n(more, *m, 0.0);
  *found = *m, *info = 0;
}

int moves = 0;  // every third is given up half way

int reached(int first, int last) { return moves++ % 3 ? last : (first + last) / 2; }

void real_trexc(const char*, int* m, double* t, int*, double* z, int*, int* first, int* last,
                double* work, int* info) {
  *last = reached(*first, *last), *info = 0;
  for (int i = 0; i < *m * *m; i++) t[i] += 0, z[i] += 0;
  if (moves % 5 == 0)
    for (int i = 0; i + 1 < *m; i++) t[i * *m + i + 1] = 0;  // all pairs become real
  std::fill_n(work, *m, 0.0);
}

void complex_trexc(const char*, int* m, std::complex<double>* t, int*, std::complex<double>* z,
                   int*, int* first, int* last, int* info) {
  *last = reached(*first, *last), *info = 0;
  for (int i = 0; i < *m * *m; i++) t[i] += 0, z[i] += 0;
}

template <typename T>
void restart(int m) {
  std::vector<T> a(m * m), t(m * m), z(m * m), q(m * m);
  std::vector<std::complex<double>> values(m), vectors(m * m);
  for (int i = 0; i < m; i++) a[i * m + i] = i + 1;
  if constexpr (std::is_same_v<T, double>)
    for (int i = 0; i + 1 < m; i += 3) a[(i + 1) * m + i] = -1;  // every third two rows
  schur(m, a.data(), values.data(), vectors.data(), t.data(), z.data());
  expect(t == a, "Schur form", 1, m, m);
  for (int shift = 0; shift < m; shift++)
    for (int keep = 0; keep <= m; keep++) {
      std::vector<int> order(m);
      for (int i = 0; i < m; i++) order[i] = shift == m - 1 ? m - 1 - i : (i + shift) % m;
      reorder(m, keep, order, t.data(), z.data(), q.data());
      expect(q == z, "order", 1, keep, m);
    }
}

}  // namespace

int main() {
  void* lapack[12] = {nullptr, nullptr, nullptr, (void*)real_gees, (void*)real_trevc,
                      (void*)real_trexc, nullptr, nullptr, nullptr, (void*)complex_gees,
                      (void*)complex_trevc, (void*)complex_trexc};
  implicit_eig_lapack(lapack);
  for (int m : {1, 2, 3, 7, 20}) {
    restart<double>(m);
    restart<std::complex<double>>(m);
  }
  for (int c : {1, 2})
    for (const auto& n : std::vector<std::vector<int64_t>>{
             {1}, {3}, {31}, {33, 5}, {1000, 1}, {2049}, {5000, 17}})
      for (int m1 : {2, 3, 9, 12, 21}) {
        grow<float>(c, n, m1, 1e-5);
        grow<double>(c, n, m1, 1e-13);
      }
  std::printf("%d cases\n", cases);
}
