// What the programs that run calls of the row losses on simt.h have in common:  program CALLS RESULTS
//
// CALLS holds, one call after the other, the numbers of `Header` and the input arrays, each as its size in bytes and
// what lies in memory; RESULTS gets each call's outputs. tests/simt/driver.py writes and reads them. Forward runs first
// and its state and scale feed the backward, as in training. Every array is an allocation of just its size, and outputs
// start as poison.
//
// Of a batch too large to hold, CALLS has only the end of each array: the rest is memory of zeros that exists when it
// is touched, only the blocks in the corners of the grids run, and RESULTS gets the ends of the outputs.
#pragma once

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <vector>

#include "common/rows.h"
#include "cuda/tuning.h"
#include "simt.h"

using namespace wassrank;

struct Header {
  int64_t Q, N, K, dtype, label_bytes, label_signed, in_batch, levels, target_kind, target_width, reduction,
      mask_stride, has_mask, has_weight, has_label_temperatures, has_positives, packed, has_position;
  int64_t misaligned;                 // elements between a 16-byte boundary and the first score
  int64_t last_rows, last_gradients;  // of state, unreduced loss and gradient RESULTS gets so many; 0: all
  int64_t warp_slots, slots_per_thread, max_team, short_row_threads, backward_threads;
  double wasserstein, info_nce, kl, p, temperature, label_temperature, others_label;

  int64_t computed() const { return dtype == 0 ? 8 : 4; }  // bytes of C
  int64_t lines() const { return packed ? 1 : Q; }
  bool whole() const { return last_rows == 0; }
  Terms terms() const { return {wasserstein, info_nce, kl}; }
  cuda::Tuning tuning() const {
    return cuda::tuning_of({{"warp_slots", warp_slots},
                            {"slots_per_thread", slots_per_thread},
                            {"max_team", max_team},
                            {"short_row_threads", short_row_threads},
                            {"backward_threads", backward_threads}});
  }
};

[[noreturn]] inline void fail(const char* what) {
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
  void check() {
    const auto intact = [](unsigned char byte) { return byte == kGuardByte; };
    if (!std::all_of(begin() - guard_, begin(), intact) || !std::all_of(end(), end() + guard_, intact)) {
      fail("a kernel wrote outside of an output");
    }
  }
  void write(std::ostream& to) {
    to.write(reinterpret_cast<const char*>(begin()), end() - begin());
    check();
  }

 private:
  unsigned char* begin() { return array_.in_use() + guard_; }
  unsigned char* end() { return array_.in_use() + array_.held() - guard_; }

#if defined(__SANITIZE_ADDRESS__)
  static constexpr int64_t kAround = 0;
#else
  static constexpr int64_t kAround = kGuard;
#endif
  const int64_t guard_;
  Array array_;
};

inline void check(const char* error) {
  if (error) fail(error);
}

// What every call has.
struct Batch {
  const Header& h;
  Input scores, labels, target, mask, weight, label_temperatures, positives, offsets, grad_loss;
  Output loss, scale, state, workspace, grad_scores;

  Batch(const Header& h, int64_t state_width, std::istream& calls)
      : h(h),
        scores(calls, elements(h) * stored(h), h.misaligned * stored(h)),
        labels(calls, h.lines() * h.K * h.label_bytes),
        target(calls, h.lines() * h.target_width * h.computed()),
        mask(calls, h.has_mask * (h.mask_stride == 0 ? h.N : elements(h))),
        weight(calls, h.has_weight * h.Q * h.computed()),
        label_temperatures(calls, h.has_label_temperatures * h.Q * h.computed()),
        positives(calls, h.has_positives * h.Q * 8),
        offsets(calls, h.packed * (h.Q + 1) * 8),
        grad_loss(calls, (per_row(h) ? h.Q : 1) * h.computed()),
        loss((per_row(h) ? h.Q : 1) * h.computed(), (per_row(h) ? rows_kept(h) : 1) * h.computed()),
        scale(h.computed(), h.computed()),
        state(h.Q * state_width * h.computed(), rows_kept(h) * state_width * h.computed()),
        workspace(2 * h.Q * h.computed(), h.whole() ? 2 * h.Q * h.computed() : 0),
        grad_scores(elements(h) * stored(h), (h.whole() ? elements(h) : h.last_gradients) * stored(h)) {
    simt::corners_only = !h.whole();
  }

  // Forward and backward arguments but for what only some losses have.
  template <class Forward>
  Forward forward() {
    Forward args{};
    args.rows = rows();
    args.terms = h.terms();
    args.target_kind = static_cast<Target>(h.target_kind);
    args.target = args.target_kind == Target::given ? target.data() : nullptr;
    args.target_width = h.target_width;
    args.weight = h.has_weight ? weight.data() : nullptr;
    args.label_temperatures = h.has_label_temperatures ? label_temperatures.data() : nullptr;
    args.positives = h.has_positives ? reinterpret_cast<const int64_t*>(positives.data()) : nullptr;
    args.reduction = static_cast<Reduction>(h.reduction);
    args.p = h.p;
    args.label_temperature = h.label_temperature;
    args.loss = loss.data();
    args.state = state.data();
    args.scale = scale.data();
    args.workspace = workspace.data();
    return args;
  }
  template <class Backward>
  Backward backward(const RowLossesForward& forward, bool with_target) {
    Backward args{};
    args.rows = forward.rows;
    args.target = with_target ? forward.target : nullptr;
    args.target_width = args.target ? forward.target_width : 0;
    args.grad_loss = grad_loss.data();
    args.grad_per_row = per_row(h);
    args.state = state.data();
    args.scale = scale.data();
    args.grad_scores = grad_scores.data();
    return args;
  }
  void write(std::ostream& results) {
    for (Output* output : {&loss, &state, &scale, &grad_scores}) output->write(results);
  }

 private:
  static int64_t stored(const Header& h) { return h.dtype == 0 ? 8 : h.dtype == 1 ? 4 : 2; }
  static int64_t elements(const Header& h) { return h.lines() * h.N; }
  static int64_t rows_kept(const Header& h) { return h.whole() ? h.Q : h.last_rows; }
  static bool per_row(const Header& h) { return static_cast<Reduction>(h.reduction) == Reduction::none; }

  Rows rows() {
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
    return rows;
  }
};

// A program's main.
template <class Header>
int run_calls(int count, char** arguments, void (*run_call)(const Header&, std::istream&, std::ostream&)) {
  if (count != 3) return 64;
  std::ifstream calls(arguments[1], std::ios::binary);
  std::ofstream results(arguments[2], std::ios::binary);
  Header header;
  while (calls.read(reinterpret_cast<char*>(&header), sizeof header)) run_call(header, calls, results);
  return results.flush() ? 0 : 2;
}
