// What is cached for a stream: the kernels' workspace, and buffers that carry row scalars between host and device.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <mutex>
#include <vector>

#include "arguments.h"
#include "check.h"

namespace sdpo::cuda {

// The row scalars of one call, in the same layout in pinned host memory and in device memory:
// failure (padded to 8 doubles), metrics, row outputs, numbers per row. What goes up is at the end, what comes back at
// the beginning.
struct Staging {
  static constexpr size_t kHeader = 8;
  double* host = nullptr;
  double* device = nullptr;
  int64_t rows = 0;  // room

  static size_t doubles(int64_t rows) {
    return kHeader + Metric::count +
           static_cast<size_t>(RowOutput::count + RowInput::count) * static_cast<size_t>(rows);
  }
  static constexpr size_t metrics() { return kHeader; }
  static constexpr size_t outputs() { return kHeader + Metric::count; }
  static size_t lists(int64_t rows) {
    return outputs() + static_cast<size_t>(RowOutput::count) * static_cast<size_t>(rows);
  }
};

class StreamState {
 public:
  StreamState(int device, cudaStream_t stream) : device_(device), stream_(stream) {}
  ~StreamState();
  StreamState(const StreamState&) = delete;
  StreamState& operator=(const StreamState&) = delete;

  // Held while a call is put on the stream: the workspace belongs to the launches of one call after the other.
  std::mutex& mutex() { return mutex_; }

  // Room for `rows` rows, with all their numbers as lists, and a ring of `ring` tiles with `sums` sums; grown by
  // halves, so that slowly growing batches do not allocate every time. Waits for the stream when it has to grow, so it
  // cannot while the stream is captured.
  Status workspace(int64_t rows, int64_t ring, int sums, bool captured, Workspace* out);

  // A staging buffer nobody else uses, until it is given back. Safe without the lock.
  Status take_staging(int64_t rows, Staging* out);
  void give_staging(const Staging& staging);

 private:
  struct Buffer {
    void* memory = nullptr;
    size_t bytes = 0;
    bool captured = false;  // a graph has its address
  };
  Status grow(Buffer* buffer, size_t bytes, bool captured);

  const int device_;
  const cudaStream_t stream_;
  std::mutex mutex_;
  Buffer rows_, partials_;
  std::vector<void*> retired_;  // too small now, but graphs go on using them
  std::mutex staging_mutex_;
  std::vector<Staging> idle_;
};

// Whether work on the stream is being recorded into a graph.
Status is_captured(int device, cudaStream_t stream, bool* out);

// The state of a stream, made on first use. Shared: a call in flight keeps it although the stream is forgotten
// meanwhile.
std::shared_ptr<StreamState> stream_state(int device, cudaStream_t stream);
void forget_stream(int device, cudaStream_t stream);

}  // namespace sdpo::cuda
