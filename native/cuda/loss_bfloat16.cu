// The kernels for batches whose tensors all hold bfloat16.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry bfloat16_kernel(bool plain) {
  return plain ? kernel_entry<Uniform<BFloat16>, true>() : kernel_entry<Uniform<BFloat16>, false>();
}
}  // namespace sdpo::cuda
