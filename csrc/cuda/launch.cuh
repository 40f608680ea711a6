// How a kernel is launched. The only file with <<<>>>, which is no C++: tests/simt puts another in its place.
#pragma once

#include <cuda_runtime.h>

#include "cuda/kernels.h"

namespace wassrank::cuda {

// What a kernel gets of shared memory without asking.
constexpr size_t kSharedUnasked = 48 << 10;

// Queues kernel(args...) on `stream`; returns nullptr, or what went wrong in words.
template <class... Parameters, class... Args>
const char* launch(void (*kernel)(Parameters...), const Shape& shape, void* stream, const Args&... args) {
  const auto [grid, block, shared_bytes] = shape;
  if (shared_bytes > kSharedUnasked) {
    const cudaError_t error =
        cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes));
    if (error != cudaSuccess) return cudaGetErrorString(error);
  }
  kernel<<<dim3(grid.x, grid.y, grid.z), dim3(block.x, block.y, block.z), shared_bytes,
           static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace wassrank::cuda
