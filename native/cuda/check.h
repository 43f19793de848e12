// How CUDA calls are checked: every failure becomes a DeviceError, and the runtime's own error state is cleared.
#pragma once

#include <cuda_runtime_api.h>

#include <string>

#include "cuda.h"

namespace sdpo::cuda {

// Makes the DeviceError of a failed call, remembers it as the thread's last error and, where the context is lost, as
// the device's fate.
Status report(cudaError_t code, const char* operation, int device, std::string shapes);

// Status::ok, or the error that took the device's context away.
Status usable(int device);

// Sets another error as the calling thread's last one.
void set_last_error(const DeviceError& error);

// Makes `device` the thread's current device for a scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device);
  ~DeviceScope();
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;
  Status status() const { return status_; }

 private:
  int previous_ = -1;
  Status status_ = Status::ok;
};

// For destructors and other places without a way to report: the failure is remembered as the thread's last error,
// nothing else.
void note(cudaError_t code, const char* operation, int device);

}  // namespace sdpo::cuda

// In a function that returns Status. `shapes` is evaluated only on failure.
#define CUDA_TRY(call, operation, device, shapes)                            \
  do {                                                                       \
    const cudaError_t cuda_try_code = (call);                                \
    if (cuda_try_code != cudaSuccess) {                                      \
      return ::sdpo::cuda::report(cuda_try_code, operation, device, shapes); \
    }                                                                        \
  } while (0)

#define CUDA_LOG(call, operation, device) ::sdpo::cuda::note((call), operation, device)

// In a function that returns Status: enters the device, or returns why it cannot be used.
#define CUDA_ENTER(device)                                  \
  const ::sdpo::cuda::DeviceScope cuda_enter_scope(device); \
  if (cuda_enter_scope.status() != Status::ok) return cuda_enter_scope.status()
