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

  // Whether the same loop serves both.
  bool like(const BranchTile& other) const {
    return (reference == nullptr) == (other.reference == nullptr) && (weights == nullptr) == (other.weights == nullptr);
  }
};

// Elements after which it is the other branch's turn: lines of its tensors arrive meanwhile. All turns of a branch run
// the same instructions, and no others do, so that a prefetcher that goes by the address of a load follows one tensor
// all the way. Half and twice as many are as good in memory, fewer cost more in the caches; what turns of a tile by the
// same instructions cost: docs/benchmarks.md.
constexpr int64_t kTurn = 512;

// Of one branch, or of two in turns.
using MomentsKernel = void (*)(const BranchTile* branches, int count, int64_t n, BranchSums* sums);
// sum e d_c d_r
using CrossKernel = double (*)(const void* policy_c, const void* target_c, const void* policy_r, const void* target_r,
                               const void* weights, int64_t n);
// out = e (a d + b h) of one branch, for any n: `reference` is null where b is 0, and `out` in the kernel's dtype,
// rounded once, may be one of the inputs of its branch.
struct BranchGradient {
  BranchTile of;
  double a, b;
  void* out;
};
// Of one branch, or of two in turns. `stream`: past the caches, for results that do not fit there.
using GradientKernel = void (*)(const BranchGradient* branches, int count, int64_t n, bool stream);
using WeightsKernel = TileWeights (*)(const void* weights, int64_t n);
using ConvertKernel = void (*)(const void* in, void* out, int64_t n);

struct KernelTable {
  const char* name;
  MomentsKernel moments[kDTypeCount];
  CrossKernel cross[kDTypeCount];
  GradientKernel gradients[kDTypeCount];
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
