// What a backend offers: operations over plain structs, and for memory of its own the device half. The CPU is a backend
// like any other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "problem.h"

namespace sdpo {

// out[row, :] = a[row] * x[row, :] + b[row] * y[row, :], computed in float64 and rounded once; x, y and out share one
// dtype.
struct CombineProblem {
  int64_t rows = 0;
  int64_t size = 0;
  const double* a = nullptr;
  const double* b = nullptr;
  TensorView x, y;
  MutableTensorView out;
  Location location;
  int threads = 0;
  void* stream = nullptr;  // CUDA: cudaStream_t
};

// Elements offset ... offset + count - 1 of the stream of `seed` (philox.h): standard normals in `dtype`, or raw 32-bit
// words.
struct NoiseProblem {
  uint64_t seed = 0;
  uint64_t offset = 0;
  int64_t count = 0;
  void* out = nullptr;
  DType dtype = DType::float32;
  bool words = false;  // out is uint32_t[count]
  Location location;
  int threads = 0;
  void* stream = nullptr;  // CUDA: cudaStream_t
};

// ---- The device half: memory of its own, streams, completion and errors
//
// A stream is an opaque handle (a cudaStream_t); nullptr is the default stream. Unless said otherwise a function
// returns Status::ok, or Status::device or Status::out_of_memory with the details in last_error() of the calling
// thread. Every function may be called from any thread and leaves the thread's current device as it was.

struct DeviceError {
  int code = 0;           // the runtime's number (cudaError_t)
  std::string name;       // "cudaErrorMemoryAllocation"
  std::string text;       // the runtime's description
  std::string operation;  // what was being done
  std::string shapes;     // of what: sizes and dtypes
  int device = -1;
  // The process can no longer use this device; every later call fails at once with this error.
  bool context_lost = false;

  std::string message() const;
};

struct DeviceInfo {
  std::string name;
  int computeMajor = 0;
  int computeMinor = 0;
  int64_t totalMemory = 0;  // bytes
  int64_t freeMemory = -1;  // bytes; -1 when it was not asked for
  int multiProcessors = 0;
};

// `error` is null on success. Called once, on the device's completion thread, never on the caller's.
using EvaluateCompletion = std::function<void(Status status, const Failure& failure, const DeviceError* error)>;

struct DeviceBackend {
  // Number of usable devices. When it is 0 and `why` is given, `why` says what is missing.
  int (*device_count)(std::string* why);
  // Throws std::runtime_error (the runtime's error name and text) when the device cannot be asked. Free memory is known
  // to a context only, and a context takes hundreds of megabytes of the device; so it is asked for by name.
  DeviceInfo (*device_info)(int device, bool with_free_memory);
  // 1000 * major + 10 * minor; the driver's is the newest version that it supports, 0 without a driver.
  int (*runtime_version)();
  int (*driver_version)();

  // The last error reported to the calling thread.
  const DeviceError& (*last_error)();

  // `bytes` 0 gives a null pointer. `release` waits for the device's work, so memory may be given back while a kernel
  // still uses it. Pinned memory is page-locked host memory.
  Status (*allocate)(int device, size_t bytes, void** out);
  Status (*release)(int device, void* memory);
  Status (*allocate_pinned)(size_t bytes, void** out);
  Status (*release_pinned)(void* memory);
  // Between any two places; asynchronous on the stream for device memory and pinned memory. Pageable host memory must
  // stay valid until the stream has come so far.
  Status (*copy)(int device, void* to, const void* from, size_t bytes, void* stream);
  Status (*fill_zero)(int device, void* to, size_t bytes, void* stream);

  // Not synchronised with the default stream. `destroy_stream` waits for the stream's work, then frees it and the
  // workspace that was cached for it; `release_workspace` is for a stream made elsewhere, before its owner destroys it.
  Status (*create_stream)(int device, void** out);
  Status (*destroy_stream)(int device, void* stream);
  Status (*release_workspace)(int device, void* stream);
  Status (*synchronize)(int device, void* stream);
  // What is put on `stream` from now on starts after what is on `other` now.
  Status (*wait_stream)(int device, void* stream, void* other);

  // Graphs. What is put on the stream between the two is recorded and does not run; the workspace of the stream cannot
  // grow meanwhile (Backend::reserve), and belongs to the graph as well. `destroy_graph` waits for nothing.
  Status (*begin_capture)(int device, void* stream);
  Status (*end_capture)(int device, void* stream, void** graph);
  Status (*launch_graph)(int device, void* graph, void* stream);
  Status (*destroy_graph)(int device, void* graph);

  // Enqueues the call and returns. With scalars on the host `done` runs after the results have been written to
  // row_outputs and metrics, which have to stay valid until then, as everything else the problem points to. With
  // scalars on the device nothing but the failure is read back. When this function itself fails, `done` is not called.
  Status (*evaluate_async)(const Problem& problem, EvaluateCompletion done);
};

struct Backend {
  const char* name;
  // With memory of the host: returns when the results are there. On a device with scalars on the host: the same. With
  // scalars on the device: enqueues and returns without waiting for anything; the row output nonFinite and the metric
  // nonFiniteRows tell of rows that were not finite, and with NonFinite::fail the gradient of such a row is NaN.
  Status (*evaluate)(const Problem& problem, Failure* failure);
  // On a device they enqueue and return. The coefficients a and b of combine lie on the host and may go then.
  Status (*combine)(const CombineProblem& problem);
  Status (*noise)(const NoiseProblem& problem);
  // Makes room for every call on such a problem, whole or pass by pass, so that none of them allocates.
  Status (*reserve)(const Problem& problem);
  const DeviceBackend* device;  // nullptr: its memory is the host's
};

const Backend& cpu_backend();

// How many threads a call on the CPU has where it does not say: the processors that this process may use, or what
// SDPO_NUM_THREADS says. `problem` is the text of an error where that is set to something else than an integer from 1
// to 4096, else empty; the functions of a backend do not look at it, whoever reads the arguments of a call does.
struct ThreadSetting {
  int count;
  std::string problem;
};

// The instruction set the CPU backend uses ("baseline", "avx2", "avx512"), and its default number of threads.
const char* cpu_instruction_set();
const ThreadSetting& cpu_default_threads();

}  // namespace sdpo
