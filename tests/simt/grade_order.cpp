// csrc/cuda/grade_order.cu on simt.h:  grade_order CALLS RESULTS, one call [is_double, rows, columns, values] after the
// other, and their places.
#include "common/sorted_rows.h"
#include "cuda/kernels.h"
#include "driver.h"

int main(int count, char** arguments) {
  if (count != 3) return 64;
  std::ifstream calls(arguments[1], std::ios::binary);
  std::ofstream results(arguments[2], std::ios::binary);
  int64_t size[3];
  while (calls.read(reinterpret_cast<char*>(size), sizeof size)) {
    const auto [is_double, rows, columns] = size;
    Input values(calls, rows * columns * (is_double ? 8 : 4));
    Output order(rows * columns * 4, rows * columns * 4);
    GradeOrder args{};
    args.values = values.data();
    args.rows = rows;
    args.columns = columns;
    args.is_double = is_double;
    args.order = reinterpret_cast<int32_t*>(order.data());
    check(cuda::grade_order(args, nullptr));
    order.write(results);
  }
  return results.flush() ? 0 : 2;
}
