// The one file that knows torch: reads tensors into the kernels' argument structs, registers the operators' kernels
// through torch's stable ABI (one binary serves torch 2.11 to 2.14), and makes wassrank._C, which tells how it was
// built.
//
// Schemas, fakes and autograd are in wassrank/ops; arguments arrive checked and contiguous from there.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/kernels.h"
#include "cuda/tuning.h"
#if WASSRANK_WITH_CUDA
#include "cuda/device.h"
#include "cuda/kernels.h"
// Weak: torch built without CUDA has no such symbol, and this library must load there.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);
#endif

namespace wassrank {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Outputs = std::tuple<Tensor, Tensor, Tensor>;

Dtype dtype_of(const Tensor& scores) {
  switch (scores.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    default: STD_TORCH_CHECK(false, "wassrank: scores must be float64, float32, float16 or bfloat16");
  }
}

ScalarType computing(const Tensor& scores) {
  return scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

void check_contiguous(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "wassrank: kernels take contiguous tensors");
}

void check_sizes(const Rows& rows) {
  if (rows.Q < 0 || rows.N < 0 || rows.K < 0 ||
      (rows.K != rows.N && (rows.Q == 0 ? rows.N != 0 : rows.N % rows.Q != 0 || rows.N / rows.Q != rows.K))) {
    throw std::invalid_argument("wassrank: labels [Q, K] need scores [Q, K] or [Q, Q*K]");
  }
  if (rows.levels < 1 || rows.levels > kMaxLevels || rows.in_batch < kExcluded || rows.in_batch >= rows.levels) {
    throw std::invalid_argument("wassrank: num_levels or in_batch out of range");
  }
}

Rows rows_of(const Tensor& scores, const Tensor& labels, const std::optional<Tensor>& mask, int64_t in_batch,
             int64_t levels, double temperature) {
  STD_TORCH_CHECK(scores.dim() == 2 && labels.dim() == 2 && labels.size(0) == scores.size(0),
                  "wassrank: scores are [Q, N] and labels [Q, N] or [Q, K]");
  check_contiguous(scores);
  check_contiguous(labels);
  Rows rows{};
  rows.scores = scores.data_ptr();
  rows.labels = labels.data_ptr();
  rows.Q = scores.size(0);
  rows.N = scores.size(1);
  rows.K = labels.size(1);
  rows.dtype = dtype_of(scores);
  rows.label_bytes = static_cast<int>(labels.element_size());
  rows.label_signed = labels.scalar_type() != ScalarType::Byte;
  rows.in_batch = static_cast<int>(in_batch);
  rows.levels = static_cast<int>(levels);
  rows.temperature = temperature;
  check_sizes(rows);
  if (mask) {
    check_contiguous(*mask);
    const bool per_row = mask->numel() == scores.numel() && mask->size(1) == scores.size(1);
    STD_TORCH_CHECK(per_row || mask->numel() == scores.size(1),
                    "wassrank: mask has neither the shape of scores nor of labels");
    rows.mask = static_cast<const bool*>(mask->data_ptr());
    rows.mask_stride = per_row ? rows.N : 0;
  }
  return rows;
}

struct ForwardCall {
  GradeWassersteinForward args{};
  Tensor loss, state, scale;
};

ForwardCall forward_call(const Tensor& scores, const Tensor& labels, const std::optional<Tensor>& target,
                         const std::optional<Tensor>& mask, const std::optional<Tensor>& weight, int64_t target_kind,
                         int64_t reduction, int64_t in_batch, int64_t num_levels, double p, double temperature,
                         double label_temperature) {
  const ScalarType dtype = computing(scores);
  const int64_t Q = scores.size(0);
  const bool per_row = static_cast<Reduction>(reduction) == Reduction::none;
  const Rows rows = rows_of(scores, labels, mask, in_batch, num_levels, temperature);
  ForwardCall call{
      .loss = per_row ? torch::stable::new_empty(scores, {Q}, dtype) : torch::stable::new_empty(scores, {}, dtype),
      .state = torch::stable::new_empty(scores, {Q, num_levels + 1}, dtype),
      .scale = torch::stable::new_empty(scores, {}, dtype),
  };
  call.args.rows = rows;
  call.args.target_kind = static_cast<Target>(target_kind);
  call.args.reduction = static_cast<Reduction>(reduction);
  call.args.p = p;
  call.args.label_temperature = label_temperature;
  STD_TORCH_CHECK((call.args.target_kind == Target::given) == target.has_value(),
                  "wassrank: target tensor and kind disagree");
  if (target) {
    check_contiguous(*target);
    STD_TORCH_CHECK(
        target->scalar_type() == dtype && (target->numel() == rows.Q * rows.N || target->numel() == rows.Q * rows.K),
        "wassrank: target must have the computing dtype and the shape of scores or labels");
    call.args.target = target->data_ptr();
    call.args.target_width = target->size(1);
  }
  if (weight) {
    check_contiguous(*weight);
    STD_TORCH_CHECK(weight->scalar_type() == dtype && weight->numel() == Q,
                    "wassrank: weight must be [Q] of the computing dtype");
    call.args.weight = weight->data_ptr();
  }
  call.args.loss = call.loss.data_ptr();
  call.args.state = call.state.data_ptr();
  call.args.scale = call.scale.data_ptr();
  return call;
}

struct BackwardCall {
  GradeWassersteinBackward args{};
  Tensor grad_scores;
};

BackwardCall backward_call(const Tensor& grad_loss, const Tensor& scores, const Tensor& labels,
                           const std::optional<Tensor>& mask, const Tensor& state, const Tensor& scale,
                           int64_t in_batch, double temperature) {
  const ScalarType dtype = computing(scores);
  check_contiguous(grad_loss);
  check_contiguous(state);
  STD_TORCH_CHECK(grad_loss.scalar_type() == dtype && state.scalar_type() == dtype && scale.scalar_type() == dtype,
                  "wassrank: grad_loss, state and scale must have the computing dtype");
  STD_TORCH_CHECK(state.dim() == 2 && state.size(0) == scores.size(0), "wassrank: state must be [Q, levels + 1]");
  STD_TORCH_CHECK(grad_loss.dim() == 0 || grad_loss.numel() == scores.size(0), "wassrank: grad_loss must be [] or [Q]");
  BackwardCall call{.grad_scores = torch::stable::empty_like(scores)};
  call.args.rows = rows_of(scores, labels, mask, in_batch, state.size(1) - 1, temperature);
  call.args.grad_loss = grad_loss.data_ptr();
  call.args.grad_per_row = grad_loss.dim() != 0;
  call.args.state = state.data_ptr();
  call.args.scale = scale.data_ptr();
  call.args.grad_scores = call.grad_scores.data_ptr();
  return call;
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, n, grain, body);
}

Outputs grade_wasserstein_cpu(Tensor scores, Tensor labels, std::optional<Tensor> target, std::optional<Tensor> mask,
                              std::optional<Tensor> weight, int64_t target_kind, int64_t reduction, int64_t in_batch,
                              int64_t num_levels, double p, double temperature, double label_temperature) {
  ForwardCall call = forward_call(scores, labels, target, mask, weight, target_kind, reduction, in_batch, num_levels, p,
                                  temperature, label_temperature);
  if (const auto stray = cpu::kernels().grade_wasserstein_forward(call.args, parallel_for)) {
    throw std::invalid_argument("labels hold grade " + std::to_string(*stray) +
                                ", but grades must lie in 0 ... num_levels-1 = " + std::to_string(num_levels - 1) +
                                ": pass a larger num_levels, and mark padding with mask, not with a label");
  }
  return {call.loss, call.state, call.scale};
}

Tensor grade_wasserstein_backward_cpu(Tensor grad_loss, Tensor scores, Tensor labels, std::optional<Tensor> mask,
                                      Tensor state, Tensor scale, int64_t in_batch, double temperature) {
  BackwardCall call = backward_call(grad_loss, scores, labels, mask, state, scale, in_batch, temperature);
  cpu::kernels().grade_wasserstein_backward(call.args, parallel_for);
  return call.grad_scores;
}

STABLE_TORCH_LIBRARY_IMPL(wassrank, CPU, library) {
  library.impl("grade_wasserstein", TORCH_BOX(&grade_wasserstein_cpu));
  library.impl("grade_wasserstein_backward", TORCH_BOX(&grade_wasserstein_backward_cpu));
}

cuda::TuningTable tunings;

#if WASSRANK_WITH_CUDA

cuda::Tuning tuning_for(const Tensor& tensor) {
  return tunings.at(cuda::compute_capability(tensor.get_device_index()));
}

void* current_stream(const Tensor& tensor) {
  void* stream = nullptr;
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream, "wassrank: this torch has no CUDA");
  STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream(tensor.get_device_index(), &stream) == 0,
                  "wassrank: no CUDA stream");
  return stream;
}

void check_launch(const char* error) {
  if (error) throw std::runtime_error(std::string("wassrank: CUDA kernel launch failed: ") + error);
}

Outputs grade_wasserstein_cuda(Tensor scores, Tensor labels, std::optional<Tensor> target, std::optional<Tensor> mask,
                               std::optional<Tensor> weight, int64_t target_kind, int64_t reduction, int64_t in_batch,
                               int64_t num_levels, double p, double temperature, double label_temperature) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  ForwardCall call = forward_call(scores, labels, target, mask, weight, target_kind, reduction, in_batch, num_levels, p,
                                  temperature, label_temperature);
  const Tensor workspace = torch::stable::new_empty(scores, {2 * scores.size(0)}, computing(scores));
  call.args.workspace = workspace.data_ptr();
  check_launch(cuda::grade_wasserstein_forward(call.args, tuning_for(scores), current_stream(scores)));
  return {call.loss, call.state, call.scale};
}

Tensor grade_wasserstein_backward_cuda(Tensor grad_loss, Tensor scores, Tensor labels, std::optional<Tensor> mask,
                                       Tensor state, Tensor scale, int64_t in_batch, double temperature) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  BackwardCall call = backward_call(grad_loss, scores, labels, mask, state, scale, in_batch, temperature);
  check_launch(cuda::grade_wasserstein_backward(call.args, tuning_for(scores), current_stream(scores)));
  return call.grad_scores;
}

STABLE_TORCH_LIBRARY_IMPL(wassrank, CUDA, library) {
  library.impl("grade_wasserstein", TORCH_BOX(&grade_wasserstein_cuda));
  library.impl("grade_wasserstein_backward", TORCH_BOX(&grade_wasserstein_backward_cuda));
}

#endif  // WASSRANK_WITH_CUDA

std::string cuda_version() {
#if WASSRANK_WITH_CUDA
  const int version = cuda::runtime_version();
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
#else
  return "";
#endif
}

int cuda_driver_version() {
#if WASSRANK_WITH_CUDA
  return cuda::driver_version();
#else
  return 0;
#endif
}

Dtype dtype_named(const std::string& name) {
  if (name == "float64") return Dtype::float64;
  if (name == "float32") return Dtype::float32;
  if (name == "float16") return Dtype::float16;
  if (name == "bfloat16") return Dtype::bfloat16;
  throw std::invalid_argument("dtype must be float64, float32, float16 or bfloat16, got \"" + name + "\"");
}

pybind11::list grade_wasserstein_launches(const std::string& dtype, int64_t Q, int64_t N, int64_t K, int in_batch,
                                          int num_levels, bool reduced, int capability) {
#if WASSRANK_WITH_CUDA
  Rows rows{};
  rows.dtype = dtype_named(dtype);
  rows.Q = Q;
  rows.N = N;
  rows.K = K;
  rows.in_batch = in_batch;
  rows.levels = num_levels;
  check_sizes(rows);
  pybind11::list launches;
  for (const auto& [kernel, shape] :
       cuda::grade_wasserstein_launches(rows, reduced ? Reduction::sum : Reduction::none, tunings.at(capability))) {
    const auto tuple = [](const cuda::Extent& of) { return pybind11::make_tuple(of.x, of.y, of.z); };
    pybind11::dict launch;
    launch["kernel"] = kernel;
    launch["grid"] = tuple(shape.grid);
    launch["block"] = tuple(shape.block);
    launch["shared_bytes"] = shape.shared_bytes;
    launches.append(launch);
  }
  return launches;
#else
  throw std::runtime_error("the extension was built without CUDA: it launches nothing");
#endif
}

}  // namespace
}  // namespace wassrank

PYBIND11_MODULE(_C, module) {
  using namespace wassrank;
  using pybind11::arg;
  module.doc() = "wassrank's native kernels. Importing it registers them with torch.ops.wassrank.";
  module.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = WASSRANK_VERSION;
        info["cuda_architectures"] = std::vector<std::string>(WASSRANK_CUDA_ARCHITECTURES);
        info["cuda_version"] = cuda_version();
        info["cpu_instruction_sets"] = std::vector<std::string>{
#if defined(__x86_64__)
            "avx512", "avx2",
#endif
            "baseline"};
        info["cpu_instruction_set_in_use"] = cpu::kernels().instruction_set;
        return info;
      },
      "Version, CUDA architectures compiled (\"80\", \"90\", ...) and the CUDA they were compiled with (\"13.0\"; \"\" "
      "without), CPU instruction sets compiled and the one in use.");
  module.def("cuda_driver_version", &cuda_driver_version,
             "The newest CUDA the driver here serves, 13000 for 13.0; 0 without a driver, or built without CUDA.");
  module.def("grade_wasserstein_launches", &grade_wasserstein_launches, arg("dtype"), arg("Q"), arg("N"), arg("K"),
             arg("in_batch"), arg("num_levels"), arg("reduced"), arg("capability") = 0,
             "What the CUDA kernels would be launched with, forward, reduction and backward, with the tuning of "
             "`capability`. Needs no GPU.");
  module.def(
      "tuning", [](int capability) { return cuda::values_of(tunings.at(capability)); }, arg("capability"),
      "How the CUDA kernels divide rows among threads on GPUs of `capability`, 90 for sm_90; 0: the defaults.");
  module.def(
      "set_tuning",
      [](int capability, const cuda::TuningValues& values) { tunings.set(capability, cuda::tuning_of(values)); },
      arg("capability"), arg("values"), "From now on `values`, and defaults for what they do not name.");
}
