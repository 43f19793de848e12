// A pool of sleeping helper threads, made lazily and kept for the life of the process.
#include "threads.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <list>
#include <mutex>
#include <thread>

namespace sdpo::cpu {
namespace {

// One call in progress: how many more helpers may join, and how many are inside.
struct Job {
  const std::function<void()>* work;
  int open_slots;
  int running = 0;
  std::condition_variable idle;
};

class Pool {
 public:
  void run(int helpers, const std::function<void()>& work) {
    Job job{&work, helpers, 0, {}};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(helpers);
      jobs_.push_back(&job);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    work();
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.remove(&job);  // nobody joins from here on
    job.idle.wait(lock, [&] { return job.running == 0; });
  }

 private:
  // Called with the lock held. A helper that cannot be created is done without: the caller works alone then.
  void grow(int helpers) {
    while (size_ < helpers) {
      pthread_attr_t attributes;
      if (pthread_attr_init(&attributes) != 0) return;
      pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
      pthread_attr_setstacksize(&attributes,
                                1 << 20);  // tiles are staged on the stack; musl's default of 128 KiB is too small
      pthread_t thread;
      const int error = pthread_create(&thread, &attributes, &Pool::main, this);
      pthread_attr_destroy(&attributes);
      if (error != 0) return;
      ++size_;
    }
  }

  static void* main(void* self) {
    static_cast<Pool*>(self)->serve();
    return nullptr;
  }

  void serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      Job* job = nullptr;
      wake_.wait(lock, [&] {
        for (Job* candidate : jobs_) {
          if (candidate->open_slots > 0) {
            job = candidate;
            return true;
          }
        }
        return false;
      });
      --job->open_slots;
      ++job->running;
      lock.unlock();
      (*job->work)();
      lock.lock();
      if (--job->running == 0) job->idle.notify_one();
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::list<Job*> jobs_;
  int size_ = 0;
};

// Never destroyed: at exit helpers still wait on its members. A forked child has none of the parent's threads and maybe
// a locked mutex, so it starts with a new pool and leaves the old one alone.
std::atomic<Pool*> g_pool{nullptr};

Pool& pool() {
  static const int registered =
      pthread_atfork(nullptr, nullptr, [] { g_pool.store(nullptr, std::memory_order_relaxed); });
  static_cast<void>(registered);
  Pool* current = g_pool.load(std::memory_order_acquire);
  if (current == nullptr) {
    Pool* made = new Pool;
    if (g_pool.compare_exchange_strong(current, made, std::memory_order_acq_rel)) return *made;
    delete made;
  }
  return *current;
}

}  // namespace

int default_threads() {
  static const int count = [] {
    if (const char* text = std::getenv("SDPO_NUM_THREADS")) {
      char* end = nullptr;
      const long value = std::strtol(text, &end, 10);
      if (end != text && *end == '\0' && value > 0 && value <= 4096) return static_cast<int>(value);
    }
    return std::max(1, static_cast<int>(std::thread::hardware_concurrency()));
  }();
  return count;
}

void run_on_threads(int threads, const std::function<void()>& work) {
  if (threads <= 1) {
    work();
  } else {
    pool().run(threads - 1, work);
  }
}

}  // namespace sdpo::cpu
