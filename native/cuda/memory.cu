// Device and pinned memory, copies, streams and events, each a checked call on its device.
#include "check.h"
#include "stream.h"

namespace sdpo::cuda {
namespace {

std::string bytes_text(size_t bytes) { return std::to_string(bytes) + " bytes"; }

cudaStream_t as_stream(void* stream) { return static_cast<cudaStream_t>(stream); }
cudaEvent_t as_event(void* event) { return static_cast<cudaEvent_t>(event); }

}  // namespace

Status allocate(int device, size_t bytes, void** out) {
  *out = nullptr;
  CUDA_ENTER(device);
  if (bytes > 0) CUDA_TRY(cudaMalloc(out, bytes), "allocating device memory", device, bytes_text(bytes));
  return Status::ok;
}

Status release(int device, void* memory) {
  if (memory == nullptr) return Status::ok;
  CUDA_ENTER(device);
  CUDA_TRY(cudaFree(memory), "freeing device memory", device, std::string());
  return Status::ok;
}

Status allocate_pinned(size_t bytes, void** out) {
  *out = nullptr;
  // Portable: every device of the process may copy from and to it.
  if (bytes > 0)
    CUDA_TRY(cudaHostAlloc(out, bytes, cudaHostAllocPortable), "allocating pinned memory", -1, bytes_text(bytes));
  return Status::ok;
}

Status release_pinned(void* memory) {
  if (memory != nullptr) CUDA_TRY(cudaFreeHost(memory), "freeing pinned memory", -1, std::string());
  return Status::ok;
}

Status copy(int device, void* to, const void* from, size_t bytes, void* stream) {
  CUDA_ENTER(device);
  if (bytes > 0) {
    CUDA_TRY(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, as_stream(stream)), "copying", device,
             bytes_text(bytes));
  }
  return Status::ok;
}

Status fill_zero(int device, void* to, size_t bytes, void* stream) {
  CUDA_ENTER(device);
  if (bytes > 0)
    CUDA_TRY(cudaMemsetAsync(to, 0, bytes, as_stream(stream)), "filling with zeros", device, bytes_text(bytes));
  return Status::ok;
}

Status create_stream(int device, void** out) {
  *out = nullptr;
  CUDA_ENTER(device);
  cudaStream_t stream;
  CUDA_TRY(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "creating a stream", device, std::string());
  *out = stream;
  return Status::ok;
}

Status destroy_stream(int device, void* stream) {
  CUDA_ENTER(device);
  // The handle is destroyed whatever the workspace says: both failures are reported, the first one returned.
  const Status workspace = release_workspace(device, stream);
  CUDA_TRY(cudaStreamDestroy(as_stream(stream)), "destroying a stream", device, std::string());
  return workspace;
}

Status release_workspace(int device, void* stream) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaStreamSynchronize(as_stream(stream)), "waiting for a stream", device, std::string());
  forget_stream(device, as_stream(stream));
  return Status::ok;
}

Status synchronize(int device, void* stream) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaStreamSynchronize(as_stream(stream)), "waiting for a stream", device, std::string());
  return Status::ok;
}

Status create_event(int device, void** out) {
  *out = nullptr;
  CUDA_ENTER(device);
  cudaEvent_t event;
  CUDA_TRY(cudaEventCreate(&event), "creating an event", device, std::string());
  *out = event;
  return Status::ok;
}

Status destroy_event(int device, void* event) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaEventDestroy(as_event(event)), "destroying an event", device, std::string());
  return Status::ok;
}

Status record_event(int device, void* event, void* stream) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaEventRecord(as_event(event), as_stream(stream)), "recording an event", device, std::string());
  return Status::ok;
}

Status wait_event(int device, void* stream, void* event) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaStreamWaitEvent(as_stream(stream), as_event(event), 0), "waiting for an event", device, std::string());
  return Status::ok;
}

Status wait_stream(int device, void* stream, void* other) {
  CUDA_ENTER(device);
  cudaEvent_t event;
  CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event", device, std::string());
  cudaError_t code = cudaEventRecord(event, as_stream(other));
  if (code == cudaSuccess) code = cudaStreamWaitEvent(as_stream(stream), event, 0);
  // The device keeps what it needs of an event until the wait is over.
  CUDA_LOG(cudaEventDestroy(event), "destroying an event", device);
  CUDA_TRY(code, "waiting for a stream", device, std::string());
  return Status::ok;
}

Status elapsed(int device, void* begin, void* end, float* milliseconds) {
  CUDA_ENTER(device);
  CUDA_TRY(cudaEventElapsedTime(milliseconds, as_event(begin), as_event(end)), "timing", device, std::string());
  return Status::ok;
}

}  // namespace sdpo::cuda
