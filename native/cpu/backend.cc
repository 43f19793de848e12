// The CPU backend: its row in the table of backends, and the instruction set chosen once per process.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdlib>
#include <cstring>

#include "cpu.h"
#include "processors.h"

namespace sdpo {
namespace cpu {
namespace {

#if defined(__x86_64__)
// Clang before 19 does not take "f16c" in __builtin_cpu_supports.
bool has_f16c() {
  unsigned a = 0;
  unsigned b = 0;
  unsigned c = 0;
  unsigned d = 0;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

const KernelTable* choose() {
  const char* wanted = std::getenv("SDPO_ISA");
  const auto allowed = [&](const char* name) { return wanted == nullptr || std::strcmp(wanted, name) == 0; };
#if defined(__x86_64__)
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (avx512 && allowed("avx512")) return avx512_kernels();
  if (avx2 && (allowed("avx2") || allowed("avx512"))) return avx2_kernels();
#endif
  static_cast<void>(allowed);
  return baseline_kernels();
}

}  // namespace

const KernelTable& kernels() {
  static const KernelTable* const table = choose();
  return *table;
}

}  // namespace cpu

const Backend& cpu_backend() {
  // Scratch space belongs to a call and its threads; there is nothing to keep.
  constexpr auto reserve = [](const Problem&) { return Status::ok; };
  static const Backend backend = {"cpu", cpu::evaluate, cpu::combine, cpu::noise, reserve, nullptr};
  return backend;
}

const char* cpu_instruction_set() { return cpu::kernels().name; }

const ThreadSetting& cpu_default_threads() { return cpu::default_threads(); }

}  // namespace sdpo
