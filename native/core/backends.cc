// The backends of this build by where the memory lies, and the text of a device's error.
#include "backends.h"

#if defined(SDPO_WITH_CUDA)
#include "../cuda/cuda.h"
#endif

namespace sdpo {

const Backend* backend_for(Location::Kind kind) {
  switch (kind) {
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

std::string DeviceError::message() const {
  std::string out = operation;
  if (device >= 0) out += " on cuda:" + std::to_string(device);
  if (!shapes.empty()) out += " (" + shapes + ")";
  out += ": " + name + ", " + text;
  if (context_lost) out += "; the device's context is lost, restart the process to use it again";
  return out;
}

}  // namespace sdpo
