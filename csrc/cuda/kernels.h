// The CUDA kernels' entry points. Plain C++: callers need no CUDA header.
#pragma once

#include <cstddef>
#include <vector>

#include "common/rows.h"
#include "cuda/tuning.h"

namespace wassrank::cuda {

struct Extent {
  unsigned x = 1, y = 1, z = 1;
};

// What a kernel is launched with.
struct Shape {
  Extent grid, block;
  size_t shared_bytes = 0;
};

struct Launch {
  const char* kernel;
  Shape shape;
};

// Queue the work on `stream` (a cudaStream_t) of the current device and return nullptr, or the text of the launch's
// error. Throw std::invalid_argument for sizes that no launch covers.
const char* level_losses_forward(const LevelLossesForward& args, const Tuning& tuning, void* stream);
const char* level_losses_backward(const LevelLossesBackward& args, const Tuning& tuning, void* stream);

// What the two would launch, forward first, for rows of which only whether they are packed is looked at, not what any
// pointer points to. Needs no GPU.
std::vector<Launch> level_losses_launches(const Rows& rows, bool affine, Reduction reduction, const Tuning& tuning);

}  // namespace wassrank::cuda
