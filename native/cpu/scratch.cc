// The pool of staging buffers.
#include "scratch.h"

#include <mutex>
#include <new>

#include "threads.h"

namespace sdpo::cpu {
namespace {

// Buffers that nobody uses; so many stay for later calls.
constexpr size_t kKept = 64;

struct Pool {
  std::mutex mutex;
  std::vector<Scratch*> free;
};

Pool& pool() {
  static ForkedAnew<Pool> instance;
  return instance.get();
}

}  // namespace

CallScratch::CallScratch(int participants) {
  const auto count = static_cast<size_t>(participants);
  if (count == 0) return;
  buffers_.reserve(count);
  Pool& shared = pool();
  {
    std::lock_guard<std::mutex> lock(shared.mutex);
    shared.free.reserve(kKept);  // so that giving back cannot fail
    while (buffers_.size() < count && !shared.free.empty()) {
      buffers_.push_back(shared.free.back());
      shared.free.pop_back();
    }
  }
  try {
    while (buffers_.size() < count) buffers_.push_back(new Scratch);
  } catch (const std::bad_alloc&) {
    for (Scratch* buffer : buffers_) delete buffer;
    throw;
  }
}

CallScratch::~CallScratch() {
  if (buffers_.empty()) return;
  Pool& shared = pool();
  std::lock_guard<std::mutex> lock(shared.mutex);
  for (Scratch* buffer : buffers_) {
    if (shared.free.size() < shared.free.capacity() && shared.free.size() < kKept) {
      shared.free.push_back(buffer);
    } else {
      delete buffer;
    }
  }
}

}  // namespace sdpo::cpu
