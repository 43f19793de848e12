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

  // The problem with its tensors on the device, its lists and results on the host.
  Problem problem() { return problem(case_.numbers.data(), true, outputs.data(), metrics.data()); }

  Problem problem(const double* lists, bool lists_on_host, double* outputs_at, double* metrics_at) const {
    std::vector<void*> bases;
    for (const DeviceMemory& m : memory_) bases.push_back(m.data());
    Problem p = case_.at(bases.data(), lists, outputs_at, metrics_at, lists_on_host);
    p.tensors = {Location::cuda, device_};
    return p;
  }

  // Another case of the same shapes in the same memory.
  void write(const Case& c) const {
    for (size_t slot = 0; slot < memory_.size(); ++slot)
      if (memory_[slot].bytes() > 0) memory_[slot].write(c.tensors[slot].bytes.data());
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

// A call of a case whose results lie on the device, in memory of its own. Its lists lie there as well, or on the host.
class ScalarsThere {
 public:
  ScalarsThere(const Case& c, int device, void* stream, bool lists_on_host = false)
      : case_(c, device),
        lists_(device, c.numbers.size() * sizeof(double)),
        outputs_(device, c.row_outputs.size() * sizeof(double)),
        metrics_(device, Metric::count * sizeof(double)),
        problem_(case_.problem(lists_on_host ? c.numbers.data() : static_cast<const double*>(lists_.data()),
                               lists_on_host, static_cast<double*>(outputs_.data()),
                               static_cast<double*>(metrics_.data()))) {
    problem_.scalars = problem_.tensors;
    problem_.stream = stream;
    write(c);
  }

  Problem& problem() { return problem_; }

  // Another batch in the same places. Numbers that are no lists are the caller's, and stay.
  void write(const Case& c) {
    case_.write(c);
    lists_.write(c.numbers.data());
    outputs_.write(c.row_outputs.data());
  }

  // What the device has by now, with the gradients of case_.
  DeviceCase& read() {
    must(cuda::synchronize(problem_.tensors.ordinal, problem_.stream), "synchronize");
    outputs_.read(case_.outputs.data());
    metrics_.read(case_.metrics.data());
    return case_;
  }

  // All of it: the numbers, then the gradients.
  std::vector<unsigned char> result() {
    must(cuda::synchronize(problem_.tensors.ordinal, problem_.stream), "synchronize");
    std::vector<unsigned char> out(outputs_.bytes() + metrics_.bytes());
    outputs_.read(out.data());
    metrics_.read(out.data() + outputs_.bytes());
    for (const int slot : {Case::gradient_c, Case::gradient_r}) {
      const std::vector<unsigned char> bytes = case_.bytes(slot);
      out.insert(out.end(), bytes.begin(), bytes.end());
    }
    return out;
  }

 private:
  DeviceCase case_;
  DeviceMemory lists_, outputs_, metrics_;
  Problem problem_;
};

}  // namespace sdpo::checks
