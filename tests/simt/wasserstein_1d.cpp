// csrc/cuda/wasserstein_1d.cu on simt.h:  wasserstein_1d CALLS RESULTS, one call after the other: the numbers of
// `Pairs` and the arrays, each as its size in bytes and what lies in memory. RESULTS gets each call's loss, slopes and
// potentials. An order that is not given is found as on a GPU, by csrc/cuda/grade_order.cu.
#include "common/wasserstein_1d.h"
#include "cuda/kernels.h"
#include "driver.h"

namespace {

struct Pairs {
  int64_t pairs, dtype, columns[2], values_shared[2], weights_shared[2], mask_shared[2], wanted;
  int64_t short_row_threads, max_team;
  double p;
};

// Null where nothing came.
template <class T>
const T* given(Input& input) {
  return input.held() ? reinterpret_cast<const T*>(input.data()) : nullptr;
}

struct Side {
  Input values, weights, mask, offsets, order;
  PointRows rows{};
  Output found, slope, potential;

  Side(const Pairs& call, int k, std::istream& calls)
      : values(calls, size(calls)),
        weights(calls, size(calls)),
        mask(calls, size(calls)),
        offsets(calls, size(calls)),
        order(calls, size(calls)),
        rows{.values = values.data(),
             .weights = given<void>(weights),
             .mask = given<bool>(mask),
             .values_shared = call.values_shared[k] != 0,
             .weights_shared = call.weights_shared[k] != 0,
             .mask_shared = call.mask_shared[k] != 0,
             .offsets = given<int64_t>(offsets),
             .columns = call.columns[k]},
        found(points(call), points(call)),
        slope(wanted(call, k), wanted(call, k)),
        potential(wanted(call, k + 2), wanted(call, k + 2)) {
    if (call.wanted >> k & 1) rows.slope = slope.data();
    if (call.wanted >> (k + 2) & 1) rows.potential = potential.data();
  }

  const int32_t* find_order(const Pairs& call) {
    if (order.held()) return reinterpret_cast<const int32_t*>(order.data());
    auto* const places = reinterpret_cast<int32_t*>(found.data());
    check(cuda::point_order(rows, call.pairs, static_cast<Dtype>(call.dtype), places, nullptr));
    found.check();
    return places;
  }

 private:
  // Of the next array: its whole.
  static int64_t size(std::istream& calls) {
    int64_t bytes = 0;
    const auto at = calls.tellg();
    calls.read(reinterpret_cast<char*>(&bytes), sizeof bytes);
    calls.seekg(at);
    return bytes;
  }
  int64_t points(const Pairs& call) const { return 4 * rows.orders(call.pairs) * rows.columns; }
  int64_t wanted(const Pairs& call, int bit) const {
    const int64_t all = rows.offsets ? rows.columns : call.pairs * rows.columns;
    return call.wanted >> bit & 1 ? all * (call.dtype == 0 ? 8 : 4) : 0;
  }
};

void run_call(const Pairs& call, std::istream& calls, std::ostream& results) {
  Side u(call, 0, calls), v(call, 1, calls);
  const int64_t bytes = call.pairs * (call.dtype == 0 ? 8 : 4);
  Output loss(bytes, bytes);
  cuda::SortedPairs args{};
  args.u = u.rows;
  args.v = v.rows;
  args.pairs = call.pairs;
  args.dtype = static_cast<Dtype>(call.dtype);
  args.p = call.p;
  args.loss = loss.data();
  args.u_order = u.find_order(call);
  args.v_order = v.find_order(call);
  const cuda::Tuning tuning =
      cuda::tuning_of({{"short_row_threads", call.short_row_threads}, {"max_team", call.max_team}});
  const auto room = static_cast<int64_t>(cuda::wasserstein_1d_workspace(args, tuning));
  Output lines(room, room);
  args.lines = lines.data();
  check(cuda::wasserstein_1d(args, tuning, nullptr));
  lines.check();
  for (Output* output : {&loss, &u.slope, &v.slope, &u.potential, &v.potential}) output->write(results);
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 64;
  std::ifstream calls(arguments[1], std::ios::binary);
  std::ofstream results(arguments[2], std::ios::binary);
  Pairs call;
  while (calls.read(reinterpret_cast<char*>(&call), sizeof call)) run_call(call, calls, results);
  return results.flush() ? 0 : 2;
}
