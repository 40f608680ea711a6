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
struct Rows {
  const void* scores;  // [Q, N] of dtype
  const void* labels;  // [Q, K] integers of label_bytes; K == N grades every passage, else N == Q * K
  const bool*
      mask;  // element (row, n) at row * mask_stride + n; mask_stride is N, or 0 for one flag a passage; may be null
  int64_t mask_stride;
  int64_t Q, N, K;
  Dtype dtype;
  int label_bytes;  // 1, 2, 4, 8
  bool label_signed;
  int in_batch;  // the grade of passages that are not the row's own, or kExcluded
  int levels;    // grades lie in [0, levels), levels <= kMaxLevels
  double temperature;

  // The columns whose grades the row's labels give: all of them, or the row's own block.
  WASSRANK_HOST_DEVICE int64_t own_begin(int64_t row) const { return K == N ? 0 : row * K; }
  WASSRANK_HOST_DEVICE int64_t own_end(int64_t row) const { return own_begin(row) + K; }
};

struct GradeWassersteinForward {
  Rows rows;
  Target target_kind;
  const void* target;    // Target::given: [Q, N] or own passages' [Q, K], of C
  int64_t target_width;  // N or K
  const void* weight;    // [Q] of C, or null
  Reduction reduction;
  double p, label_temperature;
  // Outputs.
  void* loss;   // [] or [Q] of C
  void* state;  // [Q, levels + 1] of C: coefficients c_l, then the row's maximum
  void* scale;  // [] of C
  // CUDA only: room for 2 * Q of C, the rows' losses and weights before they are reduced.
  void* workspace;
};

struct GradeWassersteinBackward {
  Rows rows;
  const void* grad_loss;  // [] or [Q] of C
  bool grad_per_row;
  const void* state;
  const void* scale;
  void* grad_scores;  // [Q, N] of rows.dtype
};

}  // namespace wassrank
