// Calls of csrc/cuda/sorted_losses.cu: see driver.h.
#include "common/sorted_rows.h"
#include "cuda/kernels.h"
#include "driver.h"

namespace {

void run_call(const Header& h, std::istream& calls, std::ostream& results) {
  Batch batch(h, SortedState::width, calls);
  const int64_t passages = h.lines() * h.K, kept = h.whole() ? passages : 0;
  Input order(calls, passages * 4), position(calls, h.has_position * passages * h.computed());
  const bool affine = h.terms().affine();
  Output coefficient(passages * h.computed(), kept * h.computed());
  Output constant(affine * passages * h.computed(), affine * kept * h.computed());

  auto forward = batch.forward<SortedForward>();
  forward.order = reinterpret_cast<const int32_t*>(order.data());
  forward.position = h.has_position ? position.data() : nullptr;
  forward.others_label = h.others_label;
  forward.coefficient = coefficient.data();
  forward.constant = affine ? constant.data() : nullptr;
  const int64_t bytes = static_cast<int64_t>(cuda::sorted_losses_workspace(forward.rows, h.p, h.tuning()));
  Output lines(bytes, h.whole() ? bytes : 0);
  forward.lines = lines.data();
  check(cuda::sorted_losses_forward(forward, h.tuning(), nullptr));

  // As wassrank/ops/sorted_losses.py saves.
  auto backward = batch.backward<SortedBackward>(forward, h.kl != 0 && h.K != h.N && h.target_width == h.N);
  backward.rows.in_batch = 0;
  backward.coefficient = coefficient.data();
  backward.constant = forward.constant;
  check(cuda::sorted_losses_backward(backward, h.tuning(), nullptr));
  batch.write(results);
  for (Output* output : {&coefficient, &constant}) output->write(results);
  lines.check();
}

}  // namespace

int main(int count, char** arguments) { return run_calls(count, arguments, run_call); }
