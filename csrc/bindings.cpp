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
#if WASSRANK_WITH_CUDA
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

Rows rows_of(const Tensor& scores, const Tensor& labels, const std::optional<Tensor>& mask, int64_t in_batch,
             int64_t levels, double temperature) {
  STD_TORCH_CHECK(scores.dim() == 2 && labels.dim() == 2 && labels.size(0) == scores.size(0),
                  "wassrank: scores are [Q, N] and labels [Q, N] or [Q, K]");
  STD_TORCH_CHECK(labels.size(1) == scores.size(1) || labels.size(1) * scores.size(0) == scores.size(1),
                  "wassrank: labels [Q, K] need scores [Q, K] or [Q, Q*K]");
  STD_TORCH_CHECK(levels >= 1 && levels <= kMaxLevels && in_batch >= kExcluded && in_batch < levels,
                  "wassrank: num_levels or in_batch out of range");
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

#if WASSRANK_WITH_CUDA

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
  check_launch(cuda::grade_wasserstein_forward(call.args, current_stream(scores)));
  return {call.loss, call.state, call.scale};
}

Tensor grade_wasserstein_backward_cuda(Tensor grad_loss, Tensor scores, Tensor labels, std::optional<Tensor> mask,
                                       Tensor state, Tensor scale, int64_t in_batch, double temperature) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  BackwardCall call = backward_call(grad_loss, scores, labels, mask, state, scale, in_batch, temperature);
  check_launch(cuda::grade_wasserstein_backward(call.args, current_stream(scores)));
  return call.grad_scores;
}

STABLE_TORCH_LIBRARY_IMPL(wassrank, CUDA, library) {
  library.impl("grade_wasserstein", TORCH_BOX(&grade_wasserstein_cuda));
  library.impl("grade_wasserstein_backward", TORCH_BOX(&grade_wasserstein_backward_cuda));
}

#endif  // WASSRANK_WITH_CUDA

}  // namespace
}  // namespace wassrank

PYBIND11_MODULE(_C, module) {
  module.doc() = "wassrank's native kernels. Importing it registers them with torch.ops.wassrank.";
  module.def(
      "build_info",
      [] {
        pybind11::dict info;
        info["version"] = WASSRANK_VERSION;
        info["cuda_architectures"] = std::vector<std::string>(WASSRANK_CUDA_ARCHITECTURES);
        info["cpu_instruction_sets"] = std::vector<std::string>{
#if defined(__x86_64__)
            "avx512", "avx2",
#endif
            "baseline"};
        info["cpu_instruction_set_in_use"] = wassrank::cpu::kernels().instruction_set;
        return info;
      },
      "Version, CUDA architectures compiled (\"80\", \"90\", ...), CPU instruction sets compiled and the one in use.");
}
