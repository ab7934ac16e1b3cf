// The loops of the kernels on arrays of exactly the size they may touch, for a build with
// sanitizers (test_kernels.py). Says how many cases were right.
#define IMPLICIT_EIG_PLAIN
#define IMPLICIT_EIG_SOURCE "driver"
#include "kernels.cc"

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

}  // namespace

int main() {
  for (int c : {1, 2})
    for (const auto& n : std::vector<std::vector<int64_t>>{
             {1}, {3}, {31}, {33, 5}, {1000, 1}, {2049}, {5000, 17}})
      for (int m1 : {2, 3, 9, 12, 21}) {
        grow<float>(c, n, m1, 1e-5);
        grow<double>(c, n, m1, 1e-13);
      }
  std::printf("%d cases\n", cases);
}
