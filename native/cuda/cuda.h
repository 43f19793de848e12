// The functions behind the CUDA backend's row of the table, and what beside it only the programs that test and time the
// backend use; in plain C++ for callers without CUDA headers. What core/backend.h describes is described there.
#pragma once

#include "../core/backend.h"

namespace sdpo::cuda {

// ---- As in core/backend.h: Backend, DeviceBackend

Status evaluate(const Problem& problem, Failure* failure);
Status combine(const CombineProblem& problem);
Status noise(const NoiseProblem& problem);
Status reserve(const Problem& problem);

int device_count(std::string* why = nullptr);
DeviceInfo device_info(int device, bool with_free_memory = false);
int runtime_version();
int driver_version();
const DeviceError& last_error();

Status allocate(int device, size_t bytes, void** out);
Status release(int device, void* memory);
Status allocate_pinned(size_t bytes, void** out);
Status release_pinned(void* memory);
Status copy(int device, void* to, const void* from, size_t bytes, void* stream);
Status fill_zero(int device, void* to, size_t bytes, void* stream);

Status create_stream(int device, void** out);
Status destroy_stream(int device, void* stream);
Status release_workspace(int device, void* stream);
Status synchronize(int device, void* stream);
Status wait_stream(int device, void* stream, void* other);

Status begin_capture(int device, void* stream);
Status end_capture(int device, void* stream, void** graph);
Status launch_graph(int device, void* graph, void* stream);
Status destroy_graph(int device, void* graph);

Status evaluate_async(const Problem& problem, EvaluateCompletion done);

// ---- Events for timing and for order between streams

Status create_event(int device, void** out);
Status destroy_event(int device, void* event);
Status record_event(int device, void* event, void* stream);
Status wait_event(int device, void* stream, void* event);
// Milliseconds between two recorded and completed events.
Status elapsed(int device, void* begin, void* end, float* milliseconds);

// ---- Completion

// `error` is null on success. Called once, on the device's completion thread, never on the caller's.
using Completion = std::function<void(const DeviceError* error)>;

// Calls `done` when everything enqueued on the stream so far is finished, or has failed. The waiting thread looks at
// its events and sleeps in between. When this function itself fails, `done` is not called.
Status when_done(int device, void* stream, Completion done);

}  // namespace sdpo::cuda

namespace sdpo {

const Backend& cuda_backend();

}  // namespace sdpo
