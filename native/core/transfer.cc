// Staged copies: two pinned buffers per device take turns, so that the processor fills or empties one while the device
// copies the other.
#include "transfer.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

namespace sdpo {
namespace {

// Large enough that starting a copy does not show, small enough that two of them are no burden as page-locked memory.
constexpr size_t kChunk = size_t{4} << 20;
// Below this the driver's own staging is as good.
constexpr size_t kStagedFrom = size_t{64} << 10;

struct Piece {
  char* to;
  const char* from;
  size_t bytes;
};

// Two buffers, each with a stream of its own: waiting for one stream means that its buffer is free, while the other
// still copies.
struct Stage {
  static constexpr size_t kSlots = 2;
  std::mutex mutex;
  bool ready = false;
  void* buffers[kSlots] = {};
  void* streams[kSlots] = {};

  // With the lock held. What was made before a failure is kept for the next attempt.
  Status prepare(const DeviceBackend& backend, int device) {
    for (size_t slot = 0; slot < kSlots; ++slot) {
      Status status = Status::ok;
      if (buffers[slot] == nullptr) status = backend.allocate_pinned(kChunk, &buffers[slot]);
      if (status == Status::ok && streams[slot] == nullptr) status = backend.create_stream(device, &streams[slot]);
      if (status != Status::ok) return status;
    }
    ready = true;
    return Status::ok;
  }
};

// Never destroyed: when static objects are, the driver may be gone, and it takes the memory with it.
Stage& stage_of(int device) {
  static std::mutex mutex;
  static auto* const stages = new std::map<int, std::unique_ptr<Stage>>;
  std::lock_guard<std::mutex> lock(mutex);
  std::unique_ptr<Stage>& stage = (*stages)[device];
  if (stage == nullptr) stage = std::make_unique<Stage>();
  return *stage;
}

std::vector<Piece> pieces_of(const Transfer& t, size_t largest) {
  // Rows without gaps are one run.
  const bool dense = t.to_stride == t.width && t.from_stride == t.width;
  const size_t rows = dense ? std::min<size_t>(t.rows, 1) : t.rows, width = dense ? t.rows * t.width : t.width;
  std::vector<Piece> pieces;
  for (size_t row = 0; row < rows; ++row) {
    for (size_t done = 0; done < width; done += largest) {
      pieces.push_back(
          {t.to + row * t.to_stride + done, t.from + row * t.from_stride + done, std::min(largest, width - done)});
    }
  }
  return pieces;
}

Status upload(const DeviceBackend& backend, int device, const std::vector<Piece>& pieces, Stage& stage) {
  for (size_t i = 0; i < pieces.size(); ++i) {
    const size_t slot = i % Stage::kSlots;
    if (i >= Stage::kSlots) {
      const Status free = backend.synchronize(device, stage.streams[slot]);
      if (free != Status::ok) return free;
    }
    std::memcpy(stage.buffers[slot], pieces[i].from, pieces[i].bytes);
    const Status status = backend.copy(device, pieces[i].to, stage.buffers[slot], pieces[i].bytes, stage.streams[slot]);
    if (status != Status::ok) return status;
  }
  return Status::ok;
}

Status download(const DeviceBackend& backend, int device, const std::vector<Piece>& pieces, Stage& stage) {
  const auto start = [&](size_t i) {
    const size_t slot = i % Stage::kSlots;
    return backend.copy(device, stage.buffers[slot], pieces[i].from, pieces[i].bytes, stage.streams[slot]);
  };
  Status status = start(0);
  for (size_t i = 0; i < pieces.size() && status == Status::ok; ++i) {
    if (i + 1 < pieces.size()) status = start(i + 1);
    if (status != Status::ok) break;
    const size_t slot = i % Stage::kSlots;
    status = backend.synchronize(device, stage.streams[slot]);
    if (status == Status::ok) std::memcpy(pieces[i].to, stage.buffers[slot], pieces[i].bytes);
  }
  return status;
}

Status staged(const DeviceBackend& backend, const Transfer& t, Stage& stage) {
  const std::vector<Piece> pieces = pieces_of(t, kChunk);
  return t.kind == Transfer::upload ? upload(backend, t.device, pieces, stage)
                                    : download(backend, t.device, pieces, stage);
}

Status direct(const DeviceBackend& backend, const Transfer& t) {
  for (const Piece& piece : pieces_of(t, SIZE_MAX)) {
    const Status status = backend.copy(t.device, piece.to, piece.from, piece.bytes, t.stream);
    if (status != Status::ok) return status;
  }
  return Status::ok;
}

// Waits for the streams of a copy, also after a failure: nothing may use the host memory when the copy returns. Keeps
// the first error.
Status finish(const DeviceBackend& backend, Status status, int device, void* const* streams, size_t count,
              DeviceError* error) {
  if (status != Status::ok) *error = backend.last_error();
  for (size_t i = 0; i < count; ++i) {
    const Status waited = backend.synchronize(device, streams[i]);
    if (waited != Status::ok && status == Status::ok) {
      status = waited;
      *error = backend.last_error();
    }
  }
  return status;
}

}  // namespace

Status transfer(const DeviceBackend& backend, const Transfer& t, DeviceError* error) {
  if (t.rows == 0 || t.width == 0) return Status::ok;
  if (t.kind != Transfer::on_device && t.rows * t.width >= kStagedFrom) {
    Stage& stage = stage_of(t.device);
    std::lock_guard<std::mutex> lock(stage.mutex);
    // Without pinned memory the copy is slower, not impossible.
    if (stage.ready || stage.prepare(backend, t.device) == Status::ok) {
      const Status before = finish(backend, Status::ok, t.device, &t.stream, 1, error);
      if (before != Status::ok) return before;
      return finish(backend, staged(backend, t, stage), t.device, stage.streams, Stage::kSlots, error);
    }
  }
  return finish(backend, direct(backend, t), t.device, &t.stream, 1, error);
}

}  // namespace sdpo
