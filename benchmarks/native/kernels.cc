// The inner loops of the CPU backend alone, on data in the first- and second-level cache: what the arithmetic and the
// conversions of a call cost where memory does not count. Not part of the suite; docs/benchmarks.md shows how it is
// built and what it says.
#include "../../native/cpu/kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

using namespace sdpo;
using namespace sdpo::cpu;

constexpr int64_t kSmall = 2048;  // elements: three tensors and a result lie in the first-level cache
constexpr int64_t kRow = 16384;   // elements of a row: a pair lies in the second-level cache
constexpr int kAddresses = 16;    // bytes past a page, where malloc puts large blocks

volatile double g_sink;

double seconds() { return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count(); }

// Nanoseconds per element: the lower quartile of 40 samples, which drops those that something interrupted.
template <class Work>
double time_of(int64_t elements, int calls, const Work& work) {
  std::vector<double> samples;
  for (int sample = 0; sample < 40; ++sample) {
    const double start = seconds();
    for (int i = 0; i < calls; ++i) work();
    samples.push_back((seconds() - start) * 1e9 / static_cast<double>(calls * elements));
  }
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 4];
}

// A chain of additions of one cycle each.
double gigahertz() {
  constexpr int64_t kSteps = 100000000;
  uint64_t x = 0;
  const double start = seconds();
  for (int64_t i = 0; i < kSteps; ++i) asm volatile("add $1, %0" : "+r"(x));
  return static_cast<double>(kSteps) / (seconds() - start) / 1e9;
}

void measure(const KernelTable& table, DType dtype, const char* name) {
  const int type = static_cast<int>(dtype);
  const int64_t bytes = static_cast<int64_t>(dtype_size(dtype));
  std::vector<std::vector<char>> memory(8, std::vector<char>(static_cast<size_t>(kRow * bytes) + 8192));
  std::vector<char*> tensors;
  for (auto& block : memory) {
    char* const start = block.data() + 4096 - reinterpret_cast<uintptr_t>(block.data()) % 4096 + kAddresses;
    std::vector<float> values(kRow);
    for (float& value : values) value = 0.01f * static_cast<float>(std::rand() % 97 - 48);
    table.narrow[type][0](values.data(), start, kRow);
    tensors.push_back(start);
  }
  const auto moments = [&](int first, int count, int64_t from, int64_t n) {
    BranchTile tiles[2];
    for (int b = 0; b < count; ++b) {
      char* const* const in = &tensors[static_cast<size_t>(3 * (first + b))];
      tiles[b] = {in[0] + from * bytes, in[1] + from * bytes, in[2] + from * bytes, nullptr};
    }
    BranchSums sums[2];
    table.moments[type](tiles, count, n, sums);
    g_sink = sums[0].error;
  };
  const auto gradients = [&](int first, int count, int64_t n) {
    BranchGradient parts[2];
    for (int b = 0; b < count; ++b) {
      char* const* const in = &tensors[static_cast<size_t>(3 * (first + b))];
      parts[b] = {{in[0], nullptr, in[2], nullptr}, 0.3, 0, tensors[static_cast<size_t>(6 + first + b)]};
    }
    table.gradients[type](parts, count, n, false);
  };
  const double small_moments = time_of(kSmall, 2000, [&] { moments(0, 1, 0, kSmall); });
  const double small_gradient = time_of(kSmall, 2000, [&] { gradients(0, 1, kSmall); });
  const double pair = time_of(kRow, 100, [&] {
    for (int64_t from = 0; from < kRow; from += kTile) moments(0, 2, from, kTile);
    gradients(0, 2, kRow);
  });
  std::printf("%-9s %-9s one branch in L1: moments %.3f, gradient %.3f ns per element; row pair in L2: %.3f\n",
              table.name, name, small_moments, small_gradient, pair);
}

}  // namespace

int main() {
  std::printf("%.2f GHz\n", gigahertz());
  std::vector<const KernelTable*> tables = {baseline_kernels()};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("f16c")) tables.push_back(avx2_kernels());
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq")) {
    tables.push_back(avx512_kernels());
  }
#endif
  for (const KernelTable* table : tables) {
    measure(*table, DType::float32, "float32");
    measure(*table, DType::bfloat16, "bfloat16");
    measure(*table, DType::float16, "float16");
  }
  std::printf("%.2f GHz\n", gigahertz());
}
