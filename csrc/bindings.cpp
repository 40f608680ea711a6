// What knows torch, with tensors.h and pairs.h: reads tensors into the kernels' argument structs, registers the
// operators' kernels through torch's stable ABI (one binary serves torch 2.11 to 2.14), and makes wassrank._C, which
// tells how it was built.
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
#include <utility>
#include <vector>

#include "cpu/kernels.h"
#include "cuda/tuning.h"
#include "direct.h"
#include "gaussian.h"
#include "pairs.h"
#include "tensors.h"
#if WASSRANK_WITH_CUDA
#include "cuda/device.h"
#include "cuda/kernels.h"
// Weak: torch built without CUDA has no such symbol, and this library must load there.
extern "C" __attribute__((weak)) AOTITorchError aoti_torch_get_current_cuda_stream(int32_t device_index,
                                                                                   void** ret_stream);
#endif

namespace wassrank {
namespace {

using Outputs = std::tuple<Tensor, Tensor, Tensor>;

void check_sizes(const Rows& rows) {
  if (rows.Q < 0 || rows.N < 0 || rows.K < 0 ||
      (rows.K != rows.N && (rows.Q == 0 ? rows.N != 0 : rows.N % rows.Q != 0 || rows.N / rows.Q != rows.K))) {
    throw std::invalid_argument("wassrank: labels [Q, K] need scores [Q, K] or [Q, Q*K]");
  }
  if (rows.levels < 1 || rows.levels > kMaxLevels || rows.in_batch < kExcluded || rows.in_batch >= rows.levels) {
    throw std::invalid_argument("wassrank: num_levels or in_batch out of range");
  }
}

Rows rows_of(const Tensor& scores, const Tensor& labels, const std::optional<Tensor>& mask,
             const std::optional<Tensor>& offsets, int64_t in_batch, int64_t levels, double temperature) {
  const int64_t dim = offsets ? 1 : 2;
  STD_TORCH_CHECK(scores.dim() == dim && labels.dim() == dim && labels.size(0) == scores.size(0),
                  "wassrank: scores are [Q, N] and labels [Q, N] or [Q, K]; packed, both are [T]");
  check_contiguous(scores);
  check_contiguous(labels);
  Rows rows{};
  rows.scores = scores.data_ptr();
  rows.labels = labels.data_ptr();
  rows.N = scores.size(dim - 1);
  rows.K = labels.size(dim - 1);
  rows.stride = rows.N;
  rows.dtype = dtype_of(scores);
  rows.label_bytes = static_cast<int>(labels.element_size());
  rows.label_signed = labels.scalar_type() != ScalarType::Byte;
  rows.in_batch = static_cast<int>(in_batch);
  rows.levels = static_cast<int>(levels);
  rows.temperature = temperature;
  if (offsets) {
    STD_TORCH_CHECK(offsets->numel() >= 1, "wassrank: offsets are [Q + 1]");
    check_elements("offsets", *offsets, ScalarType::Long, offsets->numel());
    rows.offsets = static_cast<const int64_t*>(offsets->data_ptr());
    rows.Q = offsets->numel() - 1;
    if (scores.is_cpu()) check_offsets(rows);
  } else {
    rows.Q = scores.size(0);
  }
  check_sizes(rows);
  if (mask) {
    check_contiguous(*mask);
    const bool per_row = mask->numel() == scores.numel() && mask->size(mask->dim() - 1) == rows.N;
    STD_TORCH_CHECK(per_row || (!offsets && mask->numel() == rows.N),
                    "wassrank: mask has neither the shape of scores nor of labels");
    rows.mask = static_cast<const bool*>(mask->data_ptr());
    rows.mask_stride = per_row ? rows.N : 0;
  }
  return rows;
}

// A given target's pointer and width, which are null and 0 without one.
std::pair<const void*, int64_t> target_of(const std::optional<Tensor>& target, const Tensor& scores,
                                          const Tensor& labels) {
  if (!target) return {nullptr, 0};
  STD_TORCH_CHECK(target->dim() == scores.dim(), "wassrank: target has neither the shape of scores nor of labels");
  const int64_t width = target->size(target->dim() - 1);
  const bool dense = width == scores.size(scores.dim() - 1);
  check_elements("target", *target, computing(scores), dense ? scores.numel() : labels.numel());
  return {target->data_ptr(), width};
}

const int64_t* positives_of(const std::optional<Tensor>& positives, int64_t Q) {
  if (!positives) return nullptr;
  check_elements("positives", *positives, ScalarType::Long, Q);
  return static_cast<const int64_t*>(positives->data_ptr());
}

// What every forward is given beside its rows.
struct ForwardInputs {
  const Tensor &scores, &labels;
  const std::optional<Tensor>&target, &weight, &label_temperatures, &positives;
};

void read_inputs(const ForwardInputs& from, RowLossesForward& args) {
  const ScalarType dtype = computing(from.scores);
  const int64_t Q = args.rows.Q;
  STD_TORCH_CHECK((args.target_kind == Target::given) == from.target.has_value(),
                  "wassrank: target tensor and kind disagree");
  std::tie(args.target, args.target_width) = target_of(from.target, from.scores, from.labels);
  if (from.weight) {
    check_elements("weight", *from.weight, dtype, Q);
    args.weight = from.weight->data_ptr();
  }
  if (from.label_temperatures) {
    check_elements("label_temperatures", *from.label_temperatures, dtype, Q);
    args.label_temperatures = from.label_temperatures->data_ptr();
  }
  args.positives = positives_of(from.positives, Q);
}

// Loss, state and scale, where the kernels are to write them.
Outputs make_outputs(const Tensor& scores, int64_t state_width, RowLossesForward& args) {
  const ScalarType dtype = computing(scores);
  const int64_t Q = args.rows.Q;
  const Tensor loss = args.reduction == Reduction::none ? torch::stable::new_empty(scores, {Q}, dtype)
                                                        : torch::stable::new_empty(scores, {}, dtype);
  const Tensor state = torch::stable::new_empty(scores, {Q, state_width}, dtype);
  const Tensor scale = torch::stable::new_empty(scores, {}, dtype);
  args.loss = loss.data_ptr();
  args.state = state.data_ptr();
  args.scale = scale.data_ptr();
  return {loss, state, scale};
}

// What every backward is given beside its rows.
struct BackwardInputs {
  const Tensor &grad_loss, &scores, &labels;  // labels: or what has their shape
  const std::optional<Tensor>& target;
  const Tensor &state, &scale;
};

// Returns the gradient, where the kernels are to write it.
Tensor read_inputs(const BackwardInputs& from, int64_t state_width, RowLossesBackward& args) {
  const ScalarType dtype = computing(from.scores);
  args.grad_per_row = from.grad_loss.dim() != 0;
  check_elements("grad_loss", from.grad_loss, dtype, args.grad_per_row ? args.rows.Q : 1);
  check_elements("state", from.state, dtype, args.rows.Q * state_width);
  check_elements("scale", from.scale, dtype, 1);
  std::tie(args.target, args.target_width) = target_of(from.target, from.scores, from.labels);
  args.grad_loss = from.grad_loss.data_ptr();
  args.state = from.state.data_ptr();
  args.scale = from.scale.data_ptr();
  const Tensor grad_scores = torch::stable::empty_like(from.scores);
  args.grad_scores = grad_scores.data_ptr();
  return grad_scores;
}

// What one device does with the arguments; `scores`, or values, say which device.
template <class Arguments>
using Run = void (*)(Arguments&, const Tensor& scores);

template <Run<LevelLossesForward> run>
Outputs level_losses(Tensor scores, Tensor labels, std::optional<Tensor> target, std::optional<Tensor> mask,
                     std::optional<Tensor> weight, std::optional<Tensor> label_temperatures,
                     std::optional<Tensor> positives, std::optional<Tensor> offsets, std::optional<Tensor> position,
                     double wasserstein, double info_nce, double kl, int64_t target_kind, int64_t reduction,
                     int64_t in_batch, int64_t num_levels, double p, double temperature, double label_temperature) {
  LevelLossesForward args{};
  args.rows = rows_of(scores, labels, mask, offsets, in_batch, num_levels, temperature);
  args.terms = {wasserstein, info_nce, kl};
  args.target_kind = static_cast<Target>(target_kind);
  args.reduction = static_cast<Reduction>(reduction);
  args.p = p;
  args.label_temperature = label_temperature;
  read_inputs({scores, labels, target, weight, label_temperatures, positives}, args);
  if (position) {
    STD_TORCH_CHECK(position->is_cpu(), "wassrank: position lies on the host");
    check_elements("position", *position, ScalarType::Double, num_levels);
    args.position = static_cast<const double*>(position->data_ptr());
  }
  const Outputs outputs = make_outputs(scores, StateLayout{args.rows.levels, args.terms.affine()}.width(), args);
  run(args, scores);
  return outputs;
}

template <Run<const LevelLossesBackward> run>
Tensor level_losses_backward(Tensor grad_loss, Tensor scores, Tensor labels, std::optional<Tensor> target,
                             std::optional<Tensor> mask, std::optional<Tensor> positives, std::optional<Tensor> offsets,
                             Tensor state, Tensor scale, int64_t in_batch, int64_t num_levels, double temperature) {
  LevelLossesBackward args{};
  args.rows = rows_of(scores, labels, mask, offsets, in_batch, num_levels, temperature);
  STD_TORCH_CHECK(state.dim() == 2, "wassrank: state is [Q, numbers a row]");
  args.affine = state.size(1) != num_levels + 1;
  args.positives = positives_of(positives, args.rows.Q);
  const int width = StateLayout{args.rows.levels, args.affine}.width();
  const Tensor gradient = read_inputs({grad_loss, scores, labels, target, state, scale}, width, args);
  run(args, scores);
  return gradient;
}

template <Run<SortedForward> run>
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> sorted_losses(
    Tensor scores, Tensor labels, std::optional<Tensor> order, std::optional<Tensor> target, std::optional<Tensor> mask,
    std::optional<Tensor> weight, std::optional<Tensor> label_temperatures, std::optional<Tensor> positives,
    std::optional<Tensor> offsets, std::optional<Tensor> position, double wasserstein, double info_nce, double kl,
    int64_t target_kind, int64_t reduction, int64_t in_batch, double others_label, double p, double temperature,
    double label_temperature) {
  const ScalarType dtype = computing(scores);
  const int64_t passages = labels.numel();
  SortedForward args{};
  args.rows = rows_of(scores, labels, mask, offsets, in_batch, 1, temperature);
  check_elements("labels", labels, dtype, passages);
  STD_TORCH_CHECK(order || scores.is_cpu(), "wassrank: order is found by the CPU's kernels alone");
  if (order) {
    check_elements("order", *order, ScalarType::Int, passages);
    args.order = static_cast<const int32_t*>(order->data_ptr());
  }
  if (position) {
    check_elements("position", *position, dtype, passages);
    args.position = position->data_ptr();
  }
  args.terms = {wasserstein, info_nce, kl};
  args.others_label = others_label;
  args.target_kind = static_cast<Target>(target_kind);
  args.reduction = static_cast<Reduction>(reduction);
  args.p = p;
  args.label_temperature = label_temperature;
  read_inputs({scores, labels, target, weight, label_temperatures, positives}, args);
  const auto [loss, state, scale] = make_outputs(scores, SortedState::width, args);
  const Tensor coefficient = torch::stable::empty_like(labels);
  const Tensor constant =
      args.terms.affine() ? torch::stable::empty_like(labels) : torch::stable::new_empty(scores, {0}, dtype);
  args.coefficient = coefficient.data_ptr();
  args.constant = args.terms.affine() ? constant.data_ptr() : nullptr;
  run(args, scores);
  return {loss, coefficient, constant, state, scale};
}

template <Run<const SortedBackward> run>
Tensor sorted_losses_backward(Tensor grad_loss, Tensor scores, Tensor coefficient, std::optional<Tensor> constant,
                              std::optional<Tensor> target, std::optional<Tensor> mask, std::optional<Tensor> offsets,
                              Tensor state, Tensor scale, double temperature) {
  const ScalarType dtype = computing(scores);
  SortedBackward args{};
  args.rows = rows_of(scores, coefficient, mask, offsets, 0, 1, temperature);
  check_elements("coefficient", coefficient, dtype, coefficient.numel());
  args.coefficient = coefficient.data_ptr();
  if (constant) {
    check_elements("constant", *constant, dtype, coefficient.numel());
    args.constant = constant->data_ptr();
  }
  const Tensor gradient = read_inputs({grad_loss, scores, coefficient, target, state, scale}, SortedState::width, args);
  run(args, scores);
  return gradient;
}

void parallel_for(int64_t n, int64_t grain, const std::function<void(int64_t, int64_t)>& body) {
  torch::stable::parallel_for(0, n, grain, body);
}

void forward_on_cpu(LevelLossesForward& args, const Tensor&) {
  if (const auto stray = cpu::kernels().level_losses_forward(args, parallel_for)) {
    direct::refuse(*stray, args.rows.levels);
  }
}

void backward_on_cpu(const LevelLossesBackward& args, const Tensor&) {
  cpu::kernels().level_losses_backward(args, parallel_for);
}

void sorted_forward_on_cpu(SortedForward& args, const Tensor&) {
  const auto refusal = cpu::kernels().sorted_losses_forward(args, parallel_for);
  if (!refusal) return;
  if (refusal->what == cpu::Refusal::of_order) {
    throw std::invalid_argument(
        "order is not the order of these labels: pass what wassrank.grade_order gives for them (for position, where "
        "that "
        "is given), or none");
  }
  throw std::invalid_argument("labels hold " + std::to_string(refusal->label) +
                              ": a passage with no place on the line; mark padding with mask, not with a label");
}

void sorted_backward_on_cpu(const SortedBackward& args, const Tensor&) {
  cpu::kernels().sorted_losses_backward(args, parallel_for);
}

template <Run<const GradeOrder> run>
Tensor grade_order(Tensor values, std::optional<Tensor> offsets) {
  check_contiguous(values);
  GradeOrder args{};
  args.is_double = values.scalar_type() == ScalarType::Double;
  STD_TORCH_CHECK(args.is_double || values.scalar_type() == ScalarType::Float, "wassrank: values are floats");
  STD_TORCH_CHECK(values.dim() == (offsets ? 1 : 2), "wassrank: values are [Q, K]; packed [T]");
  args.columns = values.size(values.dim() - 1);
  STD_TORCH_CHECK(args.columns < int64_t{1} << 31, "wassrank: places are counted in 32 bits");
  args.rows = offsets ? offsets->numel() - 1 : values.size(0);
  if (offsets) {
    check_elements("offsets", *offsets, ScalarType::Long, args.rows + 1);
    args.offsets = static_cast<const int64_t*>(offsets->data_ptr());
  }
  args.values = values.data_ptr();
  const Tensor order = torch::stable::new_empty(values, values.sizes(), ScalarType::Int);
  args.order = static_cast<int32_t*>(order.data_ptr());
  run(args, values);
  return order;
}

void order_on_cpu(const GradeOrder& args, const Tensor&) {
  if (args.offsets) check_offsets({.offsets = args.offsets, .Q = args.rows, .N = args.columns});
  cpu::kernels().grade_order(args, parallel_for);
}

PairOutputs wasserstein_1d_on_cpu(Tensor u_values, Tensor v_values, std::optional<Tensor> u_weights,
                                  std::optional<Tensor> v_weights, std::optional<Tensor> u_mask,
                                  std::optional<Tensor> v_mask, std::optional<Tensor> u_offsets,
                                  std::optional<Tensor> v_offsets, int64_t pairs, int64_t wanted, double p) {
  return couple_pairs({u_values, u_weights, u_mask, u_offsets}, {v_values, v_weights, v_mask, v_offsets}, pairs, wanted,
                      p, [](const Wasserstein1d& args) {
                        const auto refusal = cpu::kernels().wasserstein_1d(args, parallel_for);
                        if (refusal) direct::refuse(*refusal);
                      });
}

STABLE_TORCH_LIBRARY_IMPL(wassrank, CPU, library) {
  library.impl("wasserstein_1d", TORCH_BOX(&wasserstein_1d_on_cpu));
  library.impl("grade_order", TORCH_BOX(&grade_order<&order_on_cpu>));
  library.impl("sorted_losses", TORCH_BOX(&sorted_losses<&sorted_forward_on_cpu>));
  library.impl("sorted_losses_backward", TORCH_BOX(&sorted_losses_backward<&sorted_backward_on_cpu>));
  library.impl("level_losses", TORCH_BOX(&level_losses<&forward_on_cpu>));
  library.impl("level_losses_backward", TORCH_BOX(&level_losses_backward<&backward_on_cpu>));
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

void forward_on_cuda(LevelLossesForward& args, const Tensor& scores) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  const Tensor workspace = torch::stable::new_empty(scores, {2 * args.rows.Q}, computing(scores));
  args.workspace = workspace.data_ptr();
  check_launch(cuda::level_losses_forward(args, tuning_for(scores), current_stream(scores)));
}

void backward_on_cuda(const LevelLossesBackward& args, const Tensor& scores) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  check_launch(cuda::level_losses_backward(args, tuning_for(scores), current_stream(scores)));
}

void sorted_forward_on_cuda(SortedForward& args, const Tensor& scores) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  const cuda::Tuning tuning = tuning_for(scores);
  const auto bytes = static_cast<int64_t>(cuda::sorted_losses_workspace(args.rows, args.p, tuning));
  const Tensor workspace = torch::stable::new_empty(scores, {2 * args.rows.Q}, computing(scores));
  const Tensor lines = torch::stable::new_empty(scores, {bytes}, ScalarType::Byte);
  args.workspace = workspace.data_ptr();
  args.lines = lines.data_ptr();
  check_launch(cuda::sorted_losses_forward(args, tuning, current_stream(scores)));
}

void sorted_backward_on_cuda(const SortedBackward& args, const Tensor& scores) {
  const torch::stable::accelerator::DeviceGuard guard(scores.get_device_index());
  check_launch(cuda::sorted_losses_backward(args, tuning_for(scores), current_stream(scores)));
}

void order_on_cuda(const GradeOrder& args, const Tensor& values) {
  const torch::stable::accelerator::DeviceGuard guard(values.get_device_index());
  if (args.offsets) throw std::invalid_argument("wassrank: CUDA's grade_order takes no packed lists");
  check_launch(cuda::grade_order(args, current_stream(values)));
}

// A side's order: the one that is given, or found here, which goes for rows of up to longest_order().
Tensor order_of(const PointRows& side, const Tensor& values, const std::optional<Tensor>& given, int64_t pairs,
                void* stream) {
  const int64_t points = side.orders(pairs) * side.columns;
  if (given) {
    check_elements("order", *given, ScalarType::Int, points);
    return *given;
  }
  STD_TORCH_CHECK(!side.offsets, "wassrank: CUDA kernels are handed the order of packed points");
  const Tensor order = torch::stable::new_empty(values, {points}, ScalarType::Int);
  check_launch(cuda::point_order(side, pairs, dtype_of(values), static_cast<int32_t*>(order.data_ptr()), stream));
  return order;
}

PairOutputs wasserstein_1d_on_cuda(Tensor u_values, Tensor v_values, std::optional<Tensor> u_weights,
                                   std::optional<Tensor> v_weights, std::optional<Tensor> u_mask,
                                   std::optional<Tensor> v_mask, std::optional<Tensor> u_offsets,
                                   std::optional<Tensor> v_offsets, std::optional<Tensor> u_order,
                                   std::optional<Tensor> v_order, int64_t pairs, int64_t wanted, double p) {
  return couple_pairs({u_values, u_weights, u_mask, u_offsets}, {v_values, v_weights, v_mask, v_offsets}, pairs, wanted,
                      p, [&](const Wasserstein1d& args) {
                        const torch::stable::accelerator::DeviceGuard guard(u_values.get_device_index());
                        const cuda::Tuning tuning = tuning_for(u_values);
                        void* const stream = current_stream(u_values);
                        const Tensor of_u = order_of(args.u, u_values, u_order, pairs, stream);
                        const Tensor of_v = order_of(args.v, v_values, v_order, pairs, stream);
                        const auto bytes = static_cast<int64_t>(cuda::wasserstein_1d_workspace(args, tuning));
                        const Tensor lines = torch::stable::new_empty(u_values, {bytes}, ScalarType::Byte);
                        const cuda::SortedPairs sorted{args, static_cast<const int32_t*>(of_u.data_ptr()),
                                                       static_cast<const int32_t*>(of_v.data_ptr()), lines.data_ptr()};
                        check_launch(cuda::wasserstein_1d(sorted, tuning, stream));
                      });
}

STABLE_TORCH_LIBRARY_IMPL(wassrank, CUDA, library) {
  library.impl("wasserstein_1d_ordered", TORCH_BOX(&wasserstein_1d_on_cuda));
  library.impl("grade_order", TORCH_BOX(&grade_order<&order_on_cuda>));
  library.impl("sorted_losses", TORCH_BOX(&sorted_losses<&sorted_forward_on_cuda>));
  library.impl("sorted_losses_backward", TORCH_BOX(&sorted_losses_backward<&sorted_backward_on_cuda>));
  library.impl("level_losses", TORCH_BOX(&level_losses<&forward_on_cuda>));
  library.impl("level_losses_backward", TORCH_BOX(&level_losses_backward<&backward_on_cuda>));
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

#if WASSRANK_WITH_CUDA

Dtype dtype_named(const std::string& name) {
  if (name == "float64") return Dtype::float64;
  if (name == "float32") return Dtype::float32;
  if (name == "float16") return Dtype::float16;
  if (name == "bfloat16") return Dtype::bfloat16;
  throw std::invalid_argument("dtype must be float64, float32, float16 or bfloat16, got \"" + name + "\"");
}

// Of rows whose lists, if they are packed, nobody looks at.
Rows rows_of_size(const std::string& dtype, int64_t Q, int64_t N, int64_t K, int in_batch, int levels, bool packed) {
  static constexpr int64_t kUnread = 0;
  Rows rows{};
  rows.dtype = dtype_named(dtype);
  rows.Q = Q;
  rows.N = N;
  rows.K = K;
  rows.in_batch = in_batch;
  rows.levels = levels;
  if (packed) rows.offsets = &kUnread;
  check_sizes(rows);
  return rows;
}

pybind11::list as_list(const std::vector<cuda::Launch>& launches) {
  pybind11::list list;
  for (const auto& [kernel, shape] : launches) {
    const auto tuple = [](const cuda::Extent& of) { return pybind11::make_tuple(of.x, of.y, of.z); };
    pybind11::dict launch;
    launch["kernel"] = kernel;
    launch["grid"] = tuple(shape.grid);
    launch["block"] = tuple(shape.block);
    launch["shared_bytes"] = shape.shared_bytes;
    list.append(launch);
  }
  return list;
}

Reduction reduction_of(bool reduced) { return reduced ? Reduction::sum : Reduction::none; }

pybind11::list level_losses_launches(const std::string& dtype, int64_t Q, int64_t N, int64_t K, int in_batch,
                                     int num_levels, bool reduced, int capability, bool affine, bool packed) {
  const Rows rows = rows_of_size(dtype, Q, N, K, in_batch, num_levels, packed);
  return as_list(cuda::level_losses_launches(rows, affine, reduction_of(reduced), tunings.at(capability)));
}

std::pair<pybind11::list, size_t> sorted_losses_launches(const std::string& dtype, int64_t Q, int64_t N, int64_t K,
                                                         int in_batch, double p, bool reduced, int capability,
                                                         bool packed) {
  const Rows rows = rows_of_size(dtype, Q, N, K, in_batch, 1, packed);
  const cuda::Tuning tuning = tunings.at(capability);
  return {as_list(cuda::sorted_losses_launches(rows, p, reduction_of(reduced), tuning)),
          cuda::sorted_losses_workspace(rows, p, tuning)};
}

pybind11::list gaussian_wasserstein_launches(const std::string& dtype, int64_t Q, int64_t N) {
  GaussianBatch batch{};
  batch.dtype = dtype_named(dtype);
  batch.Q = Q;
  batch.N = N;
  return as_list(cuda::gaussian_wasserstein_launches(batch));
}

pybind11::list grade_order_launches(bool is_double, int64_t rows, int64_t columns) {
  return as_list(cuda::grade_order_launches(is_double, rows, columns));
}

// Of pairs whose lists, if they are packed, nobody looks at.
std::pair<pybind11::list, size_t> wasserstein_1d_launches(const std::string& dtype, int64_t pairs, int64_t n, int64_t m,
                                                          bool weighted, int wanted, int capability, bool packed) {
  static constexpr int64_t kUnread = 0;
  static char unread = 0;
  Wasserstein1d args{};
  args.pairs = pairs;
  args.dtype = dtype_named(dtype);
  args.u.columns = n;
  args.v.columns = m;
  for (PointRows* side : {&args.u, &args.v}) {
    const int bit = side == &args.v;
    if (weighted) side->weights = &unread;
    if (packed) side->offsets = &kUnread;
    if ((wanted >> bit & 1) != 0) side->slope = &unread;
    if ((wanted >> bit & 4) != 0) side->potential = &unread;
  }
  const cuda::Tuning tuning = tunings.at(capability);
  return {as_list(cuda::wasserstein_1d_launches(args, tuning)), cuda::wasserstein_1d_workspace(args, tuning)};
}

#endif  // WASSRANK_WITH_CUDA

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
  using pybind11::gil_scoped_release;
  module.def("level_losses", &direct::level_losses<&parallel_for>, pybind11::call_guard<gil_scoped_release>(),
             "wassrank::level_losses on the CPU, called with addresses: wassrank/ops/direct.py.");
  module.def("level_losses_backward", &direct::level_losses_backward<&parallel_for>,
             pybind11::call_guard<gil_scoped_release>(), "And its backward.");
  module.def("wasserstein_1d", &direct::wasserstein_1d<&parallel_for>, pybind11::call_guard<gil_scoped_release>(),
             "wassrank::wasserstein_1d on the CPU, likewise.");
  pybind11::class_<direct::LevelTiles>(module, "LevelTiles",
                                       "The level losses by tiles, on the CPU: wassrank/embeddings/native_tiles.py.")
      .def(pybind11::init(&direct::level_tiles))
      .def("gather", &direct::gather_tile<&parallel_for>, pybind11::call_guard<gil_scoped_release>())
      .def("finish", &direct::finish_tiles<&parallel_for>, pybind11::call_guard<gil_scoped_release>())
      .def("gradient", &direct::tile_gradient<&parallel_for>, pybind11::call_guard<gil_scoped_release>());
  direct::define_gaussian_passes<&parallel_for>(module);
  module.def("cuda_driver_version", &cuda_driver_version,
             "The newest CUDA the driver here serves, 13000 for 13.0; 0 without a driver, or built without CUDA.");
#if WASSRANK_WITH_CUDA
  module.def("level_losses_launches", &level_losses_launches, arg("dtype"), arg("Q"), arg("N"), arg("K"),
             arg("in_batch"), arg("num_levels"), arg("reduced"), arg("capability") = 0, arg("affine") = false,
             arg("packed") = false,
             "What the CUDA kernels would be launched with, forward, reduction and backward, with the tuning of "
             "`capability`; affine: with InfoNCE or KL. Needs no GPU.");
  module.def("sorted_losses_launches", &sorted_losses_launches, arg("dtype"), arg("Q"), arg("N"), arg("K"),
             arg("in_batch"), arg("p"), arg("reduced"), arg("capability") = 0, arg("packed") = false,
             "The same for labels that are floats, and the bytes of workspace the forward would ask for.");
  module.def("gaussian_wasserstein_launches", &gaussian_wasserstein_launches, arg("dtype"), arg("Q"), arg("N"),
             "What each pass over scores [Q, N] would be launched with, a tile and a gradient of all columns.");
  module.def("grade_order_launches", &grade_order_launches, arg("is_double"), arg("rows"), arg("columns"),
             "The same for the order of rows side by side.");
  module.def("wasserstein_1d_launches", &wasserstein_1d_launches, arg("dtype"), arg("pairs"), arg("n"), arg("m"),
             arg("weighted"), arg("wanted"), arg("capability") = 0, arg("packed") = false,
             "The same for the 1-D distance of pairs whose orders are known, and the bytes of its workspace.");
#endif
  module.def(
      "tuning", [](int capability) { return cuda::values_of(tunings.at(capability)); }, arg("capability"),
      "How the CUDA kernels divide rows among threads on GPUs of `capability`, 90 for sm_90; 0: the defaults.");
  module.def(
      "set_tuning",
      [](int capability, const cuda::TuningValues& values) { tunings.set(capability, cuda::tuning_of(values)); },
      arg("capability"), arg("values"), "From now on `values`, and defaults for what they do not name.");
}
