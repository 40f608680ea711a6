// What the CUDA runtime says of itself, the driver and the GPUs. Plain C++: callers need no CUDA header.
#pragma once

namespace wassrank::cuda {

// 13000 for 13.0, as CUDA counts.
int runtime_version();  // linked into this library
int driver_version();   // the newest runtime the driver here serves; 0 where there is none

// 90 for sm_90; 0 if the device cannot be asked. Asks the driver once a device.
int compute_capability(int device);

}  // namespace wassrank::cuda
