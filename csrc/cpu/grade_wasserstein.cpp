// Grade-axis Wasserstein on the CPU: level path, forward and backward. Formulas: wassrank/ops/grade_wasserstein.py
// (what is kept between the passes) and wassrank/reference/transport.py (cost and potential).
//
// One read of the scores each way. A row is walked in blocks that fit the first-level cache, carrying a running maximum
// and the level masses relative to it. Rows run in parallel; a row longer than kChunk is cut into chunks of that fixed
// size, so the bits of the result do not depend on the number of threads.
//
// Compiled once for each instruction set, with WASSRANK_ISA naming it.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <memory>
#include <type_traits>
#include <vector>

#include "common/level_transport.h"
#include "common/target_gain.h"
#include "cpu/kernels.h"
#include "cpu/simd.h"

namespace wassrank::cpu {
namespace WASSRANK_ISA {
namespace {

constexpr int64_t kChunk = 1 << 15;
// Scores a thread should get at least: below this, waking one costs more than it saves.
constexpr int64_t kGrainScores = 1 << 13;

constexpr int64_t kNoStray = std::numeric_limits<int64_t>::min();

int64_t chunks_of(const Rows& rows) { return std::max<int64_t>(1, (rows.N + kChunk - 1) / kChunk); }
int64_t grain(const Rows& rows) {
  return std::max<int64_t>(1, kGrainScores / std::max<int64_t>(1, std::min(rows.N, kChunk)));
}

// Calls body(stored type, computing type) as values of those types.
template <class Body>
void with_types(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float64: return body(double{}, double{});
    case Dtype::float32: return body(float{}, float{});
    case Dtype::float16: return body(Half{}, float{});
    case Dtype::bfloat16: return body(BFloat16{}, float{});
  }
}

template <class L>
void copy_labels(const void* labels, int64_t begin, int64_t n, int32_t* level) {
  const L* from = static_cast<const L*>(labels) + begin;
  for (int64_t i = 0; i < n; ++i) {
    // Wide labels are clipped, not wrapped: 2^32 must not look like 0.
    if constexpr (sizeof(L) == 8) {
      level[i] = static_cast<int32_t>(from[i] < -1 ? -1 : from[i] > kMaxLevels ? kMaxLevels : from[i]);
    } else {
      level[i] = static_cast<int32_t>(from[i]);
    }
  }
}

// Levels of the row's own passages in columns [begin, begin + n), all of which the labels cover.
void load_levels(const Rows& rows, int64_t row, int64_t begin, int64_t n, int32_t* level) {
  const int64_t at = row * rows.K + begin - rows.own_begin(row);
  switch (rows.label_bytes) {
    case 8: return copy_labels<int64_t>(rows.labels, at, n, level);
    case 4: return copy_labels<int32_t>(rows.labels, at, n, level);
    case 2: return copy_labels<int16_t>(rows.labels, at, n, level);
    default:
      return rows.label_signed ? copy_labels<int8_t>(rows.labels, at, n, level)
                               : copy_labels<uint8_t>(rows.labels, at, n, level);
  }
}

int64_t label_at(const Rows& rows, int64_t at) {
  switch (rows.label_bytes) {
    case 8: return static_cast<const int64_t*>(rows.labels)[at];
    case 4: return static_cast<const int32_t*>(rows.labels)[at];
    case 2: return static_cast<const int16_t*>(rows.labels)[at];
    default:
      return rows.label_signed ? static_cast<const int8_t*>(rows.labels)[at]
                               : static_cast<const uint8_t*>(rows.labels)[at];
  }
}

// The columns [begin, end) of a row, narrowed to those that can take part, cut into blocks; each block is handed on in
// up to three pieces: other queries' passages, the row's own, others again.
struct Pieces {
  int64_t own_begin, own_end;  // within the block
};
Pieces pieces_of(const Rows& rows, int64_t row, int64_t begin, int64_t n) {
  return {std::clamp<int64_t>(rows.own_begin(row) - begin, 0, n), std::clamp<int64_t>(rows.own_end(row) - begin, 0, n)};
}

// What the first pass knows of a row, or of a chunk of one.
template <class C>
struct RowSums {
  C max = kNegInf<C>;
  double mass[kMaxLevels] = {};    // sums of exp((s - max) / temperature) by level
  double count[kMaxLevels] = {};   // passages that take part, by level
  double target[kMaxLevels] = {};  // given target mass by level

  void raise_max(C higher, int levels, double temperature) {
    if (max != kNegInf<C>) {
      const double shrink = std::exp((static_cast<double>(max) - higher) / temperature);
      for (int l = 0; l < levels; ++l) mass[l] *= shrink;
    }
    max = higher;
  }

  void add(RowSums other, int levels, double temperature) {
    if (other.max > max)
      raise_max(other.max, levels, temperature);
    else
      other.raise_max(max, levels, temperature);
    for (int l = 0; l < levels; ++l) {
      mass[l] += other.mass[l];
      count[l] += other.count[l];
      target[l] += other.target[l];
    }
  }
};

template <class S, class C>
class Forward {
 public:
  explicit Forward(const GradeWassersteinForward& args)
      : args_(args),
        rows_(args.rows),
        inverse_temperature_(static_cast<C>(1 / args.rows.temperature)),
        tie_(kTieUlps * std::numeric_limits<C>::epsilon()),
        ground_(args.p, args.rows.levels),
        row_loss_(args.rows.Q),
        row_weight_(args.rows.Q) {
    for (int l = 0; l < args.rows.levels; ++l) {
      gain_[l] = target_gain(args.target_kind, l, args.label_temperature);
    }
  }

  std::optional<int64_t> run(ParallelFor parallel_for) {
    const int64_t chunks = chunks_of(rows_);
    if (chunks == 1) {
      parallel_for(rows_.Q, grain(rows_), [&](int64_t first, int64_t last) {
        for (int64_t row = first; row < last; ++row) {
          RowSums<C> sums;
          accumulate(row, 0, rows_.N, sums);
          finish(row, sums);
        }
      });
    } else {
      std::vector<RowSums<C>> parts(rows_.Q * chunks);
      parallel_for(rows_.Q * chunks, 1, [&](int64_t first, int64_t last) {
        for (int64_t i = first; i < last; ++i) {
          const int64_t row = i / chunks, begin = i % chunks * kChunk;
          accumulate(row, begin, std::min(begin + kChunk, rows_.N), parts[i]);
        }
      });
      for (int64_t row = 0; row < rows_.Q; ++row) {
        RowSums<C> sums = parts[row * chunks];
        for (int64_t c = 1; c < chunks; ++c) sums.add(parts[row * chunks + c], rows_.levels, rows_.temperature);
        finish(row, sums);
      }
    }
    const int64_t stray = stray_.load(std::memory_order_relaxed);
    if (stray != kNoStray) return stray;
    reduce();
    return std::nullopt;
  }

 private:
  void accumulate(int64_t row, int64_t begin, int64_t end, RowSums<C>& sums) {
    if (rows_.in_batch == kExcluded) {
      begin = std::max(begin, rows_.own_begin(row));
      end = std::min(end, rows_.own_end(row));
    }
    C buffer[kBlock], e[kBlock];
    for (int64_t at = begin; at < end; at += kBlock) {
      const int64_t n = std::min(kBlock, end - at);
      const C* s = load_scores<S>(rows_, row, at, n, buffer);
      const Top<C> top = top_of(s, n);
      if (top.real == 0) continue;
      if (top.max > sums.max) sums.raise_max(top.max, rows_.levels, rows_.temperature);
      exp_block(s, n, sums.max, inverse_temperature_, e);
      const Pieces own = pieces_of(rows_, row, at, n);
      const bool all_real = top.real == n;
      add_others(row, at, s, e, 0, own.own_begin, all_real, sums);
      add_own(row, at, s, e, own, all_real, sums);
      add_others(row, at, s, e, own.own_end, n, all_real, sums);
    }
  }

  // Columns [at + begin, at + end): passages that all count as grade in_batch.
  void add_others(int64_t row, int64_t at, const C* s, const C* e, int64_t begin, int64_t end, bool all_real,
                  RowSums<C>& sums) {
    const int64_t n = end - begin;
    if (n <= 0) return;
    sums.mass[rows_.in_batch] += sum_of(e + begin, n);
    sums.count[rows_.in_batch] += static_cast<double>(all_real ? n : count_real(s + begin, n));
    if (args_.target_kind == Target::given && args_.target_width == rows_.N) {
      const C* target = static_cast<const C*>(args_.target) + row * rows_.N + at;
      double sum = 0;
      for (int64_t i = begin; i < end; ++i) sum += s[i] == kNegInf<C> ? C(0) : target[i];
      sums.target[rows_.in_batch] += sum;
    }
  }

  // The block's columns whose levels the row's labels give.
  void add_own(int64_t row, int64_t at, const C* s, const C* e, Pieces own, bool all_real, RowSums<C>& sums) {
    const int64_t n = own.own_end - own.own_begin;
    if (n <= 0) return;
    s += own.own_begin;
    e += own.own_begin;
    const int64_t first_column = at + own.own_begin;
    int32_t level[kBlock];
    load_levels(rows_, row, first_column, n, level);
    if (!all_real) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i)
        level[i] = s[i] == kNegInf<C> ? 0 : level[i];  // its e is 0; the count is taken back below
    }

    int32_t lowest = 0, highest = 0;
#pragma omp simd reduction(min : lowest) reduction(max : highest)
    for (int64_t i = 0; i < n; ++i) {
      lowest = std::min(lowest, level[i]);
      highest = std::max(highest, level[i]);
    }
    if (lowest < 0 || highest >= rows_.levels) return report_stray(row, first_column, s, n);

    add_by_level(level, e, n, highest + 1, sums.mass, sums.count);
    if (!all_real) sums.count[0] -= static_cast<double>(n - count_real(s, n));
    if (args_.target_kind == Target::given) {
      const int64_t column = args_.target_width == rows_.N ? first_column : first_column - rows_.own_begin(row);
      const C* target = static_cast<const C*>(args_.target) + row * args_.target_width + column;
      for (int64_t i = 0; i < n; ++i) sums.target[level[i]] += s[i] == kNegInf<C> ? C(0) : target[i];
    }
  }

  void report_stray(int64_t row, int64_t column, const C* s, int64_t n) {
    const int64_t at = row * rows_.K + column - rows_.own_begin(row);
    for (int64_t i = 0; i < n; ++i) {
      const int64_t label = label_at(rows_, at + i);
      if (s[i] != kNegInf<C> && (label < 0 || label >= rows_.levels)) {
        stray_.store(label, std::memory_order_relaxed);
        return;
      }
    }
  }

  // The row's masses -> its loss, and the coefficients the backward needs. Levels above the row's highest are left out:
  // they have mass on neither side.
  void finish(int64_t row, const RowSums<C>& sums) {
    C* state = static_cast<C*>(args_.state) + row * (rows_.levels + 1);
    std::fill(state, state + rows_.levels + 1, C(0));
    row_loss_[row] = row_weight_[row] = 0;

    int L = rows_.levels;
    while (L > 0 && sums.count[L - 1] == 0) --L;
    if (L == 0) return;  // no passage takes part

    double m[kMaxLevels], t[kMaxLevels], phi[kMaxLevels];
    double Z = 0, target_total = 0;
    for (int l = 0; l < L; ++l) {
      t[l] = args_.target_kind == Target::given
                 ? sums.target[l]
                 : sums.count[l] * gain_[args_.target_kind == Target::softmax ? L - 1 - l : l];
      target_total += t[l];
      Z += sums.mass[l];
    }
    if (target_total == 0) return;  // nothing is asked for

    for (int l = 0; l < L; ++l) {
      m[l] = sums.mass[l] / Z;
      t[l] /= target_total;
    }
    double cost = level_transport(m, t, L, ground_, tie_, phi);
    const bool finite = std::isfinite(Z) && std::isfinite(target_total);
    if (!finite) cost = std::numeric_limits<double>::quiet_NaN();

    const double weight = args_.weight ? static_cast<const C*>(args_.weight)[row] : 1;
    double mean_phi = 0;
    for (int l = 0; l < L; ++l) mean_phi += m[l] * phi[l];
    const double factor = finite ? weight / (rows_.temperature * Z) : cost;
    for (int l = 0; l < L; ++l) state[l] = static_cast<C>(factor * (phi[l] - mean_phi));
    state[rows_.levels] = sums.max;
    row_loss_[row] = weight * cost;
    row_weight_[row] = weight;
  }

  void reduce() {
    C* loss = static_cast<C*>(args_.loss);
    *static_cast<C*>(args_.scale) = C(1);
    if (args_.reduction == Reduction::none) {
      std::copy(row_loss_.begin(), row_loss_.end(), loss);
      return;
    }
    double sum = 0, weight = 0;
    for (int64_t row = 0; row < rows_.Q; ++row) {
      sum += row_loss_[row];
      weight += row_weight_[row];
    }
    if (args_.reduction == Reduction::mean) {
      const double scale = weight == 0 ? 1 : 1 / weight;
      *static_cast<C*>(args_.scale) = static_cast<C>(scale);
      sum *= scale;
    }
    *loss = static_cast<C>(sum);
  }

  const GradeWassersteinForward& args_;
  const Rows& rows_;
  const C inverse_temperature_;
  const double tie_;
  const GroundCost ground_;
  double gain_[kMaxLevels];
  std::vector<double> row_loss_, row_weight_;
  std::atomic<int64_t> stray_ = kNoStray;
};

template <class S, class C>
void backward_block(const GradeWassersteinBackward& args, int64_t row, int64_t at, int64_t n, const C* coefficient,
                    C max) {
  const Rows& rows = args.rows;
  const C inverse_temperature = static_cast<C>(1 / rows.temperature);
  C buffer[kBlock], gradient_buffer[kBlock];
  S* stored = static_cast<S*>(args.grad_scores) + row * rows.N + at;
  const C* s = load_scores<S>(rows, row, at, n, buffer);
  C* out = gradient_buffer;
  if constexpr (std::is_same_v<S, C>) out = stored;

  // The whole block as other queries' passages, then the row's own, few where there are others at all: one long loop
  // costs less than the pieces to either side with their ends.
  const Pieces own = pieces_of(rows, row, at, n);
  if (rows.in_batch == kExcluded) {
    std::fill(out, out + n, C(0));
  } else if (own.own_begin > 0 || own.own_end < n) {
    scaled_exp_block(s, n, max, inverse_temperature, coefficient[rows.in_batch], out);
  }
  const int64_t own_n = std::max<int64_t>(0, own.own_end - own.own_begin);
  if (own_n > 0) {
    int32_t level[kBlock];
    load_levels(rows, row, at + own.own_begin, own_n, level);
    s += own.own_begin;
    C* own_out = out + own.own_begin;
    scaled_exp_block(s, own_n, max, inverse_temperature, C(1), own_out);
    int32_t highest = 0;
    const int32_t levels = rows.levels;
#pragma omp simd reduction(max : highest)
    for (int64_t i = 0; i < own_n; ++i) {
      // A label out of range belongs to a passage that takes no part: forward refused all others.
      level[i] = level[i] < 0 || level[i] >= levels ? 0 : level[i];
      highest = std::max(highest, level[i]);
    }
    scale_by_level(level, own_n, highest + 1, coefficient, own_out);
#pragma omp simd
    for (int64_t i = 0; i < own_n; ++i) own_out[i] = s[i] == kNegInf<C> ? C(0) : own_out[i];
  }
  if constexpr (!std::is_same_v<S, C>) narrow(out, stored, n);
}

std::optional<int64_t> forward(const GradeWassersteinForward& args, ParallelFor parallel_for) {
  std::optional<int64_t> stray;
  with_types(args.rows.dtype, [&](auto stored, auto computing) {
    stray = Forward<decltype(stored), decltype(computing)>(args).run(parallel_for);
  });
  return stray;
}

void backward(const GradeWassersteinBackward& args, ParallelFor parallel_for) {
  const Rows& rows = args.rows;
  const int64_t chunks = chunks_of(rows);
  with_types(rows.dtype, [&](auto stored, auto computing) {
    using S = decltype(stored);
    using C = decltype(computing);
    const C scale = *static_cast<const C*>(args.scale);
    const C* grad_loss = static_cast<const C*>(args.grad_loss);
    parallel_for(rows.Q * chunks, grain(rows), [&](int64_t first, int64_t last) {
      for (int64_t i = first; i < last; ++i) {
        const int64_t row = i / chunks, begin = i % chunks * kChunk, end = std::min(begin + kChunk, rows.N);
        const C* state = static_cast<const C*>(args.state) + row * (rows.levels + 1);
        const C upstream = grad_loss[args.grad_per_row ? row : 0] * scale;
        C coefficient[kMaxLevels] = {};
        bool any = false;
        for (int l = 0; l < rows.levels; ++l) {
          coefficient[l] = upstream * state[l];
          any |= state[l] != 0;
        }
        if (!any) {  // an empty row, among others: it has no maximum, and s - 0 could overflow the exponential
          S* const gradient = static_cast<S*>(args.grad_scores) + row * rows.N;
          std::fill(gradient + begin, gradient + end, S{});
          continue;
        }
        for (int64_t at = begin; at < end; at += kBlock) {
          backward_block<S, C>(args, row, at, std::min(kBlock, end - at), coefficient, state[rows.levels]);
        }
      }
    });
  });
}

}  // namespace
}  // namespace WASSRANK_ISA

#define WASSRANK_JOIN_(a, b) a##b
#define WASSRANK_JOIN(a, b) WASSRANK_JOIN_(a, b)
#define WASSRANK_STRING_(a) #a
#define WASSRANK_STRING(a) WASSRANK_STRING_(a)

extern const Kernels WASSRANK_JOIN(kernels_, WASSRANK_ISA) = {WASSRANK_STRING(WASSRANK_ISA), &WASSRANK_ISA::forward,
                                                              &WASSRANK_ISA::backward};

}  // namespace wassrank::cpu
