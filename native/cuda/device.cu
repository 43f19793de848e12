// The device query: number, names and properties of the CUDA devices, and the reason when there is none.
#include <cuda_runtime_api.h>

#include <stdexcept>

#include "cuda.h"

namespace sdpo::cuda {
namespace {

std::string describe(cudaError_t error) {
  return std::string(cudaGetErrorName(error)) + ": " + cudaGetErrorString(error);
}

void check(cudaError_t error, const char* operation, int device) {
  if (error == cudaSuccess) return;
  cudaGetLastError();  // or the next, unrelated call would report it again
  throw std::runtime_error(std::string(operation) + " of cuda:" + std::to_string(device) + ": " + describe(error));
}

std::string version_text(int version) {
  return std::to_string(version / 1000) + "." + std::to_string(version % 1000 / 10);
}

int attribute(cudaDeviceAttr attr, int device) {
  int value = 0;
  check(cudaDeviceGetAttribute(&value, attr, device), "cudaDeviceGetAttribute", device);
  return value;
}

// Makes `device` the calling thread's device and gives the previous one back at the end of the scope.
class DeviceScope {
 public:
  explicit DeviceScope(int device) {
    check(cudaGetDevice(&previous_), "cudaGetDevice", device);
    check(cudaSetDevice(device), "cudaSetDevice", device);
  }
  ~DeviceScope() { cudaSetDevice(previous_); }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int previous_ = 0;
};

}  // namespace

int runtime_version() { return CUDART_VERSION; }

int driver_version() {
  int version = 0;
  if (cudaDriverGetVersion(&version) == cudaSuccess) return version;
  cudaGetLastError();
  return 0;
}

int device_count(std::string* why) {
  int count = 0;
  const cudaError_t error = cudaGetDeviceCount(&count);
  if (error == cudaSuccess && count > 0) return count;
  cudaGetLastError();
  if (why != nullptr) {
    const int driver = driver_version();
    if (driver == 0) {
      *why = "no NVIDIA driver was found (libcuda.so.1)";
    } else if (error == cudaErrorInsufficientDriver) {
      *why = "the NVIDIA driver supports CUDA " + version_text(driver) + ", and this build needs " +
             version_text(runtime_version() / 1000 * 1000) + " or newer";
    } else if (error == cudaSuccess || error == cudaErrorNoDevice) {
      *why = "the NVIDIA driver reports no device (CUDA_VISIBLE_DEVICES may hide them)";
    } else {
      *why = describe(error);
    }
  }
  return 0;
}

DeviceInfo device_info(int device, bool with_free_memory) {
  cudaDeviceProp properties;
  check(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties", device);
  DeviceInfo info;
  info.name = properties.name;
  info.totalMemory = static_cast<int64_t>(properties.totalGlobalMem);
  info.computeMajor = attribute(cudaDevAttrComputeCapabilityMajor, device);
  info.computeMinor = attribute(cudaDevAttrComputeCapabilityMinor, device);
  info.multiProcessors = attribute(cudaDevAttrMultiProcessorCount, device);
  if (with_free_memory) {
    const DeviceScope scope(device);
    size_t free = 0;
    size_t total = 0;
    check(cudaMemGetInfo(&free, &total), "cudaMemGetInfo", device);
    info.freeMemory = static_cast<int64_t>(free);
  }
  return info;
}

}  // namespace sdpo::cuda
