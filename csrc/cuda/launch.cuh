// How a kernel is launched. The only file with <<<>>>, which is no C++: tests/simt puts another in its place.
#pragma once

#include <cuda_runtime.h>

#include <cstddef>

namespace wassrank::cuda {

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
};

// Queues kernel(args...) on `stream`; returns nullptr, or what went wrong in words.
template <class... Parameters, class... Args>
const char* launch(void (*kernel)(Parameters...), const Shape& shape, void* stream, const Args&... args) {
  kernel<<<shape.grid, shape.block, shape.shared_bytes, static_cast<cudaStream_t>(stream)>>>(args...);
  const cudaError_t error = cudaGetLastError();
  return error == cudaSuccess ? nullptr : cudaGetErrorString(error);
}

}  // namespace wassrank::cuda
