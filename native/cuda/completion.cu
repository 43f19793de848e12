// One thread per device that watches events and calls back, with the error where there is one: nobody is left waiting.
//
// cudaLaunchHostFunc would be simpler, but its function is not called once the context is lost, and a promise would
// hang. And cudaEventSynchronize waits for one event, while streams finish in any order; so the thread looks at all of
// them and sleeps in between, for an eighth of the time that the youngest has been waiting: short calls are answered
// promptly, long ones cost nothing.
#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "../core/signals.h"
#include "completion.h"

namespace sdpo::cuda {
namespace {

using Clock = std::chrono::steady_clock;

constexpr auto kShortestNap = std::chrono::microseconds(20);
constexpr auto kLongestNap = std::chrono::microseconds(1000);

class Watcher {
 public:
  explicit Watcher(int device) : device_(device) {
    const SignalsBlocked signals;
    std::thread(&Watcher::run, this).detach();
  }

  Status watch(cudaStream_t stream, Completion done) {
    std::lock_guard<std::mutex> lock(mutex_);
    cudaEvent_t event;
    if (idle_.empty()) {
      CUDA_TRY(cudaEventCreateWithFlags(&event, cudaEventDisableTiming), "creating an event", device_, std::string());
    } else {
      event = idle_.back();
      idle_.pop_back();
    }
    const cudaError_t code = cudaEventRecord(event, stream);
    if (code != cudaSuccess) {
      idle_.push_back(event);
      return report(code, "recording an event", device_, std::string());
    }
    pending_.push_back({event, std::move(done), Clock::now()});
    wake_.notify_one();
    return Status::ok;
  }

 private:
  struct Pending {
    cudaEvent_t event;
    Completion done;
    Clock::time_point since;
  };

  void run() {
    // Or a look at an event would be an error for this thread, and for the capture, while another thread captures a
    // stream in the global mode. Events of a stream that is captured never come here.
    cudaStreamCaptureMode mode = cudaStreamCaptureModeRelaxed;
    cudaThreadExchangeStreamCaptureMode(&mode);
    // A device that cannot be selected shows in the first look at an event, which then settles with that error.
    if (cudaSetDevice(device_) != cudaSuccess) cudaGetLastError();
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      wake_.wait(lock, [&] { return !pending_.empty(); });
      std::vector<std::pair<Pending, cudaError_t>> settled;
      for (auto it = pending_.begin(); it != pending_.end();) {
        const cudaError_t code = cudaEventQuery(it->event);
        if (code == cudaErrorNotReady) {
          cudaGetLastError();  // "not ready" is left behind as an error of this thread
          ++it;
          continue;
        }
        idle_.push_back(it->event);
        settled.emplace_back(std::move(*it), code);
        it = pending_.erase(it);
      }
      if (!settled.empty()) {
        lock.unlock();
        for (auto& [pending, code] : settled) settle(pending, code);
        lock.lock();
      } else {
        const auto waited = std::chrono::duration_cast<std::chrono::microseconds>(Clock::now() - pending_.back().since);
        const auto nap = std::clamp<std::chrono::microseconds>(waited / 8, kShortestNap, kLongestNap);
        lock.unlock();
        std::this_thread::sleep_for(nap);
        lock.lock();
      }
    }
  }

  void settle(Pending& pending, cudaError_t code) const {
    if (code == cudaSuccess) {
      pending.done(nullptr);
    } else {
      static_cast<void>(report(code, "running a kernel", device_, std::string()));
      const DeviceError error = last_error();
      pending.done(&error);
    }
  }

  const int device_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::deque<Pending> pending_;
  std::vector<cudaEvent_t> idle_;
};

// Watchers are never destroyed: their threads wait on their members until the process ends.
Watcher& watcher(int device) {
  static std::mutex mutex;
  static std::map<int, Watcher*>* const watchers = new std::map<int, Watcher*>;
  std::lock_guard<std::mutex> lock(mutex);
  Watcher*& found = (*watchers)[device];
  if (found == nullptr) found = new Watcher(device);
  return *found;
}

}  // namespace

Status on_completion(int device, cudaStream_t stream, Completion done) {
  CUDA_ENTER(device);
  return watcher(device).watch(stream, std::move(done));
}

Status when_done(int device, void* stream, Completion done) {
  return on_completion(device, static_cast<cudaStream_t>(stream), std::move(done));
}

}  // namespace sdpo::cuda
