// The CUDA kernels' entry points. Plain C++: callers need no CUDA header.
#pragma once

#include "common/rows.h"

namespace wassrank::cuda {

// Queue the work on `stream` (a cudaStream_t) of the current device and return nullptr, or the text of the launch's
// error.
const char* grade_wasserstein_forward(const GradeWassersteinForward& args, void* stream);
const char* grade_wasserstein_backward(const GradeWassersteinBackward& args, void* stream);

}  // namespace wassrank::cuda
