// The table of inner loops that each instruction set fills in; backend.cc picks one table at run time.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"
#include "../core/sums.h"

namespace sdpo::cpu {

// Kernels of sums work on at most this many elements at a time: float32 lanes are summed into float64 after each such
// tile, so that a lane adds 256 numbers at most, and staging buffers of a tile stay in the first-level cache.
constexpr int64_t kTile = 4096;

struct TileWeights {
  double sum = 0;
  double lowest = 0;
};

// A tile of one branch. policy, reference and target hold the kernel's dtype; `weights` holds its compute type (float64
// for float64, else float32) or is null. Without `reference` (null) only `error` is formed.
struct BranchTile {
  const void *policy, *reference, *target, *weights;
};

// Of one branch, or of two in turns.
using MomentsKernel = void (*)(const BranchTile* branches, int count, int64_t n, BranchSums* sums);
// sum e d_c d_r
using CrossKernel = double (*)(const void* policy_c, const void* target_c, const void* policy_r, const void* target_r,
                               const void* weights, int64_t n);
// out = e (a d + b h) in the kernel's dtype, rounded once; `reference` is null where b is 0. For any n; `out` may be
// one of the inputs itself. `stream`: past the caches, for results that do not fit there.
using GradientKernel = void (*)(const void* policy, const void* reference, const void* target, const void* weights,
                                int64_t n, double a, double b, void* out, bool stream);
using WeightsKernel = TileWeights (*)(const void* weights, int64_t n);
using ConvertKernel = void (*)(const void* in, void* out, int64_t n);

struct KernelTable {
  const char* name;
  MomentsKernel moments[kDTypeCount];
  CrossKernel cross[kDTypeCount];
  GradientKernel gradient[kDTypeCount];
  WeightsKernel weights[2];  // of float32, of float64
  // Exact conversions up, and conversions down rounded to nearest even. [dtype][0: float32, 1: float64]
  ConvertKernel widen[kDTypeCount][2];
  ConvertKernel narrow[kDTypeCount][2];
};

const KernelTable* baseline_kernels();
#if defined(__x86_64__)
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
#endif

}  // namespace sdpo::cpu
