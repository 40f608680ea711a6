// The CPU kernels for one instruction set: compiled once for each, with WASSRANK_ISA naming it.
#include "cpu/kernels.h"
#include "cpu/grade_order.h"
#include "cpu/level_losses_backward.h"
#include "cpu/level_losses_forward.h"
#include "cpu/level_tiles.h"
#include "cpu/simd.h"
#include "cpu/sorted_losses.h"
#include "cpu/wasserstein_1d.h"

namespace wassrank::cpu {
namespace WASSRANK_ISA {
namespace {

// Calls body(stored type, computing type) as values of those types.
template <class Body>
auto with_types(Dtype dtype, Body body) {
  switch (dtype) {
    case Dtype::float64: return body(double{}, double{});
    case Dtype::float32: return body(float{}, float{});
    case Dtype::float16: return body(Half{}, float{});
    case Dtype::bfloat16: return body(BFloat16{}, float{});
  }
  __builtin_unreachable();
}

std::optional<int64_t> forward(const LevelLossesForward& args, ParallelFor parallel_for) {
  return with_types(args.rows.dtype, [&](auto stored, auto computing) {
    return Forward<decltype(stored), decltype(computing)>(args).run(parallel_for);
  });
}

void backward(const LevelLossesBackward& args, ParallelFor parallel_for) {
  with_types(args.rows.dtype, [&](auto stored, auto computing) {
    Backward<decltype(stored), decltype(computing)>(args).run(parallel_for);
  });
}

std::optional<int64_t> gather(const LevelLossesForward& args, const ScoreTile& tile, double* sums,
                              ParallelFor parallel_for) {
  return args.rows.dtype == Dtype::float64 ? gather_tile<double>(args, tile, sums, parallel_for)
                                           : gather_tile<float>(args, tile, sums, parallel_for);
}

void finish(const LevelLossesForward& args, double* sums, double* losses, double* weights, ParallelFor parallel_for) {
  args.rows.dtype == Dtype::float64 ? finish_tiles<double>(args, sums, losses, weights, parallel_for)
                                    : finish_tiles<float>(args, sums, losses, weights, parallel_for);
}

void gradient(const LevelLossesBackward& args, const ScoreTile& tile, ParallelFor parallel_for) {
  args.rows.dtype == Dtype::float64 ? tile_gradient<double>(args, tile, parallel_for)
                                    : tile_gradient<float>(args, tile, parallel_for);
}

void grade_order(const GradeOrder& args, ParallelFor parallel_for) {
  args.is_double ? order_rows<double, DoubleEntry>(args, parallel_for)
                 : order_rows<float, FloatEntry>(args, parallel_for);
}

std::optional<Refusal> sorted_forward(const SortedForward& args, ParallelFor parallel_for) {
  return with_types(args.rows.dtype, [&](auto stored, auto computing) {
    return SortedForwardPass<decltype(stored), decltype(computing)>(args).run(parallel_for);
  });
}

void sorted_backward(const SortedBackward& args, ParallelFor parallel_for) {
  with_types(args.rows.dtype, [&](auto stored, auto computing) {
    sorted_backward_pass<decltype(stored), decltype(computing)>(args, parallel_for);
  });
}

std::optional<PairRefusal> wasserstein_1d(const Wasserstein1d& args, ParallelFor parallel_for) {
  return with_types(args.dtype, [&](auto stored, auto computing) {
    return Wasserstein1dPass<decltype(stored), decltype(computing)>(args).run(parallel_for);
  });
}

}  // namespace

extern const GaussianPasses gaussian_passes[];  // gaussian_kernels.cpp
extern const PolarFactor polar_factor_kernels;

}  // namespace WASSRANK_ISA

#define WASSRANK_JOIN_(a, b) a##b
#define WASSRANK_JOIN(a, b) WASSRANK_JOIN_(a, b)
#define WASSRANK_STRING_(a) #a
#define WASSRANK_STRING(a) WASSRANK_STRING_(a)

extern const Kernels WASSRANK_JOIN(kernels_, WASSRANK_ISA) = {
    WASSRANK_STRING(WASSRANK_ISA), &WASSRANK_ISA::forward,        &WASSRANK_ISA::backward,
    &WASSRANK_ISA::gather,         &WASSRANK_ISA::finish,         &WASSRANK_ISA::gradient,
    &WASSRANK_ISA::grade_order,    &WASSRANK_ISA::sorted_forward, &WASSRANK_ISA::sorted_backward,
    &WASSRANK_ISA::wasserstein_1d, WASSRANK_ISA::gaussian_passes, &WASSRANK_ISA::polar_factor_kernels};

}  // namespace wassrank::cpu
