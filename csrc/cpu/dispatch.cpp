// Chooses among the instruction sets the CPU kernels were compiled for.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "cpu/kernels.h"

namespace wassrank::cpu {
namespace {

const Kernels& choose() {
  const char* wanted = std::getenv("WASSRANK_CPU_ISA");
  const std::string name = wanted ? wanted : "";
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512 && (name.empty() || name == "avx512")) return kernels_avx512;
  if (avx2 && (name.empty() || name == "avx2")) return kernels_avx2;
#endif
  if (name.empty() || name == "baseline") return kernels_baseline;
  throw std::invalid_argument("WASSRANK_CPU_ISA=" + name + ": this machine offers baseline" +
#if defined(__x86_64__)
                              (avx2 ? ", avx2" : "") + (avx512 ? ", avx512" : "") +
#endif
                              "; unset it to use the widest");
}

}  // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

}  // namespace wassrank::cpu
