// A stand-in for the CUDA backend, for tests on machines without a GPU: the interface of native/cuda/cuda.h over host
// memory, with a thread for every stream, so that what JavaScript and the addon do with memory, streams, promises and
// errors really runs.
//
// It is late on purpose: every piece of work starts after a pause, freed memory is overwritten, and new memory is full
// of NaN, so that a missing wait or a use after free shows in the numbers. As on a device, the default stream and other
// streams do not wait for each other. A stream that is captured keeps its work for the graph, and whoever waits for it
// or allocates on its behalf invalidates the capture. The device has 256 MiB. SDPO_FAKE_LOSE=n: the n-th evaluation
// loses the context.
#include "../../../native/cuda/cuda.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <thread>
#include <vector>

#include "../../../native/core/metrics.h"
#include "../../../native/core/row.h"

namespace sdpo::cuda {
namespace {

constexpr size_t kCapacity = size_t{256} << 20;
constexpr auto kLateness = std::chrono::milliseconds(3);

thread_local DeviceError t_last;

Status failed(int code, const char* name, const char* text, const char* operation, int device, std::string shapes) {
  t_last = {code, name, text, operation, std::move(shapes), device, false};
  return code == 2 ? Status::out_of_memory : Status::device;
}

using Graph = std::vector<std::function<void()>>;

class Queue {
 public:
  Queue() {
    std::thread([this] { run(); }).detach();
  }

  void add(std::function<void()> work) {
    std::lock_guard<std::mutex> lock(mutex_);
    if (captured_ != nullptr) {
      captured_->push_back(std::move(work));
      return;
    }
    work_.push_back(std::move(work));
    ++added_;
    changed_.notify_all();
  }

  // ---- Captures. One that was invalidated goes on, and ends without a graph.

  bool begin() {
    std::lock_guard<std::mutex> lock(mutex_);
    if (captured_ != nullptr) return false;
    captured_ = std::make_unique<Graph>();
    valid_ = true;
    return true;
  }

  std::unique_ptr<Graph> end() {
    std::lock_guard<std::mutex> lock(mutex_);
    std::unique_ptr<Graph> out = std::move(captured_);
    if (!valid_) out.reset();
    return out;
  }

  bool captured() {
    std::lock_guard<std::mutex> lock(mutex_);
    return captured_ != nullptr;
  }

  // Whether the stream is captured, which is then over.
  bool invalidate() {
    std::lock_guard<std::mutex> lock(mutex_);
    valid_ = false;
    return captured_ != nullptr;
  }

  // The most elements of a call on this stream, whose workspace grows with them.
  int64_t room = 0;

  uint64_t added() {
    std::lock_guard<std::mutex> lock(mutex_);
    return added_;
  }

  void wait(uint64_t count) {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [&] { return done_ >= count; });
  }

 private:
  void run() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
      changed_.wait(lock, [&] { return !work_.empty(); });
      const std::function<void()> work = std::move(work_.front());
      work_.pop_front();
      lock.unlock();
      std::this_thread::sleep_for(kLateness);
      work();
      lock.lock();
      ++done_;
      changed_.notify_all();
    }
  }

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<std::function<void()>> work_;
  uint64_t added_ = 0, done_ = 0;
  std::unique_ptr<Graph> captured_;
  bool valid_ = true;
};

struct Event {
  Queue* queue = nullptr;
  uint64_t count = 0;
};

struct Device {
  std::mutex mutex;
  std::map<void*, size_t> blocks;
  std::map<void*, Queue*> streams;
  size_t bytes = 0;
  int evaluations = 0;
  std::atomic<int> waits{0}, allocations{0};
  bool lost = false;
  DeviceError cause;
  Queue standard;
};

Device& the_device() {
  static Device* const device = new Device;
  return *device;
}

Status usable() {
  std::lock_guard<std::mutex> lock(the_device().mutex);
  if (!the_device().lost) return Status::ok;
  t_last = the_device().cause;
  return Status::device;
}

// A handle that is not known (any more) ends the process, as it may on a device.
Queue& queue_of(void* stream) {
  if (stream == nullptr) return the_device().standard;
  std::lock_guard<std::mutex> lock(the_device().mutex);
  const auto found = the_device().streams.find(stream);
  if (found == the_device().streams.end()) std::abort();
  return *found->second;
}

std::vector<Queue*> all_queues() {
  std::lock_guard<std::mutex> lock(the_device().mutex);
  std::vector<Queue*> out{&the_device().standard};
  for (const auto& entry : the_device().streams) out.push_back(entry.second);
  return out;
}

// A thread of the caller waits for the device; it is counted.
void wait(Queue& queue) {
  ++the_device().waits;
  queue.wait(queue.added());
}

Status unsupported(const char* operation, const char* shapes = "") {
  return failed(900, "cudaErrorStreamCaptureUnsupported", "operation not permitted when stream is capturing", operation,
                0, shapes);
}

// Room for a call, as the workspace of a stream: it grows outside of captures only.
Status make_room(const Problem& problem) {
  Queue& queue = queue_of(problem.stream);
  const int64_t needed = problem.rows * problem.size;
  if (needed <= queue.room) return Status::ok;
  if (queue.captured()) return unsupported("growing a workspace during a capture (reserve it before)");
  queue.room = needed;
  return Status::ok;
}

#define FAKE_ENTER()                                       \
  do {                                                     \
    const Status usable_status = usable();                 \
    if (usable_status != Status::ok) return usable_status; \
  } while (0)

// The CPU's answer to a problem whose memory is said to lie on the device.
Problem on_host(Problem problem) {
  problem.tensors = problem.scalars = Location();
  problem.stream = nullptr;
  problem.abort = nullptr;
  return problem;
}

template <class View>
View row_of(View view, int64_t row) {
  if (view.data != nullptr)
    view.data = static_cast<char*>(const_cast<void*>(static_cast<const void*>(view.data))) +
                row * view.row_stride * static_cast<int64_t>(dtype_size(view.dtype));
  return view;
}

void fill_nan(const MutableTensorView& view, int64_t size) {
  if (view.data == nullptr) return;
  const size_t bytes = dtype_size(view.dtype);
  std::memset(view.data, 0xff, static_cast<size_t>(size) * bytes);  // a NaN in every dtype
}

// Lists that lie on the host are the caller's again once a call has been enqueued: a device has them by then.
struct HostLists {
  RowColumns columns;
  std::vector<double> numbers;

  HostLists(const RowColumns& given, int64_t rows)
      : columns(given), numbers(RowInput::count * static_cast<size_t>(rows)) {
    for (int f = 0; f < RowInput::count; ++f) {
      RowColumn& column = columns.fields[f];
      if (column.data == nullptr || !column.on_host) continue;
      double* const list = numbers.data() + f * rows;
      for (int64_t row = 0; row < rows; ++row) list[row] = column_value(column, row);
      column.data = list;
      column.dtype = DType::float64;
    }
  }
};

// With scalars on the device nothing is reported: a row that fails is NaN, and the others are what they are. (The CPU's
// bits of a row do not depend on the batch it comes in.)
void evaluate_rows(const Problem& problem) {
  const int64_t rows = problem.rows;
  for (int64_t row = 0; row < rows; ++row) {
    double outputs[RowOutput::count], metrics[Metric::count];
    for (int f = 0; f < RowOutput::count; ++f) outputs[f] = problem.row_outputs[f * rows + row];
    Problem one = on_host(problem);
    one.rows = 1;
    for (Branch* branch : {&one.chosen, &one.rejected}) {
      *branch = {row_of(branch->policy, row), row_of(branch->reference, row), row_of(branch->target, row),
                 row_of(branch->gradient, row)};
    }
    one.element_weights = row_of(one.element_weights, row);
    one.rejected_element_weights = row_of(one.rejected_element_weights, row);
    for (RowColumn& column : one.columns.fields) {
      if (column.data == nullptr) continue;
      column.value = column_value(column, row);
      column.data = nullptr;
    }
    one.row_outputs = outputs;
    one.metrics = metrics;
    Failure failure;
    const Status status = cpu_backend().evaluate(one, &failure);
    // What is too large for its dtype is seen by who looks at results, as nobody does here.
    const bool looked = failure.tensor == FailureTensor::gradient || failure.tensor == FailureTensor::batch;
    if (status != Status::ok && !looked) {
      std::fill_n(outputs, RowOutput::count, NAN);
      outputs[RowOutput::nonFinite] = 1;
      fill_nan(one.chosen.gradient, one.size);
      fill_nan(one.rejected.gradient, one.size);
    }
    for (int f = 0; f < RowOutput::count; ++f) problem.row_outputs[f * rows + row] = outputs[f];
  }
  if ((problem.passes & Pass::objective) == 0) return;
  for (int k = 0; k < Metric::count; ++k) {
    problem.metrics[k] = batch_metric(k, problem.options, problem.denominator, problem.row_outputs, rows);
  }
}

// Where a row needs the moments of the others they come together; the gradient of a bad one is then made of NaN.
void evaluate_batch(const Problem& problem) {
  if (!needs_all_moments(problem.options)) return evaluate_rows(problem);
  Problem whole = on_host(problem);
  if (whole.options.non_finite == NonFinite::fail) whole.options.non_finite = NonFinite::propagate;
  Failure failure;
  cpu_backend().evaluate(whole, &failure);
}

}  // namespace

const DeviceError& last_error() { return t_last; }

Status allocate(int device, size_t bytes, void** out) {
  *out = nullptr;
  FAKE_ENTER();
  if (bytes == 0) return Status::ok;
  std::lock_guard<std::mutex> lock(the_device().mutex);
  if (bytes > kCapacity - the_device().bytes) {
    return failed(2, "cudaErrorMemoryAllocation", "out of memory", "allocating device memory", device,
                  std::to_string(bytes) + " bytes");
  }
  ++the_device().allocations;
  *out = std::malloc(bytes);
  std::memset(*out, 0xff, bytes);
  the_device().blocks[*out] = bytes;
  the_device().bytes += bytes;
  return Status::ok;
}

Status release(int, void* memory) {
  if (memory == nullptr) return Status::ok;
  FAKE_ENTER();
  for (Queue* queue : all_queues()) wait(*queue);
  std::lock_guard<std::mutex> lock(the_device().mutex);
  const auto found = the_device().blocks.find(memory);
  if (found == the_device().blocks.end()) std::abort();
  std::memset(memory, 0xff, found->second);
  the_device().bytes -= found->second;
  the_device().blocks.erase(found);
  std::free(memory);
  return Status::ok;
}

Status allocate_pinned(size_t bytes, void** out) {
  *out = std::malloc(bytes);
  return Status::ok;
}

Status release_pinned(void* memory) {
  std::free(memory);
  return Status::ok;
}

Status copy(int, void* to, const void* from, size_t bytes, void* stream) {
  FAKE_ENTER();
  queue_of(stream).add([=] { std::memcpy(to, from, bytes); });
  return Status::ok;
}

Status fill_zero(int, void* to, size_t bytes, void* stream) {
  FAKE_ENTER();
  queue_of(stream).add([=] { std::memset(to, 0, bytes); });
  return Status::ok;
}

Status create_stream(int, void** out) {
  FAKE_ENTER();
  auto* const queue = new Queue;
  std::lock_guard<std::mutex> lock(the_device().mutex);
  the_device().streams[queue] = queue;
  *out = queue;
  return Status::ok;
}

Status destroy_stream(int device, void* stream) {
  const Status status = synchronize(device, stream);
  std::lock_guard<std::mutex> lock(the_device().mutex);
  the_device().streams.erase(stream);  // its thread sleeps until the process ends
  return status;
}

Status release_workspace(int device, void* stream) { return synchronize(device, stream); }

Status synchronize(int, void* stream) {
  FAKE_ENTER();
  if (queue_of(stream).invalidate()) return unsupported("waiting for a stream");
  wait(queue_of(stream));
  return usable();
}

Status create_event(int, void** out) {
  *out = new Event;
  return Status::ok;
}

Status destroy_event(int, void* event) {
  delete static_cast<Event*>(event);
  return Status::ok;
}

Status record_event(int, void* event, void* stream) {
  Queue& queue = queue_of(stream);
  if (queue.invalidate()) return unsupported("recording an event");
  *static_cast<Event*>(event) = {&queue, queue.added()};
  return Status::ok;
}

Status wait_event(int, void* stream, void* event) {
  const Event recorded = *static_cast<Event*>(event);
  if (queue_of(stream).invalidate()) return unsupported("waiting for an event");
  queue_of(stream).add([recorded] { recorded.queue->wait(recorded.count); });
  return Status::ok;
}

Status wait_stream(int device, void* stream, void* other) {
  Event event;
  const Status status = record_event(device, &event, other);
  return status == Status::ok ? wait_event(device, stream, &event) : status;
}

Status begin_capture(int, void* stream) {
  FAKE_ENTER();
  if (stream == nullptr || !queue_of(stream).begin()) return unsupported("beginning a capture");
  return Status::ok;
}

Status end_capture(int, void* stream, void** graph) {
  std::unique_ptr<Graph> made = queue_of(stream).end();
  *graph = made.release();
  if (*graph != nullptr) return Status::ok;
  return failed(901, "cudaErrorStreamCaptureInvalidated", "operation failed due to a previous error during capture",
                "ending a capture", 0, "");
}

Status launch_graph(int, void* graph, void* stream) {
  FAKE_ENTER();
  for (const auto& work : *static_cast<Graph*>(graph)) queue_of(stream).add(work);
  return Status::ok;
}

Status destroy_graph(int, void* graph) {
  delete static_cast<Graph*>(graph);  // launches have copies
  return Status::ok;
}

Status reserve(const Problem& problem) {
  FAKE_ENTER();
  return make_room(problem);
}

Status evaluate_async(const Problem& problem, EvaluateCompletion done) {
  FAKE_ENTER();
  if (queue_of(problem.stream).captured() && problem.scalars.kind == Location::host)
    return unsupported("capturing a call whose results the host reads (leave them on the device)");
  const Status room = make_room(problem);
  if (room != Status::ok) return room;
  const char* const lose = std::getenv("SDPO_FAKE_LOSE");
  const auto lists = std::make_shared<HostLists>(problem.columns, problem.rows);
  queue_of(problem.stream).add([=] {
    {
      std::lock_guard<std::mutex> lock(the_device().mutex);
      if (lose != nullptr && ++the_device().evaluations == std::atoi(lose)) {
        the_device().lost = true;
        the_device().cause = {700,
                              "cudaErrorIllegalAddress",
                              "an illegal memory access was encountered",
                              "running a kernel",
                              "the fake",
                              0,
                              true};
      }
    }
    Failure failure;
    if (usable() != Status::ok) return done(Status::device, failure, &t_last);
    if (problem.scalars.kind != Location::host) {
      Problem sent = problem;
      sent.columns = lists->columns;
      evaluate_batch(sent);
      return done(Status::ok, failure, nullptr);
    }
    const Status status = cpu_backend().evaluate(on_host(problem), &failure);
    done(status, failure, nullptr);
  });
  return Status::ok;
}

Status evaluate(const Problem& problem, Failure* failure) {
  Status ended = Status::ok;
  DeviceError error;
  // With scalars on the device nobody waits, so there is nobody to tell.
  const EvaluateCompletion nobody = [](Status, const Failure&, const DeviceError*) {};
  const EvaluateCompletion tell = [&](Status s, const Failure& f, const DeviceError* e) {
    ended = s;
    *failure = f;
    if (e != nullptr) error = *e;
  };
  const Status status = evaluate_async(problem, problem.scalars.kind == Location::host ? tell : nobody);
  if (status != Status::ok) return status;
  if (problem.scalars.kind != Location::host) return Status::ok;
  wait(queue_of(problem.stream));
  t_last = error;
  return ended;
}

Status combine(const CombineProblem& problem) {
  FAKE_ENTER();
  CombineProblem copied = problem;
  copied.location = Location();
  const std::vector<double> a(problem.a, problem.a + problem.rows), b(problem.b, problem.b + problem.rows);
  queue_of(problem.stream).add([=]() mutable {
    copied.a = a.data();
    copied.b = b.data();
    cpu_backend().combine(copied);
  });
  return Status::ok;
}

Status noise(const NoiseProblem& problem) {
  FAKE_ENTER();
  NoiseProblem copied = problem;
  copied.location = Location();
  queue_of(problem.stream).add([=] { cpu_backend().noise(copied); });
  return Status::ok;
}

int runtime_version() { return 13000; }
int driver_version() { return 13000; }
int device_count(std::string*) { return 1; }

// What is in use and what was done, where a device tells what it has: the tests look for leaks, and for calls that wait
// or allocate.
DeviceInfo device_info(int device, bool) {
  if (device != 0) throw std::runtime_error("no such device");
  std::lock_guard<std::mutex> lock(the_device().mutex);
  DeviceInfo info;
  info.name =
      std::to_string(the_device().waits) + " waits, " + std::to_string(the_device().allocations) + " allocations";
  info.computeMajor = 9;
  info.totalMemory = static_cast<int64_t>(the_device().bytes);
  info.multiProcessors = static_cast<int>(the_device().streams.size());
  return info;
}

}  // namespace sdpo::cuda

namespace sdpo {

const Backend& cuda_backend() {
  static const DeviceBackend device = {
      cuda::device_count,   cuda::device_info,   cuda::runtime_version, cuda::driver_version,    cuda::last_error,
      cuda::allocate,       cuda::release,       cuda::allocate_pinned, cuda::release_pinned,    cuda::copy,
      cuda::fill_zero,      cuda::create_stream, cuda::destroy_stream,  cuda::release_workspace, cuda::synchronize,
      cuda::wait_stream,    cuda::begin_capture, cuda::end_capture,     cuda::launch_graph,      cuda::destroy_graph,
      cuda::evaluate_async,
  };
  static const Backend backend = {"cuda", cuda::evaluate, cuda::combine, cuda::noise, cuda::reserve, &device};
  return backend;
}

}  // namespace sdpo
