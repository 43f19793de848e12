// Which CUDA devices this machine has, asked without CUDA headers so that any C++ file may include it.
#pragma once

#include <cstdint>
#include <string>

namespace sdpo::cuda {

struct DeviceInfo {
  std::string name;
  int computeMajor = 0;
  int computeMinor = 0;
  int64_t totalMemory = 0;  // bytes
  int64_t freeMemory = -1;  // bytes; -1 when it was not asked for
  int multiProcessors = 0;
};

// Versions are CUDA's own numbers: 1000 * major + 10 * minor.
int runtime_version();
// The newest CUDA version the installed driver supports; 0 without a driver.
int driver_version();

// Number of usable devices. When it is 0 and `why` is given, `why` says what is missing.
int device_count(std::string* why = nullptr);

// Throws std::runtime_error (CUDA's error name and text) when `device` cannot be asked. Free memory is known only to a
// CUDA context, and a context takes hundreds of megabytes of the device; so it is asked for by name.
DeviceInfo device_info(int device, bool withFreeMemory = false);

}  // namespace sdpo::cuda
