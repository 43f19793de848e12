// The kept blocks, and the thread that frees those nobody came for.
#include "blocks.h"

#include <pthread.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <list>
#include <mutex>

namespace sdpo::cpu {
namespace {

using Clock = std::chrono::steady_clock;

// Whoever makes less than a call a second does not notice its page faults.
constexpr auto kKept = std::chrono::milliseconds(1000);
// After this the kernel may take the pages where it is short of memory; until it does they can be used again as before.
constexpr auto kOwn = std::chrono::milliseconds(100);

constexpr size_t kPage = 4096;
constexpr size_t kHugePage = size_t{2} << 20;

size_t rounded(size_t bytes) { return (bytes + kPage - 1) / kPage * kPage; }

void* map(size_t bytes) {
  void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return nullptr;
#ifdef MADV_HUGEPAGE
  // 512 times fewer faults at the first writing. Where the system has no such pages nothing changes.
  if (bytes >= 2 * kHugePage) static_cast<void>(madvise(memory, bytes, MADV_HUGEPAGE));
#endif
  return memory;
}

size_t bound_of_environment() {
  if (const char* text = std::getenv("SDPO_RESULT_POOL")) {
    char* end = nullptr;
    const long long mebibytes = std::strtoll(text, &end, 10);
    if (end != text && *end == '\0' && mebibytes >= 0 && mebibytes <= (int64_t{1} << 40)) {
      return static_cast<size_t>(mebibytes) << 20;
    }
  }
  const long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGESIZE);
  return pages > 0 && page > 0 ? static_cast<size_t>(pages) / 4 * static_cast<size_t>(page) : size_t{1} << 30;
}

struct Idle {
  void* memory;
  size_t bytes;
  Clock::time_point since;
  bool own;  // the kernel may not take its pages
};

class Blocks {
 public:
  void* take(size_t bytes) {
    bytes = rounded(bytes);
    std::list<Idle> freed;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // The last one that came back: its lines are the ones still cached.
      const auto found = std::find_if(idle_.rbegin(), idle_.rend(), [&](const Idle& i) { return i.bytes == bytes; });
      if (found != idle_.rend()) {
        void* const memory = found->memory;
        idle_.erase(std::next(found).base());
        idle_bytes_ -= bytes;
        out_bytes_ += bytes;
        return memory;
      }
      if (bytes > bound_ || out_bytes_ > bound_ - bytes) return nullptr;
      // Blocks of other sizes give way, the oldest first.
      while (out_bytes_ + bytes + idle_bytes_ > bound_) drop_oldest(&freed);
      out_bytes_ += bytes;
    }
    unmap(freed);
    void* memory = map(bytes);
    if (memory == nullptr) {
      empty();
      memory = map(bytes);
    }
    if (memory == nullptr) {
      std::lock_guard<std::mutex> lock(mutex_);
      out_bytes_ -= bytes;
    }
    return memory;
  }

  void give(void* memory, size_t bytes) noexcept {
    bytes = rounded(bytes);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      out_bytes_ -= bytes;
      if (sweeping_ || start()) {
        try {
          idle_.push_back({memory, bytes, Clock::now(), true});
          idle_bytes_ += bytes;
          if (idle_.size() == 1) wake_.notify_one();
          return;
        } catch (const std::bad_alloc&) {
        }
      }
    }
    munmap(memory, bytes);
  }

  BlockUse use() {
    std::lock_guard<std::mutex> lock(mutex_);
    return {out_bytes_, idle_bytes_, bound_};
  }

 private:
  static void unmap(const std::list<Idle>& blocks) {
    for (const Idle& block : blocks) munmap(block.memory, block.bytes);
  }

  // With the lock held, as the next two.
  void drop_oldest(std::list<Idle>* freed) {
    idle_bytes_ -= idle_.front().bytes;
    freed->splice(freed->end(), idle_, idle_.begin());
  }

  // Without the thread nothing would be freed, so nothing is kept then.
  bool start() noexcept {
    pthread_attr_t attributes;
    if (pthread_attr_init(&attributes) != 0) return false;
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    pthread_attr_setstacksize(&attributes, size_t{256} << 10);
    pthread_t thread;
    sweeping_ = pthread_create(&thread, &attributes, &Blocks::main, this) == 0;
    pthread_attr_destroy(&attributes);
    return sweeping_;
  }

  void empty() {
    std::list<Idle> freed;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      while (!idle_.empty()) drop_oldest(&freed);
    }
    unmap(freed);
  }

  static void* main(void* self) {
    static_cast<Blocks*>(self)->sweep();
    return nullptr;
  }

  // Sleeps while nothing is idle; else until the next block is due.
  void sweep() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !idle_.empty(); });
      const Clock::time_point now = Clock::now();
      std::list<Idle> freed;
      while (!idle_.empty() && idle_.front().since + kKept <= now) drop_oldest(&freed);
      Clock::time_point next = idle_.empty() ? now : idle_.front().since + kKept;
      for (Idle& block : idle_) {
        if (!block.own) continue;
        if (block.since + kOwn > now) {
          next = std::min(next, block.since + kOwn);
          break;
        }
#ifdef MADV_FREE
        static_cast<void>(madvise(block.memory, block.bytes, MADV_FREE));
#endif
        block.own = false;
      }
      lock.unlock();
      unmap(freed);
      lock.lock();
      if (!idle_.empty()) wake_.wait_until(lock, next);
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Idle> idle_;  // the oldest first
  size_t idle_bytes_ = 0, out_bytes_ = 0;
  bool sweeping_ = false;
  const size_t bound_ = bound_of_environment();
};

// Never destroyed: at exit the thread still waits on its members, and results may come back.
Blocks& blocks() {
  static Blocks* const made = new Blocks;
  return *made;
}

}  // namespace

void* take_block(size_t bytes) { return blocks().take(bytes); }
void give_block(void* block, size_t bytes) noexcept { blocks().give(block, bytes); }
BlockUse block_use() { return blocks().use(); }

}  // namespace sdpo::cpu
