// The batch-Gaussian distance for one instruction set: compiled once for each, with WASSRANK_ISA naming it.
#include "cpu/gaussian_passes.h"
#include "cpu/gaussian_rows.h"
#include "cpu/gaussian_small_forward.h"
#include "cpu/kernels.h"
#include "cpu/polar_factor.h"
#include "cpu/simd.h"
#include "cpu/symmetric_eigen.h"

namespace wassrank::cpu::WASSRANK_ISA {
namespace {

template <class S>
constexpr GaussianPasses passes_of = {&gaussian_rows<S>,         &gaussian_moments<S>, &gaussian_products<S>,
                                      &gaussian_tiles<S>,        &gaussian_along<S>,   &gaussian_gradient<S>,
                                      &gaussian_small_forward<S>};

}  // namespace

extern const GaussianPasses gaussian_passes[] = {passes_of<double>, passes_of<float>, passes_of<Half>,
                                                 passes_of<BFloat16>};  // in Dtype's order

extern const PolarFactor polar_factor_kernels = {&gram_eigenvectors, &polar_factor, &small_polar_factor};

}  // namespace wassrank::cpu::WASSRANK_ISA
