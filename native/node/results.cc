// Memory of results that is kept between calls: the addon has a share in it (shared_memory.h), and once that is the
// only one it is the next result's.
#include <algorithm>
#include <atomic>
#include <map>
#include <memory>
#include <vector>

#include "exports.h"
#include "shared_memory.h"
#include "values.h"

namespace sdpo {
namespace {

// Kept in all threads.
std::atomic<size_t> total{0};

// Of one size: V8 collects long before so many are garbage, so that more are ones that somebody holds.
constexpr size_t kMost = 1024;

// Looks of a call where that many are kept: a program that holds its results does not pay for all of them in each.
constexpr size_t kLooks = 64;

// Results of one size.
struct Ring {
  struct Kept {
    Share memory;
    bool used;  // since the last sweep
  };
  std::vector<Kept> kept;
  size_t next = 0;  // the one whose last use is the longest ago
};

// Of one environment, on its thread. To drop a share is safe at any time: memory of a result that is still held is then
// one that only V8 counts.
class Results {
 public:
  ~Results() { clear(); }

  // A buffer over memory that nobody else has a share in; null where none was found.
  napi_value take(napi_env env, size_t bytes) {
    const auto found = rings_.find(bytes);
    if (found == rings_.end()) return nullptr;
    Ring& ring = found->second;
    // Buffers mostly go in the order in which they came, many with one garbage collection, so that the first look finds
    // one; the others, a few nanoseconds each, keep a ring from growing while it has free memory anywhere.
    for (size_t looks = ring.kept.size() < kMost ? ring.kept.size() : kLooks; looks > 0; --looks) {
      Ring::Kept& kept = ring.kept[ring.next];
      ring.next = (ring.next + 1) % ring.kept.size();
      if (kept.memory.use_count() != 1) continue;
      // What the last of the others wrote, perhaps on another thread, comes before what is written from here on.
      std::atomic_thread_fence(std::memory_order_acquire);
      // A transfer to another length may have changed that of the memory itself.
      if (SharedMemory::bytes(env, kept.memory) != bytes) continue;
      kept.used = true;
      return SharedMemory::buffer(env, kept.memory);
    }
    return nullptr;
  }

  // Takes a share in the memory of a new buffer; at the bound in place of the share that is the oldest. That a
  // collection comes before long, since a buffer that is not found here is one that V8 allocates, keeps rings short.
  void keep(Share memory, size_t bytes, size_t bound) {
    if (bytes > bound) return;
    if (total + bytes > bound) forget_others(bytes);
    Ring& ring = rings_[bytes];  // left empty where other threads keep all that may be kept
    if (total + bytes <= bound && ring.kept.size() < kMost) {
      ring.kept.insert(ring.kept.begin() + static_cast<std::ptrdiff_t>(ring.next), {std::move(memory), true});
      total += bytes;
    } else if (!ring.kept.empty()) {
      ring.kept[ring.next] = {std::move(memory), true};
    } else {
      return;
    }
    ring.next = (ring.next + 1) % ring.kept.size();
  }

  // Drops what no call came for since the last sweep; whether anything is left.
  bool sweep() {
    for (auto ring = rings_.begin(); ring != rings_.end();) {
      auto& kept = ring->second.kept;
      const auto rest = std::stable_partition(kept.begin(), kept.end(), [](const auto& k) { return k.used; });
      total -= static_cast<size_t>(kept.end() - rest) * ring->first;
      kept.erase(rest, kept.end());
      for (auto& k : kept) k.used = false;
      ring->second.next = 0;
      ring = kept.empty() ? rings_.erase(ring) : std::next(ring);
    }
    return !rings_.empty();
  }

  void clear() {
    for (const auto& [bytes, ring] : rings_) total -= ring.kept.size() * bytes;
    rings_.clear();
  }

 private:
  void forget_others(size_t bytes) {
    for (auto ring = rings_.begin(); ring != rings_.end();) {
      if (ring->first != bytes) total -= ring->second.kept.size() * ring->first;
      ring = ring->first == bytes ? std::next(ring) : rings_.erase(ring);
    }
  }

  std::map<size_t, Ring> rings_;  // by bytes
};

}  // namespace

void export_results(Napi::Env env, Napi::Object exports) {
  const auto results = std::make_shared<Results>();
  // Before the environment's allocator goes, which frees the memory.
  env.AddCleanupHook([results] { results->clear(); });
  const auto set = [&](const char* name, auto function) {
    const auto called = [function](const Napi::CallbackInfo& info) {
      return as_javascript(info.Env(), [&] { return function(info); });
    };
    exports.Set(name, Napi::Function::New(env, called, name));
  };
  // takeResult(bytes): an array buffer with whatever was written there before, or undefined.
  set("takeResult", [results](const Napi::CallbackInfo& info) {
    const napi_value buffer = results->take(info.Env(), static_cast<size_t>(whole(info[0])));
    return buffer == nullptr ? info.Env().Undefined() : Napi::Value(info.Env(), buffer);
  });
  // keepResult(buffer, bound): keeps the memory of a new result for others, as long as all that is kept is within it.
  set("keepResult", [results](const Napi::CallbackInfo& info) {
    Share memory = SharedMemory::of(info.Env(), info[0]);
    if (memory == nullptr) return;
    const size_t bytes = SharedMemory::bytes(info.Env(), memory);
    results->keep(std::move(memory), bytes, static_cast<size_t>(whole(info[1])));
  });
  // sweepResults(): as Results::sweep.
  set("sweepResults",
      [results](const Napi::CallbackInfo& info) { return Napi::Boolean::New(info.Env(), results->sweep()); });
  // keptResults(): bytes that are kept, in all threads.
  set("keptResults",
      [](const Napi::CallbackInfo& info) { return Napi::Number::New(info.Env(), static_cast<double>(total.load())); });
}

}  // namespace sdpo
