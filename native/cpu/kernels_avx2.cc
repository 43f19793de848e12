// The inner loops for x86-64 with AVX2 and F16C.
#define SDPO_KERNELS_NAMESPACE avx2
#define SDPO_KERNELS_NAME "avx2"
#include "kernels.inl"

namespace sdpo::cpu {
const KernelTable* avx2_kernels() { return &avx2::kTable; }
}  // namespace sdpo::cpu
