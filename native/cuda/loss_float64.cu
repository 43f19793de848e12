// The kernels for batches whose tensors all hold float64.
#include "entry.cuh"

namespace sdpo::cuda {
KernelEntry float64_kernel(bool plain) {
  return plain ? kernel_entry<Uniform<double>, true>() : kernel_entry<Uniform<double>, false>();
}
}  // namespace sdpo::cuda
