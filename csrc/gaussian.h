// The passes of the batch-Gaussian distance, called from Python with addresses: wassrank/gaussian/native.py, which sees
// to it that tensors are contiguous and as large as the batch asks.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdint>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>

#include "common/gaussian.h"
#include "cpu/kernels.h"
#include "cuda/kernels.h"
#include "direct.h"

namespace wassrank::direct {

// A batch, and where its passes run: on the CPU, or on CUDA's current device.
struct GaussianCall {
  GaussianBatch batch;
  std::optional<Address> stream;  // none: the CPU

  // Runs on_cpu(passes), or on_cuda(stream), which returns what went wrong. on_cuda is generic: where CUDA's passes are
  // not compiled nothing then asks for them.
  template <class OnCpu, class OnCuda>
  void run(OnCpu on_cpu, [[maybe_unused]] OnCuda on_cuda) const {
    if (!stream) return on_cpu(cpu::kernels().gaussian[static_cast<int>(batch.dtype)]);
#if WASSRANK_WITH_CUDA
    if (const char* error = on_cuda(at(*stream))) {
      throw std::runtime_error(std::string("wassrank: CUDA kernel launch failed: ") + error);
    }
#else
    throw std::invalid_argument("wassrank: the extension was built without CUDA");
#endif
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
  std::optional<double> stray;
  const auto run = [&](auto pass, auto where) { return pass(call.batch, at<double>(row), at<double>(excess), where); };
  call.run([&](auto& on) { stray = run(on.rows, parallel_for); },
           [&](auto stream) { return run(cuda::gaussian_rows, stream); });
  return stray;
}

template <cpu::ParallelFor parallel_for>
void gaussian_moments(const GaussianCall& call, Address row, Address moments) {
  const auto run = [&](auto pass, auto where) { return pass(call.batch, at<double>(row), at<double>(moments), where); };
  call.run([&](auto& on) { run(on.moments, parallel_for); },
           [&](auto stream) { return run(cuda::gaussian_moments, stream); });
}

template <cpu::ParallelFor parallel_for>
void gaussian_products(const GaussianCall& call, Address row, Address columns, Address excess, Address flag,
                       Address sums, Address products) {
  call.run(
      [&](auto& on) {
        on.products(call.batch, at<double>(row), at<double>(columns), at<double>(excess), at<double>(sums),
                    at<double>(products), parallel_for);
      },
      [&](auto stream) {
        const cuda::GaussianProducts args{.state = at<double>(row),
                                          .columns = at<double>(columns),
                                          .excess = at<double>(excess),
                                          .flag = at<bool>(flag),
                                          .sums = at<double>(sums),
                                          .products = at<double>(products)};
        return cuda::gaussian_products(call.batch, args, stream);
      });
}

template <cpu::ParallelFor parallel_for>
void gaussian_tiles(const GaussianCall& call, Address row, Address columns, int64_t begin, int64_t end, Address P,
                    Address E_T) {
  const auto run = [&](auto pass, auto where) {
    return pass(call.batch, at<double>(row), at<double>(columns), begin, end, at<double>(P), at<double>(E_T), where);
  };
  call.run([&](auto& on) { run(on.tiles, parallel_for); },
           [&](auto stream) { return run(cuda::gaussian_tiles, stream); });
}

template <cpu::ParallelFor parallel_for>
void gaussian_along(const GaussianCall& call, Address row, Address columns, Address along) {
  const auto run = [&](auto pass, auto where) {
    return pass(call.batch, at<double>(row), at<double>(columns), at<double>(along), where);
  };
  call.run([&](auto& on) { run(on.along, parallel_for); },
           [&](auto stream) { return run(cuda::gaussian_along, stream); });
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
  call.run(
      [&](auto& on) {
        on.gradient(call.batch, at<double>(row), at<double>(columns), at<double>(along), *at<double>(scale), turned,
                    begin, end, at(gradient), parallel_for);
      },
      [&](auto stream) {
        const cuda::GaussianGradient args{.state = at<double>(row),
                                          .columns = at<double>(columns),
                                          .along = at<double>(along),
                                          .scale = at<double>(scale),
                                          .turned = turned,
                                          .begin = begin,
                                          .end = end,
                                          .out = at(gradient)};
        return cuda::gaussian_gradient(call.batch, args, stream);
      });
}

// wassrank/gaussian/native_step.py, on the CPU.
template <cpu::ParallelFor parallel_for>
std::pair<bool, std::optional<double>> gaussian_small_forward(const GaussianCall& call, double split, double eps,
                                                              Address row, Address excess, Address columns,
                                                              Address along, Address W, Address everywhere,
                                                              Address flag, Address distance, Address room) {
  const cpu::GaussianForward to{.row = at<double>(row),
                                .excess = at<double>(excess),
                                .columns = at<double>(columns),
                                .along = at<double>(along),
                                .W = at<double>(W),
                                .everywhere = at<double>(everywhere),
                                .distance = at<double>(distance),
                                .flag = at<bool>(flag),
                                .room = at<double>(room)};
  const auto& passes = cpu::kernels().gaussian[static_cast<int>(call.batch.dtype)];
  return passes.small_forward(call.batch, to, split, eps, parallel_for);
}

// wassrank/gaussian/split_svd.py.
inline int64_t gram_eigenvectors(Address gram, int64_t n, double split, Address V) {
  return cpu::kernels().polar->gram_eigenvectors(at<double>(gram), n, split, at<double>(V));
}

inline double polar_factor(Address X, Address V, int64_t n, int64_t lower, double noise, double eps) {
  return cpu::kernels().polar->of_eigenvectors(at<double>(X), at<double>(V), n, lower, noise, eps);
}

inline bool small_polar_factor(Address A, Address noise, int64_t n, double split, int64_t most, double eps,
                               Address norm, Address W) {
  return cpu::kernels().polar->small(at<double>(A), n, split, most, *at<double>(noise), eps, at<double>(norm),
                                     at<double>(W));
}

// Into wassrank._C.
template <cpu::ParallelFor parallel_for>
void define_gaussian_passes(pybind11::module_& module) {
  pybind11::class_<GaussianCall>(module, "GaussianBatch",
                                 "wassrank::GaussianBatch, and the CUDA stream its passes go to; None for the CPU.")
      .def(pybind11::init(&gaussian_call));
  const auto define = [&](const char* name, auto* function) {
    module.def(name, function, pybind11::call_guard<pybind11::gil_scoped_release>(), "wassrank/gaussian/native.py.");
  };
  define("gaussian_rows", &gaussian_rows<parallel_for>);
  define("gaussian_moments", &gaussian_moments<parallel_for>);
  define("gaussian_products", &gaussian_products<parallel_for>);
  define("gaussian_tiles", &gaussian_tiles<parallel_for>);
  define("gaussian_along", &gaussian_along<parallel_for>);
  define("gaussian_gradient", &gaussian_gradient<parallel_for>);
  define("gaussian_small_forward", &gaussian_small_forward<parallel_for>);
  define("gram_eigenvectors", &gram_eigenvectors);
  define("polar_factor", &polar_factor);
  define("small_polar_factor", &small_polar_factor);
}

}  // namespace wassrank::direct
