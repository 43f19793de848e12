// The inner loops for x86-64 with AVX-512 (F, BW, VL, DQ).
#define SDPO_KERNELS_NAMESPACE avx512
#define SDPO_KERNELS_NAME "avx512"
#include "kernels.inl"

namespace sdpo::cpu {
const KernelTable* avx512_kernels() { return &avx512::kTable; }
}  // namespace sdpo::cpu
