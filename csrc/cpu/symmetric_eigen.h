// Eigenvectors of a small symmetric matrix, by the textbook: Householder reflections make it tridiagonal, implicit QL
// steps diagonal (Golub & Van Loan 8.3; EISPACK's tred2 and tql2). Everything that grows with a row's length runs along
// rows padded to whole vectors, and a step's rotations are found before they are applied. 142 µs at 64 rows on a 2-core
// EPYC with AVX-512 where LAPACK's divide and conquer takes 242; at 96 rows 480 and 516; then LAPACK is ahead.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "cpu/lanes.h"

namespace wassrank::cpu::WASSRANK_ISA {

class SymmetricEigen {
 public:
  // How many doubles it wants room for.
  static int64_t room(int64_t n) { return (3 * n + 7) * width_of(n); }

  // Of `scale` * `G` [n, n], whose entries are of order one, so that squares neither overflow nor vanish. `room` begins
  // where a cache line does.
  SymmetricEigen(const double* G, int64_t n, double scale, double* room) : n_(n), width_(width_of(n)) {
    std::fill(room, room + SymmetricEigen::room(n), 0.0);
    for (double** matrix : {&G_, &V_, &reflectors_}) {
      *matrix = room;
      room += n * width_;
    }
    for (double** row : {&d_, &e_, &betas_, &p_, &w_, &cosines_, &sines_}) {
      *row = room;
      room += width_;
    }
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) G_[i * width_ + j] = scale * G[i * n + j];
    }
  }

  // False where QL does not converge.
  bool run() {
    make_tridiagonal();
    form_vectors();
    return diagonalise();
  }

  const double* vector(int64_t k) const { return V_ + k * width_; }
  double value(int64_t k) const { return d_[k]; }

 private:
  static int64_t width_of(int64_t n) { return (n + kLanes - 1) / kLanes * kLanes; }
  // The vector in which a column lies begins at:
  static int64_t start(int64_t column) { return column / kLanes * kLanes; }

  // Of whole rows from column `from`, a vector's first.
  double product(const double* x, const double* y, int64_t from) const {
    Lanes even{}, odd{};
    int64_t j = from;
    for (; j + 2 * kLanes <= width_; j += 2 * kLanes) {
      even += load_lanes(x + j) * load_lanes(y + j);
      odd += load_lanes(x + j + kLanes) * load_lanes(y + j + kLanes);
    }
    if (j < width_) even += load_lanes(x + j) * load_lanes(y + j);
    even += odd;
    double sum = 0;
    for (int64_t lane = 0; lane < kLanes; ++lane) sum += even[lane];
    return sum;
  }

  // G <- H_k G H_k with H_k = 1 - beta v v^T leaves column k with its diagonal and one more. The update of step k, G -=
  // v w^T + w v^T, and the product G v of step k + 1 are one sweep over the rows. v and w are 0 up to column k.
  void make_tridiagonal() {
    for (int64_t k = 0; k < n_; ++k) {
      const double* last = k ? reflectors_ + (k - 1) * width_ : nullptr;
      double* row = G_ + k * width_;
      if (last) update(row, last, k, start(k));
      d_[k] = row[k];
      if (k + 1 == n_) return;
      double* v = reflectors_ + k * width_;
      std::copy(row + k + 1, row + n_, v + k + 1);
      betas_[k] = reflect(v, k + 1);
      const int64_t from = start(k + 1);
      for (int64_t i = k + 1; i < n_; ++i) {
        double* of = G_ + i * width_;
        if (last) update(of, last, i, from);
        p_[i] = betas_[k] * product(of, v, from);
      }
      p_[k] = w_[k] = 0;
      const double half = betas_[k] / 2 * product(p_, v, from);
      for (int64_t i = from; i < width_; i += kLanes)
        store_lanes(load_lanes(p_ + i) - half * load_lanes(v + i), w_ + i);
    }
  }

  void update(double* row, const double* v, int64_t i, int64_t from) const {
    const double v_i = v[i], w_i = w_[i];
    const double* w = w_;
    for (int64_t j = from; j < width_; j += kLanes) {
      store_lanes(load_lanes(row + j) - v_i * load_lanes(w + j) - w_i * load_lanes(v + j), row + j);
    }
  }

  // x[from ...] becomes the v that takes it to a multiple of the first unit vector, noted as off-diagonal; returns
  // beta.
  double reflect(double* x, int64_t from) {
    const double head = x[from], squared = product(x, x, start(from));
    const double rest = squared - head * head, length = std::sqrt(squared);
    if (!(rest > 0)) {
      e_[from - 1] = head;
      std::fill(x + from, x + n_, 0.0);
      return 0;
    }
    e_[from - 1] = head > 0 ? -length : length;
    x[from] = head - e_[from - 1];
    return 1 / (length * std::abs(x[from]));  // 2 / |v|^2
  }

  // Rows of V_: columns of H_0 H_1 ...
  void form_vectors() {
    for (int64_t i = 0; i < n_; ++i) V_[i * width_ + i] = 1;
    for (int64_t k = n_ - 2; k >= 0; --k) {
      const double* v = reflectors_ + k * width_;
      const int64_t from = start(k + 1);
      for (int64_t i = k + 1; i < n_; ++i) {
        double* row = V_ + i * width_;
        const double factor = betas_[k] * product(row, v, from);
        for (int64_t j = from; j < width_; j += kLanes)
          store_lanes(load_lanes(row + j) - factor * load_lanes(v + j), row + j);
      }
    }
  }

  bool diagonalise() {
    constexpr int kMostSteps = 60;  // two or three do
    double size = 0, shift = 0;
    for (int64_t l = 0; l < n_; ++l) {
      size = std::max(size, std::abs(d_[l]) + std::abs(e_[l]));
      const double negligible = std::numeric_limits<double>::epsilon() * size;
      int64_t m = l;
      while (std::abs(e_[m]) > negligible) ++m;  // the last is 0
      for (int step = 0; m > l && std::abs(e_[l]) > negligible; ++step) {
        if (step == kMostSteps) return false;
        shift += ql_step(l, m);
        rotate_vectors(l, m);
      }
      d_[l] += shift;
      e_[l] = 0;
    }
    return true;
  }

  // Of rows l ... m; returns what it took off the diagonal from l on.
  double ql_step(int64_t l, int64_t m) {
    double *d = d_, *e = e_;
    double g = d[l], p = (d[l + 1] - g) / (2 * e[l]);
    const double root = std::copysign(std::sqrt(p * p + 1), p);
    d[l] = e[l] / (p + root);
    d[l + 1] = e[l] * (p + root);
    const double below = d[l + 1], moved = g - d[l], e_below = e[l + 1];
    for (int64_t i = l + 2; i < n_; ++i) d[i] -= moved;
    p = d[m];
    double c = 1, c2 = 1, c3 = 1, s = 0, s2 = 0;
    for (int64_t i = m - 1; i >= l; --i) {
      c3 = c2;
      c2 = c;
      s2 = s;
      g = c * e[i];
      const double h = c * p, r = std::sqrt(p * p + e[i] * e[i]), inverse = 1 / r;
      const double next = p * d[i] - e[i] * g;  // before the root is known: all else waits for p
      e[i + 1] = s * r;
      cosines_[i] = c = p * inverse;
      sines_[i] = s = e[i] * inverse;
      p = next * inverse;
      d[i + 1] = h + s * (c * g + s * d[i]);
    }
    p = -s * s2 * c3 * e_below * e[l] / below;
    e[l] = s * p;
    d[l] = c * p;
    return moved;
  }

  // Rows i and i + 1 for i from m - 1 down to l, some vectors of columns at a time: row i + 1 is then in registers.
  void rotate_vectors(int64_t l, int64_t m) {
    int64_t at = 0;
    for (; at + 4 * kLanes <= width_; at += 4 * kLanes) rotate_columns<4>(l, m, at);
    for (; at < width_; at += kLanes) rotate_columns<1>(l, m, at);
  }

  template <int kVectors>
  void rotate_columns(int64_t l, int64_t m, int64_t at) {
    Lanes next[kVectors];
    double* row = V_ + m * width_ + at;
    for (int v = 0; v < kVectors; ++v) next[v] = load_lanes(row + v * kLanes);
    for (int64_t i = m - 1; i >= l; --i) {
      const double c = cosines_[i], s = sines_[i];
      double* above = row - width_;
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        const Lanes x = load_lanes(above + v * kLanes);
        store_lanes(s * x + c * next[v], row + v * kLanes);
        next[v] = c * x - s * next[v];
      }
      row = above;
    }
    for (int v = 0; v < kVectors; ++v) store_lanes(next[v], row + v * kLanes);
  }

  const int64_t n_, width_;
  double *G_, *V_, *reflectors_, *d_, *e_, *betas_, *p_, *w_, *cosines_, *sines_;
};

// Eigenvectors of A^T A = `gram` [n, n] in the rows of `V` [n, n], those first whose eigenvalues are at most `split`
// times the largest. Returns how many these are; -1 where the iteration gave up.
inline int64_t gram_eigenvectors(const double* gram, int64_t n, double split, double* V) {
  double trace = 0;
  for (int64_t i = 0; i < n; ++i) trace += gram[i * n + i];
  static thread_local AlignedDoubles room;  // fresh pages would cost a fourth of the time
  room.resize(SymmetricEigen::room(n));
  SymmetricEigen eigen(gram, n, trace > 0 ? 1 / trace : 0, room.data());
  if (!eigen.run()) return -1;
  double largest = 0;
  for (int64_t k = 0; k < n; ++k) largest = std::max(largest, eigen.value(k));
  int64_t lower = 0, upper = n;
  for (int64_t k = 0; k < n; ++k) {
    const int64_t to = eigen.value(k) <= split * largest ? lower++ : --upper;
    std::copy(eigen.vector(k), eigen.vector(k) + n, V + to * n);
  }
  return lower;
}

}  // namespace wassrank::cpu::WASSRANK_ISA
