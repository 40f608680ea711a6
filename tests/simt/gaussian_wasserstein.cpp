// Calls of csrc/cuda/gaussian_wasserstein.cu: all passes over one batch, each with the row state of the first. What
// else they are given comes with the call (tests/simt/gaussian.py). Of a batch too large to hold, see driver.h.
#include "common/gaussian.h"
#include "cuda/kernels.h"
#include "driver.h"

namespace {

struct GaussianHeader {
  int64_t Q, N, K, first, dtype, label_kind, label_bytes, target_kind, target_width, mask_stride, has_mask,
      has_label_temperatures, dense_labels, others_excluded, levels;
  int64_t blocks;        // the arguments have the form of blocks
  int64_t has_flag;      // which only that looks at
  int64_t begin, end;    // of the tile
  int64_t misaligned;    // elements between a 16-byte boundary and the first score
  int64_t last_rows;     // of outputs with a row for each of Q, RESULTS gets so many; 0: all
  int64_t last_moments;  // and of [4, N]
  double in_batch, temperature, label_temperature;

  int64_t stored() const { return dtype == 0 ? 8 : dtype == 1 ? 4 : 2; }
  int64_t queries() const { return blocks ? N / K : 0; }
};

// [Q, width] of `bytes` each.
class RowOutput : public Output {
 public:
  RowOutput(const GaussianHeader& h, int64_t width, int64_t bytes = 8)
      : Output(h.Q * width * bytes, (h.last_rows ? h.last_rows : h.Q) * width * bytes) {}
  double* doubles() { return reinterpret_cast<double*>(data()); }
};

const double* doubles(Array& from) { return reinterpret_cast<const double*>(from.data()); }

void run_call(const GaussianHeader& h, std::istream& calls, std::ostream& results) {
  simt::corners_only = h.last_rows != 0;
  const int64_t width = h.end - h.begin;
  Input scores(calls, h.Q * h.N * h.stored(), h.misaligned * h.stored()), labels(calls, h.Q * h.K * h.label_bytes);
  Input target(calls, h.Q * h.target_width * 8), mask(calls, h.has_mask * (h.mask_stride == 0 ? 1 : h.Q) * h.N);
  Input label_temperatures(calls, h.has_label_temperatures * h.Q * 8);
  Input columns(calls, gaussian::kColumns * h.N * 8), whole_excess(calls, h.blocks * h.N * 8), flag(calls, h.has_flag);
  Input given_along(calls, h.Q * 8), scale(calls, 8), tile(calls, h.Q * width * 8);
  Input W(calls, h.Q * h.queries() * 8), everywhere(calls, h.blocks * h.Q * 8);

  GaussianBatch batch{};
  batch.scores = scores.data();
  batch.labels = labels.data();
  batch.target = h.target_width ? doubles(target) : nullptr;
  batch.mask = h.has_mask ? reinterpret_cast<const bool*>(mask.data()) : nullptr;
  batch.label_temperatures = h.has_label_temperatures ? doubles(label_temperatures) : nullptr;
  batch.Q = h.Q;
  batch.N = h.N;
  batch.K = h.K;
  batch.first = h.first;
  batch.target_width = h.target_width;
  batch.mask_stride = h.mask_stride;
  batch.dtype = static_cast<Dtype>(h.dtype);
  batch.label_kind = static_cast<LabelKind>(h.label_kind);
  batch.target_kind = static_cast<Target>(h.target_kind);
  batch.dense_labels = h.dense_labels;
  batch.others_excluded = h.others_excluded;
  batch.in_batch = h.in_batch;
  batch.levels = static_cast<int>(h.levels);
  batch.temperature = h.temperature;
  batch.label_temperature = h.label_temperature;

  RowOutput state(h, gaussian::kRowState), excess(h, h.blocks * h.K);
  const int64_t moments_bytes = gaussian::kMoments * h.N * 8;
  Output moments(moments_bytes, h.last_rows ? h.last_moments * 8 : moments_bytes);
  RowOutput sums(h, gaussian::kSums), products(h, h.queries()), P(h, width), E_T(h, width), along(h, 1);
  RowOutput plain(h, h.N, h.stored()), of_tile(h, h.N, h.stored()), of_parts(h, h.blocks * h.N, h.stored());

  check(cuda::gaussian_rows(batch, state.doubles(), h.blocks ? excess.doubles() : nullptr, nullptr));
  check(cuda::gaussian_moments(batch, state.doubles(), reinterpret_cast<double*>(moments.data()), nullptr));
  cuda::GaussianProducts of_products{};
  of_products.state = state.doubles();
  of_products.columns = doubles(columns);
  of_products.excess = h.blocks ? doubles(whole_excess) : nullptr;
  of_products.flag = h.has_flag ? reinterpret_cast<const bool*>(flag.data()) : nullptr;
  of_products.sums = sums.doubles();
  of_products.products = products.doubles();
  check(cuda::gaussian_products(batch, of_products, nullptr));
  check(cuda::gaussian_tiles(batch, state.doubles(), doubles(columns), h.begin, h.end, P.doubles(), E_T.doubles(),
                             nullptr));
  check(cuda::gaussian_along(batch, state.doubles(), doubles(columns), along.doubles(), nullptr));

  cuda::GaussianGradient gradient{};
  gradient.state = state.doubles();
  gradient.columns = doubles(columns);
  gradient.along = doubles(given_along);
  gradient.scale = doubles(scale);
  const auto write = [&](RowOutput& out, const gaussian::Turned& turned, int64_t begin, int64_t end) {
    gradient.turned = turned;
    gradient.out = out.data();
    gradient.begin = begin;
    gradient.end = end;
    check(cuda::gaussian_gradient(batch, gradient, nullptr));
  };
  write(plain, {}, 0, h.N);
  write(of_tile, {.tile = doubles(tile)}, h.begin, h.end);
  if (h.blocks) {
    const gaussian::Turned parts{
        .W = doubles(W), .everywhere = doubles(everywhere), .excess = doubles(whole_excess), .flag = of_products.flag};
    write(of_parts, parts, 0, h.N);
  }
  for (Output* output : std::initializer_list<Output*>{&state, &excess, &moments, &sums, &products, &P, &E_T, &along,
                                                       &plain, &of_tile, &of_parts}) {
    output->write(results);
  }
}

}  // namespace

int main(int count, char** arguments) { return run_calls(count, arguments, run_call); }
