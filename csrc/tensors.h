// What bindings.cpp reads of any tensor, through torch's stable ABI.
#pragma once

#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <cstdint>
#include <stdexcept>

#include "common/rows.h"

namespace wassrank {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline Dtype dtype_of(const Tensor& scores) {
  switch (scores.scalar_type()) {
    case ScalarType::Double: return Dtype::float64;
    case ScalarType::Float: return Dtype::float32;
    case ScalarType::Half: return Dtype::float16;
    case ScalarType::BFloat16: return Dtype::bfloat16;
    default: STD_TORCH_CHECK(false, "wassrank: scores must be float64, float32, float16 or bfloat16");
  }
}

inline ScalarType computing(const Tensor& scores) {
  return scores.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_contiguous(const Tensor& tensor) {
  STD_TORCH_CHECK(tensor.is_contiguous(), "wassrank: kernels take contiguous tensors");
}

inline void check_elements(const char* name, const Tensor& tensor, ScalarType dtype, int64_t count) {
  check_contiguous(tensor);
  STD_TORCH_CHECK(tensor.scalar_type() == dtype && tensor.numel() == count, "wassrank: ", name,
                  " is of another dtype or size than the kernels take");
}

// Of scores where they can be read without waiting for a device: a list must not reach beyond the tensors.
inline void check_offsets(const Rows& rows) {
  bool fit = rows.offsets[0] == 0 && rows.offsets[rows.Q] == rows.N;
  for (int64_t row = 0; row < rows.Q; ++row) fit &= rows.offsets[row] <= rows.offsets[row + 1];
  if (!fit) throw std::invalid_argument("wassrank: offsets must rise from 0 to the number of packed scores");
}

}  // namespace wassrank
