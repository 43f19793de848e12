// Errors of the CUDA runtime: their description, the last one of each thread, and which devices are lost.
#include <map>
#include <mutex>

#include "check.h"

namespace sdpo::cuda {
namespace {

thread_local DeviceError t_last;

struct Lost {
  std::mutex mutex;
  std::map<int, DeviceError> devices;
};

// Never destroyed: completion threads may still report while the process ends.
Lost& lost() {
  static Lost* const instance = new Lost;
  return *instance;
}

// After these every later call of the process on that device fails too; the runtime documents them as leaving the
// context unusable.
bool loses_context(cudaError_t code) {
  switch (code) {
    case cudaErrorIllegalAddress:
    case cudaErrorLaunchTimeout:
    case cudaErrorAssert:
    case cudaErrorHardwareStackError:
    case cudaErrorIllegalInstruction:
    case cudaErrorMisalignedAddress:
    case cudaErrorInvalidAddressSpace:
    case cudaErrorInvalidPc:
    case cudaErrorLaunchFailure:
    case cudaErrorECCUncorrectable:
    case cudaErrorNvlinkUncorrectable:
    case cudaErrorContextIsDestroyed:
    case cudaErrorCudartUnloading:
    case cudaErrorTensorMemoryLeak:
      return true;
    default:
      return false;
  }
}

}  // namespace

const DeviceError& last_error() { return t_last; }

void set_last_error(const DeviceError& error) { t_last = error; }

Status report(cudaError_t code, const char* operation, int device, std::string shapes) {
  cudaGetLastError();  // or the next, unrelated call would report it again
  t_last.code = static_cast<int>(code);
  t_last.name = cudaGetErrorName(code);
  t_last.text = cudaGetErrorString(code);
  t_last.operation = operation;
  t_last.shapes = std::move(shapes);
  t_last.device = device;
  t_last.context_lost = loses_context(code);
  if (t_last.context_lost) {
    std::lock_guard<std::mutex> lock(lost().mutex);
    lost().devices.emplace(device, t_last);  // the first cause stays
  }
  return code == cudaErrorMemoryAllocation ? Status::out_of_memory : Status::device;
}

Status usable(int device) {
  std::lock_guard<std::mutex> lock(lost().mutex);
  const auto found = lost().devices.find(device);
  if (found == lost().devices.end()) return Status::ok;
  t_last = found->second;
  return Status::device;
}

void note(cudaError_t code, const char* operation, int device) {
  if (code != cudaSuccess) static_cast<void>(report(code, operation, device, std::string()));
}

DeviceScope::DeviceScope(int device) {
  status_ = usable(device);
  if (status_ != Status::ok) return;
  cudaError_t code = cudaGetDevice(&previous_);
  if (code == cudaSuccess && previous_ != device) code = cudaSetDevice(device);
  if (code != cudaSuccess) status_ = report(code, "selecting the device", device, std::string());
}

DeviceScope::~DeviceScope() {
  if (status_ == Status::ok) CUDA_LOG(cudaSetDevice(previous_), "returning to the previous device", previous_);
}

}  // namespace sdpo::cuda
