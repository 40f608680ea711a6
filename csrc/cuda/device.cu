#include "cuda/device.h"

#include <cuda_runtime.h>

#include <atomic>

namespace wassrank::cuda {

int runtime_version() { return CUDART_VERSION; }

int driver_version() {
  int version = 0;
  return cudaDriverGetVersion(&version) == cudaSuccess ? version : 0;
}

int compute_capability(int device) {
  constexpr int kDevices = 64;  // beyond them the driver is asked each time
  static std::atomic<int> known[kDevices];
  const bool kept = device >= 0 && device < kDevices;
  if (const int capability = kept ? known[device].load(std::memory_order_relaxed) : 0) return capability;
  int major = 0, minor = 0;
  if (cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) != cudaSuccess ||
      cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, device) != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it
    return 0;
  }
  const int capability = 10 * major + minor;
  if (kept) known[device].store(capability, std::memory_order_relaxed);
  return capability;
}

}  // namespace wassrank::cuda
