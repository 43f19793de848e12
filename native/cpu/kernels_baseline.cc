// The inner loops for any processor of the architecture.
#define SDPO_KERNELS_NAMESPACE baseline
#define SDPO_KERNELS_NAME "baseline"
#include "kernels.inl"

namespace sdpo::cpu {
const KernelTable* baseline_kernels() { return &baseline::kTable; }
}  // namespace sdpo::cpu
