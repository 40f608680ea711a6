// Runs calls of the losses on grades on simt.h:  driver CALLS RESULTS
//
// CALLS holds, one call after the other, the numbers of `Header` and the input arrays, each as its size in bytes and
// what lies in memory; RESULTS gets each call's outputs. tests/simt/driver.py writes and reads them. Forward runs first
// and its state and scale feed the backward, as in training. Every array is an allocation of just its size, and outputs
// start as poison.
//
// Of a batch too large to hold, CALLS has only the end of each array: the rest is memory of zeros that exists when it
// is touched, only the blocks in the corners of the grids run, and RESULTS gets the ends of the outputs.
#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "cuda/kernels.h"
#include "simt.h"

namespace {

using namespace wassrank;

struct Header {
  int64_t Q, N, K, dtype, label_bytes, label_signed, in_batch, levels, target_kind, target_width,
      reduction, mask_stride, has_mask, has_weight, has_label_temperatures, has_positives, packed, has_position;
  int64_t misaligned;                 // elements between a 16-byte boundary and the first score
  int64_t last_rows, last_gradients;  // of state, unreduced loss and gradient RESULTS gets so many; 0: all
  int64_t warp_slots, slots_per_thread, max_team, short_row_threads, backward_threads;
  double wasserstein, info_nce, kl, p, temperature, label_temperature;
};

[[noreturn]] void fail(const char* what) {
  std::fprintf(stderr, "driver: %s\n", what);
  std::exit(2);
}

constexpr int64_t kGuard = 64;  // bytes on either side of an output
constexpr unsigned char kGuardByte = 0xa5;

// `bytes` that start `offset` after a 16-byte boundary, the last `held` of them in use; zeros where that is not all.
class Array {
 public:
  Array(int64_t bytes, int64_t held, int64_t offset = 0) : bytes_(bytes), held_(held), offset_(offset) {
    if (held == bytes) {
      heap_.reset(new unsigned char[offset + bytes]);
      start_ = heap_.get();
    } else {
      const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
      void* const mapped = mmap(nullptr, offset + bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
      if (mapped == MAP_FAILED) fail("no such range of addresses");
      start_ = static_cast<unsigned char*>(mapped);
    }
  }
  Array(const Array&) = delete;
  ~Array() {
    if (!heap_) munmap(start_, offset_ + bytes_);
  }
  unsigned char* data() { return start_ + offset_; }
  unsigned char* in_use() { return data() + bytes_ - held_; }
  int64_t held() const { return held_; }

 private:
  int64_t bytes_, held_, offset_;
  std::unique_ptr<unsigned char[]> heap_;
  unsigned char* start_;
};

// Its end, or all of it, comes from `from`.
class Input : public Array {
 public:
  Input(std::istream& from, int64_t bytes, int64_t offset = 0) : Array(bytes, size(from), offset) {
    from.read(reinterpret_cast<char*>(in_use()), held());
  }

 private:
  static int64_t size(std::istream& from) {
    int64_t bytes = 0;
    from.read(reinterpret_cast<char*>(&bytes), sizeof bytes);
    return bytes;
  }
};

// Poison between guards. Under AddressSanitizer the guards are its own, outside of the allocation.
class Output {
 public:
  Output(int64_t bytes, int64_t held)
      : guard_(held == bytes ? kAround : 0), array_(bytes + 2 * guard_, held + 2 * guard_) {
    std::fill_n(array_.in_use(), array_.held(), kGuardByte);
    std::fill_n(array_.in_use() + guard_, held, static_cast<unsigned char>(simt::kPoison));
  }
  unsigned char* data() { return array_.data() + guard_; }
  void write(std::ostream& to) {
    unsigned char *const begin = array_.in_use() + guard_, *const end = array_.in_use() + array_.held() - guard_;
    to.write(reinterpret_cast<const char*>(begin), end - begin);
    const auto intact = [](unsigned char byte) { return byte == kGuardByte; };
    if (!std::all_of(begin - guard_, begin, intact) || !std::all_of(end, end + guard_, intact)) {
      fail("a kernel wrote outside of an output");
    }
  }

 private:
#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kAround = 0;
#else
  static constexpr int64_t kAround = kGuard;
#endif
  const int64_t guard_;
  Array array_;
};

void check(const char* error) {
  if (error) fail(error);
}

void run_call(const Header& h, std::istream& calls, std::ostream& results) {
  const int64_t stored = h.dtype == 0 ? 8 : h.dtype == 1 ? 4 : 2, computed = h.dtype == 0 ? 8 : 4;
  const bool per_row = static_cast<Reduction>(h.reduction) == Reduction::none, whole = h.last_rows == 0;
  const int64_t lines = h.packed ? 1 : h.Q, elements = lines * h.N;
  const int64_t rows_kept = whole ? h.Q : h.last_rows, gradients_kept = whole ? elements : h.last_gradients;
  const int64_t losses = per_row ? h.Q : 1, losses_kept = per_row ? rows_kept : 1;
  const Terms terms{h.wasserstein, h.info_nce, h.kl};
  const int64_t state_bytes = StateLayout{static_cast<int>(h.levels), terms.affine()}.width() * computed;
  simt::corners_only = !whole;

  Input scores(calls, elements * stored, h.misaligned * stored), labels(calls, lines * h.K * h.label_bytes);
  Input target(calls, lines * h.target_width * computed);
  Input mask(calls, h.has_mask * (h.mask_stride == 0 ? h.N : elements));
  Input weight(calls, h.has_weight * h.Q * computed);
  Input label_temperatures(calls, h.has_label_temperatures * h.Q * computed);
  Input positives(calls, h.has_positives * h.Q * 8), offsets(calls, h.packed * (h.Q + 1) * 8);
  Input position(calls, h.has_position * h.levels * 8), grad_loss(calls, losses * computed);
  Output loss(losses * computed, losses_kept * computed), scale(computed, computed);
  Output state(h.Q * state_bytes, rows_kept * state_bytes);
  Output workspace(2 * h.Q * computed, whole ? 2 * h.Q * computed : 0);
  Output grad_scores(elements * stored, gradients_kept * stored);

  Rows rows{};
  rows.scores = scores.data();
  rows.labels = labels.data();
  rows.mask = h.has_mask ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
  rows.mask_stride = h.mask_stride;
  rows.offsets = h.packed ? reinterpret_cast<const int64_t*>(offsets.data()) : nullptr;
  rows.Q = h.Q;
  rows.N = h.N;
  rows.K = h.K;
  rows.dtype = static_cast<Dtype>(h.dtype);
  rows.label_bytes = static_cast<int>(h.label_bytes);
  rows.label_signed = h.label_signed;
  rows.in_batch = static_cast<int>(h.in_batch);
  rows.levels = static_cast<int>(h.levels);
  rows.temperature = h.temperature;
  const cuda::Tuning tuning = cuda::tuning_of({{"warp_slots", h.warp_slots},
                                               {"slots_per_thread", h.slots_per_thread},
                                               {"max_team", h.max_team},
                                               {"short_row_threads", h.short_row_threads},
                                               {"backward_threads", h.backward_threads}});

  LevelLossesForward forward{};
  forward.rows = rows;
  forward.terms = terms;
  forward.target_kind = static_cast<Target>(h.target_kind);
  forward.target = forward.target_kind == Target::given ? target.data() : nullptr;
  forward.target_width = h.target_width;
  forward.weight = h.has_weight ? weight.data() : nullptr;
  forward.label_temperatures = h.has_label_temperatures ? label_temperatures.data() : nullptr;
  forward.positives = h.has_positives ? reinterpret_cast<const int64_t*>(positives.data()) : nullptr;
  forward.position = h.has_position ? reinterpret_cast<const double*>(position.data()) : nullptr;
  forward.reduction = static_cast<Reduction>(h.reduction);
  forward.p = h.p;
  forward.label_temperature = h.label_temperature;
  forward.loss = loss.data();
  forward.state = state.data();
  forward.scale = scale.data();
  forward.workspace = workspace.data();
  check(cuda::level_losses_forward(forward, tuning, nullptr));

  LevelLossesBackward backward{};  // as wassrank/ops/level_losses.py saves for it
  backward.rows = rows;
  backward.affine = terms.affine();
  backward.target = terms.kl != 0 ? forward.target : nullptr;
  backward.target_width = backward.target ? forward.target_width : 0;
  backward.positives = terms.info_nce != 0 ? forward.positives : nullptr;
  backward.grad_loss = grad_loss.data();
  backward.grad_per_row = per_row;
  backward.state = state.data();
  backward.scale = scale.data();
  backward.grad_scores = grad_scores.data();
  check(cuda::level_losses_backward(backward, tuning, nullptr));

  for (Output* output : {&loss, &state, &scale, &grad_scores}) output->write(results);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 64;
  std::ifstream calls(arguments[1], std::ios::binary);
  std::ofstream results(arguments[2], std::ios::binary);
  Header header;
  while (calls.read(reinterpret_cast<char*>(&header), sizeof header)) run_call(header, calls, results);
  return results.flush() ? 0 : 2;
}
