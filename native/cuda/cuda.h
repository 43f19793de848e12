// What the CUDA backend offers beside `Backend`: memory, streams, completions and errors, in plain C++ for callers
// without CUDA headers.
//
// A stream is a cudaStream_t as void*; nullptr is the default stream. Unless said otherwise a function returns
// Status::ok, or Status::device or Status::out_of_memory with the details in last_error() of the calling thread. Every
// function may be called from any thread and leaves the thread's current device as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>

#include "../core/backend.h"
#include "../core/row_inputs.h"

namespace sdpo::cuda {

// ---- Errors

struct Error {
  int code = 0;           // cudaError_t
  std::string name;       // "cudaErrorMemoryAllocation"
  std::string text;       // CUDA's description
  std::string operation;  // what was being done
  std::string shapes;     // of what: sizes and dtypes
  int device = -1;
  bool context_lost =
      false;  // the process can no longer use this device; every later call fails at once with this error

  std::string message() const;
};

// The last error reported to the calling thread.
const Error& last_error();

// ---- Memory. `bytes` 0 gives a null pointer.

Status allocate(int device, size_t bytes, void** out);
// Waits for the device's work, so memory may be given back while a kernel still uses it.
Status release(int device, void* memory);
// Page-locked host memory, which the devices copy from and to without a detour and without blocking.
Status allocate_pinned(size_t bytes, void** out);
Status release_pinned(void* memory);

// Copies between any two places; asynchronous on the stream for device memory and pinned memory. Pageable host memory
// must stay valid until the stream has come so far.
Status copy(int device, void* to, const void* from, size_t bytes, void* stream);
Status fill_zero(int device, void* to, size_t bytes, void* stream);

// ---- Streams

// Not synchronised with the default stream.
Status create_stream(int device, void** out);
// Waits for the stream's work, then frees it and the workspace that was cached for it.
Status destroy_stream(int device, void* stream);
// For a stream made elsewhere: frees the cached workspace; to be called before its owner destroys it.
Status release_workspace(int device, void* stream);
Status synchronize(int device, void* stream);

// Events for timing and for order between streams.
Status create_event(int device, void** out);
Status destroy_event(int device, void* event);
Status record_event(int device, void* event, void* stream);
Status wait_event(int device, void* stream, void* event);
// Milliseconds between two recorded and completed events.
Status elapsed(int device, void* begin, void* end, float* milliseconds);

// ---- Completion

// `error` is null on success. Called once, on the device's completion thread, never on the caller's.
using Completion = std::function<void(const Error* error)>;

// Calls `done` when everything enqueued on the stream so far is finished, or has failed. The waiting thread looks at
// its events and sleeps in between. When this function itself fails, `done` is not called.
Status when_done(int device, void* stream, Completion done);

// ---- How the loss runs (docs/cuda.md). The bits of a result do not depend on it.

// automatic: as policy.h says; clusters: wherever the device, the shape and the options allow it.
enum class Design { automatic, tiles, clusters };

// For all calls from now on. The environment variable SDPO_CUDA_DESIGN ("tiles", "clusters") says what is used before.
void set_design(Design design);

// Whether evaluate would run the problem in clusters.
Status uses_clusters(const Problem& problem, bool* out);

// ---- Operations, on the stream of the problem

// Enqueues the call and returns. With scalars on the host `done` runs after the results have been written to
// row_outputs and metrics, which have to stay valid until then, as everything else the problem points to. With scalars
// on the device nothing but the failure is read back. When this function itself fails, `done` is not called.
using EvaluateCompletion = std::function<void(Status status, const Failure& failure, const Error* error)>;
Status evaluate_async(const Problem& problem, EvaluateCompletion done);

// Scalars on the host: returns when the results are there. Scalars on the device: enqueues and returns without waiting
// for anything; the row output nonFinite and the metric nonFiniteRows tell of rows that were not finite, and with
// NonFinite::fail the gradient of such a row is NaN.
Status evaluate(const Problem& problem, Failure* failure);

// Enqueue and return. The coefficients a and b of combine lie on the host and may go when the function returns.
Status combine(const CombineProblem& problem);
Status noise(const NoiseProblem& problem);

// Row inputs of a loss in device memory, from lists and tables that lie there and from what the host knows, without
// asking the device anything.
Status row_inputs(const RowInputsProblem& problem);

}  // namespace sdpo::cuda

namespace sdpo {

const Backend& cuda_backend();

}  // namespace sdpo
