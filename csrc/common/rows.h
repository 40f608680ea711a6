// What a kernel of the row losses is told: pointers, sizes, options. No torch here; bindings.cpp fills these in.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define WASSRANK_HOST_DEVICE __host__ __device__
#else
#define WASSRANK_HOST_DEVICE
#endif

namespace wassrank {

// Grades 0 … 31: on CUDA one level is one lane of the warp that finishes a row.
constexpr int kMaxLevels = 32;

// How near running masses count as equal: this many machine epsilons of the compute type, relative to the masses on the
// smaller side, and the rounding of running sums in double (reference: TIE_ULPS, ROUNDING).
constexpr double kTieUlps = 8;
constexpr double kRounding = 1e-15;

constexpr int kExcluded = -1;  // in_batch: other queries' passages take no part

enum class Dtype : int { float64, float32, float16, bfloat16 };

// The numbers are those of wassrank/codes.py.
enum class Target : int { softmax, linear, exp2, given };
enum class Reduction : int { mean, sum, none };

// A batch of score rows and what each passage's level is. Computation is in float, in double for float64 scores; "C"
// below is that type. A passage whose score is -inf, or whose mask is false, takes no part.
//
// Rows lie side by side, [Q, N], or packed one behind the other, [N] in all, with `offsets` saying where each begins.
struct Rows {
  const void* scores;  // [Q, N] of dtype; packed [N]
  const void* labels;  // [Q, K] integers of label_bytes; K == N grades every passage, else N == Q * K; packed [N]
  const bool* mask;  // element (row, n) at row * mask_stride + n; mask_stride is N, or 0 for one flag a passage; packed
                     // [N]; may be null
  int64_t mask_stride;
  const int64_t* offsets;  // [Q + 1], from 0 to N, none smaller than the one before; null: not packed
  int64_t Q, N, K;         // packed: K == N, all passages
  int64_t first;   // the place of row 0 among all queries whose passages these columns are; else than 0, and then
                   // N no multiple of Q, only where rows are some of a batch's
  int64_t stride;  // of the scores, from one row to the next: N, but where they are a tile (cpu/level_tiles.h)
  Dtype dtype;
  int label_bytes;  // 1, 2, 4, 8
  bool label_signed;
  int in_batch;  // the grade of passages that are not the row's own, or kExcluded
  int levels;    // grades lie in [0, levels), levels <= kMaxLevels
  double temperature;

  // Where a row begins in what is [Q, N], in the scores, and in the labels; and how many columns it has.
  WASSRANK_HOST_DEVICE int64_t begin(int64_t row) const { return offsets ? offsets[row] : row * N; }
  WASSRANK_HOST_DEVICE int64_t scores_begin(int64_t row) const { return offsets ? offsets[row] : row * stride; }
  WASSRANK_HOST_DEVICE int64_t labels_begin(int64_t row) const { return offsets ? offsets[row] : row * K; }
  WASSRANK_HOST_DEVICE int64_t mask_begin(int64_t row) const { return offsets ? offsets[row] : row * mask_stride; }
  WASSRANK_HOST_DEVICE int64_t columns(int64_t row) const { return offsets ? offsets[row + 1] - offsets[row] : N; }
  // The columns whose grades the row's labels give: all of them, or the row's own block.
  WASSRANK_HOST_DEVICE int64_t own_begin(int64_t row) const { return K == N ? 0 : (first + row) * K; }
  WASSRANK_HOST_DEVICE int64_t own_end(int64_t row) const { return K == N ? columns(row) : (first + row + 1) * K; }
};

// What a pass computes is a weighted sum of losses: wassrank/ops/level_losses.py has the formulas. A loss whose factor
// is 0 is not computed.
struct Terms {
  double wasserstein, info_nce, kl;

  // Whether gradients have a part that is not proportional to exp(s): the state's form.
  WASSRANK_HOST_DEVICE bool affine() const { return info_nce != 0 || kl != 0; }
};

// Where a row's numbers lie in its state. Plain: coefficients c_l, then the row's maximum.
struct StateLayout {
  int levels;
  bool affine;

  WASSRANK_HOST_DEVICE int width() const { return affine ? 2 * levels + 4 : levels + 1; }
  WASSRANK_HOST_DEVICE int constant(int level) const { return levels + level; }  // b_l
  WASSRANK_HOST_DEVICE int others() const { return 2 * levels; }                 // b of other queries' passages
  WASSRANK_HOST_DEVICE int positive() const { return 2 * levels + 1; }           // b of the named positive
  WASSRANK_HOST_DEVICE int target_factor() const { return 2 * levels + 2; }      // f
  WASSRANK_HOST_DEVICE int max() const { return width() - 1; }
};

// What every forward is told, whether its rows are grouped by level or sorted.
struct RowLossesForward {
  Rows rows;
  Terms terms;
  Target target_kind;
  const void* target;              // Target::given: [Q, N] or own passages' [Q, K], of C; packed [N]
  int64_t target_width;            // N or K
  const void* weight;              // [Q] of C, or null
  const void* label_temperatures;  // [Q] of C, in place of label_temperature; or null
  const int64_t* positives;        // [Q]: the positive's place among the row's own passages, outside of them for none;
                                   // null: the own passages of the row's best label
  Reduction reduction;
  double p, label_temperature;
  // Outputs.
  void* loss;   // [] or [Q] of C
  void* state;  // of C: what the backward is to know of each row
  void* scale;  // [] of C
  // CUDA only: room for 2 * Q of C, the rows' losses and weights before they are reduced.
  void* workspace;
};

// And every backward.
struct RowLossesBackward {
  Rows rows;
  const void* target;  // as in the forward, where its state's f may be other than 0; or null
  int64_t target_width;
  const void* grad_loss;  // [] or [Q] of C
  bool grad_per_row;
  const void* state;
  const void* scale;
  void* grad_scores;  // as scores
};

// state: [Q, StateLayout::width()].
struct LevelLossesForward : RowLossesForward {
  const double* position;  // on the host: [levels], rising; null: 0, 1, 2, ...
};

struct LevelLossesBackward : RowLossesBackward {
  bool affine;
  const int64_t* positives;  // as in the forward, or null
};

}  // namespace wassrank
