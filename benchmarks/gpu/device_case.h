// A random batch in device memory, and the calls on it: what check.cc compares and times.
#pragma once

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "../../native/cuda/cuda.h"
#include "../../test/build/cuda-host/cases.h"

namespace sdpo::checks {

// A failed call outside of what is being checked ends the program: nothing after it would mean anything.
inline void must(Status status, const char* what) {
  if (status == Status::ok) return;
  std::fprintf(stderr, "%s: %s\n", what, cuda::last_error().message().c_str());
  std::exit(2);
}

class DeviceMemory {
 public:
  DeviceMemory() = default;
  DeviceMemory(int device, size_t bytes) : device_(device), bytes_(bytes) {
    must(cuda::allocate(device, bytes, &data_), "allocate");
  }
  ~DeviceMemory() { must(cuda::release(device_, data_), "release"); }
  DeviceMemory(DeviceMemory&& other) noexcept : device_(other.device_), bytes_(other.bytes_), data_(other.data_) {
    other.data_ = nullptr;
  }
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  void* data() const { return data_; }
  size_t bytes() const { return bytes_; }
  void write(const void* from) const {
    must(cuda::copy(device_, data_, from, bytes_, nullptr), "copy to the device");
    must(cuda::synchronize(device_, nullptr), "copy to the device");
  }
  void read(void* to) const {
    must(cuda::copy(device_, to, data_, bytes_, nullptr), "copy from the device");
    must(cuda::synchronize(device_, nullptr), "copy from the device");
  }

 private:
  int device_ = 0;
  size_t bytes_ = 0;
  void* data_ = nullptr;
};

class DeviceCase {
 public:
  DeviceCase(const Case& c, int device) : case_(c), device_(device), outputs(c.row_outputs), metrics(c.metrics) {
    for (const Tensor& t : c.tensors) {
      memory_.emplace_back(device, t.bytes.size());
      if (!t.bytes.empty()) memory_.back().write(t.bytes.data());
    }
  }

  // The problem with its tensors on the device and its row scalars on the host.
  Problem problem() {
    std::vector<void*> bases;
    for (const DeviceMemory& m : memory_) bases.push_back(m.data());
    Problem p = case_.at(bases.data(), case_.row_inputs.data(), outputs.data(), metrics.data());
    p.tensors = {Location::cuda, device_};
    return p;
  }

  std::vector<unsigned char> bytes(int slot) const {
    std::vector<unsigned char> out(memory_[static_cast<size_t>(slot)].bytes());
    if (!out.empty()) memory_[static_cast<size_t>(slot)].read(out.data());
    return out;
  }

 private:
  const Case& case_;
  const int device_;
  std::vector<DeviceMemory> memory_;

 public:
  std::vector<double> outputs, metrics;
};

}  // namespace sdpo::checks
