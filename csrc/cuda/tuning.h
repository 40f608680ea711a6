// How rows are divided among threads: numbers that another GPU may want otherwise, chosen by compute capability. Any
// that are allowed give right results; they change speed and, with the order of sums, a result's last bits. Plain C++.
#pragma once

#include <cstdint>
#include <map>
#include <mutex>
#include <stdexcept>
#include <string>

namespace wassrank::cuda {

// The kernels are compiled for blocks of no more threads (their launch bounds, hence their registers).
constexpr int kMaxForwardThreads = 512;
constexpr int kMaxBackwardThreads = 256;

// The defaults are by reasoning, no GPU has been asked yet. A slot is 16 bytes of scores.
struct Tuning {
  // A row of up to 8 slots a lane (4 KiB of scores) is one warp's: four rounds of loads, against a block's barrier and
  // a second sum, with most of the block's threads holding a slot or two.
  int warp_slots = 8 * 32;
  // Longer rows: threads enough that none has more than four slots (two rounds of loads), up to `max_team`. With more,
  // a multiprocessor (1024 threads of 64 registers) would hold one block, and idle while that one adds up.
  int slots_per_thread = 4;
  int max_team = 512;
  // Threads of a block of short rows, a warp each: blocks small enough that the last wave is spread over the chip.
  int short_row_threads = 128;
  int backward_threads = 256;
};

struct TuningField {
  const char* name;
  int Tuning::* value;
  int least, most;
  bool power_of_two;
};

// 64 threads at least for a long row: of 2^30 columns each then sees no more than float counts exactly, 2^24.
constexpr TuningField kTuningFields[] = {
    {"warp_slots", &Tuning::warp_slots, 1, 1 << 14, false},
    {"slots_per_thread", &Tuning::slots_per_thread, 1, 1 << 10, false},
    {"max_team", &Tuning::max_team, 64, kMaxForwardThreads, true},
    {"short_row_threads", &Tuning::short_row_threads, 32, kMaxForwardThreads, true},
    {"backward_threads", &Tuning::backward_threads, 32, kMaxBackwardThreads, true},
};

using TuningValues = std::map<std::string, int64_t>;

inline TuningValues values_of(const Tuning& tuning) {
  TuningValues values;
  for (const TuningField& field : kTuningFields) values[field.name] = tuning.*field.value;
  return values;
}

// The defaults but for `values`. Throws std::invalid_argument for a name or a value that is not allowed.
inline Tuning tuning_of(const TuningValues& values) {
  Tuning tuning;
  TuningValues left = values;
  std::string names;
  for (const TuningField& field : kTuningFields) {
    names += (names.empty() ? "" : ", ") + std::string(field.name);
    const auto given = left.extract(field.name);
    if (!given) continue;
    const int64_t value = given.mapped();
    if (value < field.least || value > field.most || (field.power_of_two && (value & (value - 1)) != 0)) {
      throw std::invalid_argument(
          std::string(field.name) + " must be " + (field.power_of_two ? "a power of two" : "an integer") + " in " +
          std::to_string(field.least) + " ... " + std::to_string(field.most) + ", got " + std::to_string(value));
    }
    tuning.*field.value = static_cast<int>(value);
  }
  if (!left.empty()) {
    throw std::invalid_argument("the CUDA kernels have no \"" + left.begin()->first + "\" to tune, they have " + names);
  }
  return tuning;
}

// The tunings in use, by compute capability (90 for sm_90); defaults where none was set, and always for capability 0.
class TuningTable {
 public:
  Tuning at(int capability) {
    const std::lock_guard lock(mutex_);
    const auto found = tunings_.find(capability);
    return found == tunings_.end() ? Tuning{} : found->second;
  }
  void set(int capability, const Tuning& tuning) {
    if (capability <= 0) throw std::invalid_argument("capability must be that of a GPU, such as 90 for sm_90");
    const std::lock_guard lock(mutex_);
    tunings_[capability] = tuning;
  }

 private:
  std::mutex mutex_;
  std::map<int, Tuning> tunings_;
};

}  // namespace wassrank::cuda
