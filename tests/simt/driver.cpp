// Runs cases of the grade-axis kernels on simt.h:  driver CASES RESULTS
//
// CASES holds, one case after the other, the numbers of `Header` and the input arrays as they lie in memory; RESULTS
// gets each case's outputs. tests/test_simt.py writes and reads them. Forward runs first and its state and scale feed
// the backward, as in training. Every array is an allocation of just its size, and outputs start as poison.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <span>
#include <vector>

#include "cuda/kernels.h"
#include "simt.h"

namespace {

using namespace wassrank;

struct Header {
  int64_t Q, N, K, dtype, label_bytes, label_signed, in_batch, levels, target_kind, target_width, reduction,
      mask_stride, has_mask, has_weight, grad_per_row;
  int64_t misaligned;  // elements between a 16-byte boundary and the first score
  double temperature, p, label_temperature;
};

constexpr int64_t kGuard = 64;  // bytes on either side of an output
constexpr unsigned char kGuardByte = 0xa5;

// Bytes that start `offset` after a 16-byte boundary.
class Buffer {
 public:
  Buffer(int64_t bytes, int64_t offset = 0)
      : bytes_(bytes), offset_(offset), memory_(new unsigned char[offset + bytes]) {}
  unsigned char* data() { return memory_.get() + offset_; }
  void read(std::istream& from) { from.read(reinterpret_cast<char*>(data()), bytes_); }

 private:
  int64_t bytes_, offset_;
  std::unique_ptr<unsigned char[]> memory_;
};

// Poison between guards. Under AddressSanitizer the guards are its own, outside of the allocation.
class Output {
 public:
  explicit Output(int64_t bytes) : bytes_(bytes), buffer_(bytes + 2 * guard()) {
    std::fill_n(buffer_.data(), bytes + 2 * guard(), kGuardByte);
    std::fill_n(data(), bytes, static_cast<unsigned char>(simt::kPoison));
  }
  unsigned char* data() { return buffer_.data() + guard(); }
  void write(std::ostream& to) {
    to.write(reinterpret_cast<const char*>(data()), bytes_);
    const auto intact = [](unsigned char byte) { return byte == kGuardByte; };
    if (!std::all_of(data() - guard(), data(), intact) ||
        !std::all_of(data() + bytes_, data() + bytes_ + guard(), intact)) {
      std::fprintf(stderr, "driver: a kernel wrote outside of an output\n");
      std::exit(2);
    }
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t guard() { return 0; }
#else
  static constexpr int64_t guard() { return kGuard; }
#endif
  int64_t bytes_;
  Buffer buffer_;
};

void check(const char* error) {
  if (!error) return;
  std::fprintf(stderr, "driver: %s\n", error);
  std::exit(2);
}

void run_case(const Header& h, std::istream& cases, std::ostream& results) {
  const int64_t stored = h.dtype == 0 ? 8 : h.dtype == 1 ? 4 : 2, computed = h.dtype == 0 ? 8 : 4;
  const bool per_row = static_cast<Reduction>(h.reduction) == Reduction::none;

  Buffer scores(h.Q * h.N * stored, h.misaligned * stored), labels(h.Q * h.K * h.label_bytes);
  Buffer mask(h.has_mask * (h.mask_stride == 0 ? h.N : h.Q * h.N));
  Buffer target(h.Q * h.target_width * computed), weight(h.has_weight * h.Q * computed);
  Buffer grad_loss((h.grad_per_row ? h.Q : 1) * computed);
  for (Buffer* input : {&scores, &labels, &mask, &target, &weight, &grad_loss}) input->read(cases);
  Output loss((per_row ? h.Q : 1) * computed), state(h.Q * (h.levels + 1) * computed), scale(computed);
  Output workspace(2 * h.Q * computed), grad_scores(h.Q * h.N * stored);

  Rows rows{};
  rows.scores = scores.data();
  rows.labels = labels.data();
  rows.mask = h.has_mask ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
  rows.mask_stride = h.mask_stride;
  rows.Q = h.Q;
  rows.N = h.N;
  rows.K = h.K;
  rows.dtype = static_cast<Dtype>(h.dtype);
  rows.label_bytes = static_cast<int>(h.label_bytes);
  rows.label_signed = h.label_signed;
  rows.in_batch = static_cast<int>(h.in_batch);
  rows.levels = static_cast<int>(h.levels);
  rows.temperature = h.temperature;

  GradeWassersteinForward forward{};
  forward.rows = rows;
  forward.target_kind = static_cast<Target>(h.target_kind);
  forward.target = forward.target_kind == Target::given ? target.data() : nullptr;
  forward.target_width = h.target_width;
  forward.weight = h.has_weight ? weight.data() : nullptr;
  forward.reduction = static_cast<Reduction>(h.reduction);
  forward.p = h.p;
  forward.label_temperature = h.label_temperature;
  forward.loss = loss.data();
  forward.state = state.data();
  forward.scale = scale.data();
  forward.workspace = workspace.data();
  check(cuda::grade_wasserstein_forward(forward, nullptr));

  GradeWassersteinBackward backward{};
  backward.rows = rows;
  backward.grad_loss = grad_loss.data();
  backward.grad_per_row = h.grad_per_row;
  backward.state = state.data();
  backward.scale = scale.data();
  backward.grad_scores = grad_scores.data();
  check(cuda::grade_wasserstein_backward(backward, nullptr));

  for (Output* output : {&loss, &state, &scale, &grad_scores}) output->write(results);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 64;
  std::ifstream cases(arguments[1], std::ios::binary);
  std::ofstream results(arguments[2], std::ios::binary);
  Header header;
  while (cases.read(reinterpret_cast<char*>(&header), sizeof header)) run_case(header, cases, results);
  return results.flush() ? 0 : 2;
}
