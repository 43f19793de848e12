// The cached workspace and staging buffers of each stream: made on first use, grown on demand, freed with the stream.
#include <map>
#include <utility>

#include "stream.h"

namespace sdpo::cuda {
namespace {

struct Registry {
  std::mutex mutex;
  std::map<std::pair<int, cudaStream_t>, std::shared_ptr<StreamState>> streams;
};

// Never destroyed: at exit the driver may be gone before static objects are, and it takes the memory with it.
Registry& registry() {
  static Registry* const instance = new Registry;
  return *instance;
}

constexpr size_t kAlignment = 256;  // of each array in a block of memory
size_t padded(size_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

}  // namespace

std::shared_ptr<StreamState> stream_state(int device, cudaStream_t stream) {
  std::lock_guard<std::mutex> lock(registry().mutex);
  std::shared_ptr<StreamState>& state = registry().streams[{device, stream}];
  if (state == nullptr) state = std::make_shared<StreamState>(device, stream);
  return state;
}

void forget_stream(int device, cudaStream_t stream) {
  std::shared_ptr<StreamState> state;  // destroyed after the lock is given back
  std::lock_guard<std::mutex> lock(registry().mutex);
  const auto found = registry().streams.find({device, stream});
  if (found == registry().streams.end()) return;
  state = std::move(found->second);
  registry().streams.erase(found);
}

StreamState::~StreamState() {
  const DeviceScope scope(device_);
  if (scope.status() != Status::ok) return;  // a lost context has no memory to give back
  for (void* memory : {rows_.memory, partials_.memory}) CUDA_LOG(cudaFree(memory), "freeing a workspace", device_);
  for (void* memory : retired_) CUDA_LOG(cudaFree(memory), "freeing a workspace", device_);
  for (const Staging& staging : idle_) {
    CUDA_LOG(cudaFreeHost(staging.host), "freeing a staging buffer", device_);
    CUDA_LOG(cudaFree(staging.device), "freeing a staging buffer", device_);
  }
}

Status StreamState::grow(Buffer* buffer, size_t bytes, bool captured) {
  constexpr const char* kOperation = "allocating a workspace";
  if (bytes > buffer->bytes) {
    const size_t wanted = padded(bytes + bytes / 2);
    const std::string shapes = std::to_string(wanted) + " bytes";
    if (captured) {
      return report(cudaErrorStreamCaptureUnsupported, "growing a workspace during a capture (reserve it before)",
                    device_, shapes);
    }
    if (buffer->captured) {
      retired_.push_back(buffer->memory);
    } else {
      CUDA_TRY(cudaStreamSynchronize(stream_), kOperation, device_, std::string());
      CUDA_LOG(cudaFree(buffer->memory), kOperation, device_);
    }
    *buffer = Buffer();
    CUDA_TRY(cudaMalloc(&buffer->memory, wanted), kOperation, device_, shapes);
    // Counters start at zero; from then on every launch leaves them so.
    const cudaError_t zeroed = cudaMemsetAsync(buffer->memory, 0, wanted, stream_);
    if (zeroed != cudaSuccess) {
      CUDA_LOG(cudaFree(buffer->memory), kOperation, device_);
      buffer->memory = nullptr;
      return report(zeroed, kOperation, device_, std::string());
    }
    buffer->bytes = wanted;
  }
  buffer->captured = buffer->captured || captured;
  return Status::ok;
}

Status StreamState::workspace(int64_t rows, int64_t ring, int sums, bool captured, Workspace* out) {
  const size_t count = static_cast<size_t>(rows);
  const size_t arrived = padded(count * sizeof(uint32_t)), words = padded(count * RowWord::count * sizeof(uint64_t));
  const size_t control = padded(sizeof(Control) + sizeof(unsigned long long));
  const size_t partials = static_cast<size_t>(ring) * static_cast<size_t>(sums) * sizeof(double);
  const size_t lists = padded(count * RowInput::count * sizeof(double));
  Status status = grow(&rows_, control + arrived + words + lists, captured);
  if (status == Status::ok) status = grow(&partials_, partials, captured);
  if (status != Status::ok) return status;
  // Counters and words from the front, lists from the back of the block: then, whatever the rows of the calls, no byte
  // of a list ever becomes a counter or a word, which are zero between launches.
  char* const base = static_cast<char*>(rows_.memory);
  out->control = reinterpret_cast<Control*>(base);
  out->arrived = reinterpret_cast<uint32_t*>(base + control);
  out->coefficients = reinterpret_cast<uint64_t*>(base + control + arrived);
  out->lists = reinterpret_cast<double*>(base + rows_.bytes - lists);
  out->partials = static_cast<double*>(partials_.memory);
  out->ring = ring;
  return Status::ok;
}

Status StreamState::take_staging(int64_t rows, Staging* out) {
  {
    std::lock_guard<std::mutex> lock(staging_mutex_);
    for (size_t i = 0; i < idle_.size(); ++i) {
      if (idle_[i].rows < rows) continue;
      *out = idle_[i];
      idle_.erase(idle_.begin() + static_cast<std::ptrdiff_t>(i));
      return Status::ok;
    }
  }
  // None has room. One that is too small goes, so that growing batches do not leave a trail of buffers.
  Staging old;
  {
    std::lock_guard<std::mutex> lock(staging_mutex_);
    if (!idle_.empty()) {
      old = idle_.back();
      idle_.pop_back();
    }
  }
  CUDA_LOG(cudaFreeHost(old.host), "freeing a staging buffer", device_);
  CUDA_LOG(cudaFree(old.device), "freeing a staging buffer", device_);
  Staging made;
  made.rows = rows + rows / 2 + 8;
  const size_t bytes = Staging::doubles(made.rows) * sizeof(double);
  CUDA_TRY(cudaHostAlloc(reinterpret_cast<void**>(&made.host), bytes, cudaHostAllocPortable),
           "allocating a staging buffer", device_, std::to_string(bytes) + " bytes");
  cudaError_t code = cudaMalloc(reinterpret_cast<void**>(&made.device), bytes);
  // All of it comes back with each call, also what a call does not write.
  if (code == cudaSuccess) code = cudaMemsetAsync(made.device, 0, bytes, stream_);
  if (code != cudaSuccess) {
    CUDA_LOG(cudaFree(made.device), "freeing a staging buffer", device_);
    CUDA_LOG(cudaFreeHost(made.host), "freeing a staging buffer", device_);
    return report(code, "allocating a staging buffer", device_, std::to_string(bytes) + " bytes");
  }
  *out = made;
  return Status::ok;
}

void StreamState::give_staging(const Staging& staging) {
  std::lock_guard<std::mutex> lock(staging_mutex_);
  idle_.push_back(staging);
}

}  // namespace sdpo::cuda
