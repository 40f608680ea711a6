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
const char* grade_wasserstein_forward(const GradeWassersteinForward& args, const Tuning& tuning, void* stream);
const char* grade_wasserstein_backward(const GradeWassersteinBackward& args, const Tuning& tuning, void* stream);

// What the two would launch, forward first, for rows whose pointers are not looked at. Needs no GPU.
std::vector<Launch> grade_wasserstein_launches(const Rows& rows, Reduction reduction, const Tuning& tuning);

}  // namespace wassrank::cuda
