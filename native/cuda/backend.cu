// The CUDA backend's row in the table of backends.
#include "cuda.h"

namespace sdpo {

const Backend& cuda_backend() {
  static const Backend backend = {"cuda", cuda::evaluate, cuda::combine, cuda::noise, cuda::reserve};
  return backend;
}

}  // namespace sdpo
