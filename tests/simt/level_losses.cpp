// Calls of csrc/cuda/level_losses.cu: see driver.h.
#include "cuda/kernels.h"
#include "driver.h"

namespace {

void run_call(const Header& h, std::istream& calls, std::ostream& results) {
  const bool affine = h.terms().affine();
  Batch batch(h, StateLayout{static_cast<int>(h.levels), affine}.width(), calls);
  Input position(calls, h.has_position * h.levels * 8);

  auto forward = batch.forward<LevelLossesForward>();
  forward.position = h.has_position ? reinterpret_cast<const double*>(position.data()) : nullptr;
  check(cuda::level_losses_forward(forward, h.tuning(), nullptr));

  auto backward = batch.backward<LevelLossesBackward>(forward, h.kl != 0);  // as wassrank/ops/level_losses.py saves
  backward.affine = affine;
  backward.positives = h.info_nce != 0 ? forward.positives : nullptr;
  check(cuda::level_losses_backward(backward, h.tuning(), nullptr));
  batch.write(results);
}

}  // namespace

int main(int count, char** arguments) { return run_calls(count, arguments, run_call); }
