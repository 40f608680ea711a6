// The passes of the batch-Gaussian distance, called from Python with addresses: wassrank/gaussian/native.py, which sees
// to it that tensors are contiguous and as large as the batch asks.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>

#include "common/gaussian.h"
#include "cpu/kernels.h"
#include "direct.h"

namespace wassrank::direct {

// A batch, and where its passes run: on the CPU, or on CUDA's current device.
struct GaussianCall {
  GaussianBatch batch;
  std::optional<Address> stream;  // none: the CPU

  const cpu::GaussianPasses& on_cpu() const {
    if (stream) throw std::invalid_argument("wassrank: no CUDA passes of gaussian_wasserstein yet");
    return cpu::kernels().gaussian[static_cast<int>(batch.dtype)];
  }
};

inline GaussianCall gaussian_call(std::optional<Address> stream, Address scores, Address labels, Address target,
                                  Address mask, Address label_temperatures, int64_t Q, int64_t N, int64_t K,
                                  int64_t first, int64_t target_width, int64_t mask_stride, int dtype, int label_kind,
                                  int target_kind, std::optional<double> in_batch, int levels, double temperature,
                                  double label_temperature) {
  return {.batch = {.scores = at(scores),
                    .labels = at(labels),
                    .target = at<const double>(target),
                    .mask = at<const bool>(mask),
                    .label_temperatures = at<const double>(label_temperatures),
                    .Q = Q,
                    .N = N,
                    .K = K,
                    .first = first,
                    .target_width = target_width,
                    .mask_stride = mask_stride,
                    .dtype = static_cast<Dtype>(dtype),
                    .label_kind = static_cast<LabelKind>(label_kind),
                    .target_kind = static_cast<Target>(target_kind),
                    .dense_labels = K == N,
                    .others_excluded = !in_batch,
                    .in_batch = in_batch.value_or(0),
                    .levels = levels,
                    .temperature = temperature,
                    .label_temperature = label_temperature},
          .stream = stream};
}

// Returns a label that cannot be, on the CPU.
template <cpu::ParallelFor parallel_for>
std::optional<double> gaussian_rows(const GaussianCall& call, Address row, Address excess) {
  return call.on_cpu().rows(call.batch, at<double>(row), at<double>(excess), parallel_for);
}

template <cpu::ParallelFor parallel_for>
void gaussian_moments(const GaussianCall& call, Address row, Address moments) {
  call.on_cpu().moments(call.batch, at<double>(row), at<double>(moments), parallel_for);
}

template <cpu::ParallelFor parallel_for>
void gaussian_products(const GaussianCall& call, Address row, Address columns, Address excess, Address /* flag */,
                       Address sums, Address products) {
  call.on_cpu().products(call.batch, at<double>(row), at<double>(columns), at<double>(excess), at<double>(sums),
                         at<double>(products), parallel_for);
}

template <cpu::ParallelFor parallel_for>
void gaussian_tiles(const GaussianCall& call, Address row, Address columns, int64_t begin, int64_t end, Address P,
                    Address E_T) {
  call.on_cpu().tiles(call.batch, at<double>(row), at<double>(columns), begin, end, at<double>(P), at<double>(E_T),
                      parallel_for);
}

template <cpu::ParallelFor parallel_for>
void gaussian_along(const GaussianCall& call, Address row, Address columns, Address along) {
  call.on_cpu().along(call.batch, at<double>(row), at<double>(columns), at<double>(along), parallel_for);
}

template <cpu::ParallelFor parallel_for>
void gaussian_gradient(const GaussianCall& call, Address row, Address columns, Address along, Address scale,
                       Address tile, Address W, Address everywhere, Address excess, Address flag, int64_t begin,
                       int64_t end, Address gradient) {
  const gaussian::Turned turned{.tile = at<const double>(tile),
                                .W = at<const double>(W),
                                .everywhere = at<const double>(everywhere),
                                .excess = at<const double>(excess),
                                .flag = at<const bool>(flag)};
  call.on_cpu().gradient(call.batch, at<double>(row), at<double>(columns), at<double>(along), *at<double>(scale),
                         turned, begin, end, at(gradient), parallel_for);
}

// Into wassrank._C.
template <cpu::ParallelFor parallel_for>
void define_gaussian_passes(pybind11::module_& module) {
  pybind11::class_<GaussianCall>(module, "GaussianBatch",
                                 "wassrank::GaussianBatch, and the CUDA stream its passes go to; None for the CPU.")
      .def(pybind11::init(&gaussian_call));
  const auto define = [&](const char* name, auto* pass) {
    module.def(name, pass, pybind11::call_guard<pybind11::gil_scoped_release>(), "wassrank/gaussian/passes.py.");
  };
  define("gaussian_rows", &gaussian_rows<parallel_for>);
  define("gaussian_moments", &gaussian_moments<parallel_for>);
  define("gaussian_products", &gaussian_products<parallel_for>);
  define("gaussian_tiles", &gaussian_tiles<parallel_for>);
  define("gaussian_along", &gaussian_along<parallel_for>);
  define("gaussian_gradient", &gaussian_gradient<parallel_for>);
}

}  // namespace wassrank::direct
