// Staging buffers of the participants of a call: from a pool that is kept, so that neither the caller's stack nor the
// allocator has to give them.
#pragma once

#include <atomic>
#include <vector>

#include "kernels.h"

namespace sdpo::cpu {

// Room for one tile of either compute type.
struct alignas(64) Tile {
  double values[kTile];
};

// What one participant stages at most: policy, reference and target of a branch, and the element weights of both;
// policy, target, gradient and element weights of a branch; or policy and target of both branches and the element
// weights.
struct Scratch {
  Tile tiles[5];
};

// The buffers of one call, handed out one by one and given back at the end.
class CallScratch {
 public:
  // Throws std::bad_alloc.
  explicit CallScratch(int participants);
  ~CallScratch();
  CallScratch(const CallScratch&) = delete;
  CallScratch& operator=(const CallScratch&) = delete;

  // For a participant that has none yet; nullptr for a call that stages nothing (no participants).
  Scratch* take() { return buffers_.empty() ? nullptr : buffers_[next_.fetch_add(1, std::memory_order_relaxed)]; }

 private:
  std::vector<Scratch*> buffers_;
  std::atomic<size_t> next_{0};
};

}  // namespace sdpo::cpu
