// A pool of sleeping helper threads, made lazily and kept for the life of the process.
#include "threads.h"

#include <condition_variable>
#include <list>
#include <mutex>

#include "../core/float_environment.h"
#include "../core/signals.h"

namespace sdpo::cpu {
namespace {

// One call in progress: how many more helpers may join, and how many are inside.
struct Job {
  const std::function<void()>* work;
  int open_slots;
  std::atomic<int> running{0};  // written with the lock held
  std::condition_variable idle;
};

class Pool {
 public:
  void run(int helpers, const std::function<void()>& work) {
    Job job{&work, helpers, {}, {}};
    {
      std::lock_guard<std::mutex> lock(mutex_);
      grow(helpers);
      jobs_.push_back(&job);
    }
    for (int i = 0; i < helpers; ++i) wake_.notify_one();
    work();
    std::unique_lock<std::mutex> lock(mutex_);
    jobs_.remove(&job);  // nobody joins from here on
    if (job.running == 0) return;
    lock.unlock();
    soon([&] { return job.running == 0; });
    lock.lock();  // and those inside have left the job alone
    job.idle.wait(lock, [&] { return job.running == 0; });
  }

 private:
  // Called with the lock held. A helper that cannot be created is done without: the caller works alone then.
  void grow(int helpers) {
    if (size_ >= helpers) return;
    const SignalsBlocked signals;
    while (size_ < helpers) {
      pthread_attr_t attributes;
      if (pthread_attr_init(&attributes) != 0) return;
      pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
      pthread_attr_setstacksize(&attributes, 256 << 10);  // a call takes 64 KiB; musl's default is 128 KiB
      pthread_t thread;
      const int error = pthread_create(&thread, &attributes, &Pool::main, this);
      pthread_attr_destroy(&attributes);
      if (error != 0) return;
      ++size_;
    }
  }

  static void* main(void* self) {
    const FloatEnvironment environment;
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

Pool& pool() {
  static ForkedAnew<Pool> instance;
  return instance.get();
}

}  // namespace

void run_on_threads(int threads, const std::function<void()>& work) {
  if (threads <= 1) {
    work();
  } else {
    pool().run(threads - 1, work);
  }
}

}  // namespace sdpo::cpu
