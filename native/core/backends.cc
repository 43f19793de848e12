// The backends of this build by where the memory lies.
#include "backends.h"

#if defined(SDPO_WITH_CUDA)
#include "../cuda/cuda.h"
#endif

namespace sdpo {

const Backend* backend_for(const Location& location) {
  switch (location.kind) {
    case Location::host:
      return &cpu_backend();
    case Location::cuda:
#if defined(SDPO_WITH_CUDA)
      return &cuda_backend();
#else
      return nullptr;
#endif
  }
  return nullptr;
}

}  // namespace sdpo
