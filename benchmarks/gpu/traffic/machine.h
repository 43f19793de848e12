// What a device does with the reads and writes of a block, and how long the steps between them take.
#pragma once

#include <vector>

#include "../../../native/cuda/arguments.h"
#include "cache.h"
#include "devices.h"

namespace sdpo::traffic {

// Steps of a block that are no traffic, in cycles. Counted in the code of sm_90 (instructions of the longest chain
// times their latency: a shuffle 24, shared memory 29, float32 arithmetic 4), or assumed where it says so.
namespace cost {
constexpr double kBarrier = 30;       // __syncthreads of a few warps
constexpr double kDecode = 150;       // from a ticket to a row and a tile: divisions of 64-bit numbers
constexpr double kWarpTotals = 200;   // six sums over a warp: five shuffles and additions each
constexpr double kBlockTotals = 100;  // the sums of the warps from shared memory, and their addition
constexpr double kFences =
    2;  // round trips to L2 before a tile's arrival is seen: the fence and that of the release (assumed: one each)
constexpr double kRowTotals = 350;  // the sums of a row over a block, in float64
// One thread runs the objective: 350 float64 operations and 13 divisions on the path of SDPO (counted by executing the
// PTX), of which about 250 depend on each other, and as many cycles again for addresses, comparisons and stores. Its
// instructions are taken to be in the cache.
constexpr double kObjectiveDoubles = 250;
constexpr double kObjectiveRest = 1000;
constexpr double kSleep = 64e-9 / 2;     // seconds: half a nanosleep of a block that waits for a row
constexpr double kRemoteShared = 180;    // a word in another block's shared memory
constexpr double kClusterBarrier = 200;  // assumed: like a word in another block's shared memory
// Seconds from one call on a stream to the next: 1.3 us for the smallest kernel in a graph on Hopper (RRZE
// gpu-small-kernels), less its own load and store.
constexpr double kLaunch = 0.8e-6;
constexpr double kClusterStart =
    0.5e-6;  // seconds from the end of a cluster to the start of the next on its multiprocessors (assumed)
constexpr double kPortBytes = 64;  // bytes per cycle between a multiprocessor and L2
constexpr double kSchedulers = 4;  // of a multiprocessor: a warp's instruction each cycle
}  // namespace cost

// Instructions of a thread for a pack of both branches, in the loops of sm_90 (test/build/cuda-host/sass.json).
struct Instructions {
  double moments, gradient, keep, kept_gradient;
};
constexpr Instructions instructions_of(DType type) {
  return type == DType::float32 ? Instructions{138, 67, 180, 64} : Instructions{266, 123, 311, 92};
}

struct Call {
  int64_t rows, size;
  DType dtype;

  int64_t bytes() const { return size * static_cast<int64_t>(dtype_size(dtype)); }  // of a row of one tensor
  int pack() const { return cuda::pack_elements(dtype); }
};

// Policy, reference, target and gradient of both branches.
enum Tensor : int {
  policy_c,
  reference_c,
  target_c,
  gradient_c,
  policy_r,
  reference_r,
  target_r,
  gradient_r,
  tensor_count
};

struct Traffic {
  double seconds = 0;
  double read = 0, written = 0;               // bytes of device memory
  int64_t second_reads = 0, second_hits = 0;  // lines
  double memory = 0, l2 = 0, issue = 0;       // seconds that the memory, L2 and the busiest multiprocessor work
};

// One call on a device whose L2 stays what the call before made of it.
class Machine {
 public:
  // `unlimited`: nothing waits for bandwidth or an issue slot, so that a call takes as long as its dependent steps.
  Machine(const Device& device, const Call& call, L2& l2, bool unlimited)
      : device_(device),
        call_(call),
        l2_(l2),
        unlimited_(unlimited),
        ports_(static_cast<size_t>(device.multiprocessors)),
        issue_(ports_.size()) {}

  const Device& device() const { return device_; }
  double cycles(double n) const { return n / device_.clock; }
  double l2_latency() const { return cycles(device_.l2_latency); }
  double row_end() const {
    return cycles(cost::kRowTotals + 3 * cost::kBarrier + cost::kObjectiveDoubles * device_.double_latency +
                  cost::kObjectiveRest) +
           l2_latency();
  }

  // An addition to the counter of tickets: one a cycle at an address (NVIDIA, Kepler GK110 architecture paper). When
  // its result is there.
  double draw(double now) { return counter_.serve(now, limit(cycles(1))) + l2_latency(); }

  // Issues `instructions` of each of `warps` warps. When they are through.
  double work(int multiprocessor, double now, double instructions, int warps) {
    return at(issue_, multiprocessor).serve(now, limit(cycles(instructions * warps / cost::kSchedulers)));
  }

  // Reads `elements` elements of a row from `element` on, of each of the tensors. When the last is there.
  template <size_t N>
  double read(int multiprocessor, double now, const Tensor (&tensors)[N], int64_t row, int64_t element,
              int64_t elements, bool second) {
    int64_t lines = 0, misses = 0, written_back = 0;
    for (const Tensor tensor : tensors) {
      const bool again = tensor != reference_c && tensor != reference_r;
      const Keep keep = !second && again && keeps_ ? Keep::evict_last : Keep::evict_first;
      each_line(tensor, row, element, elements, [&](int64_t line) {
        const L2::Access a = l2_.touch(line, keep, false);
        ++lines;
        misses += !a.hit;
        written_back += a.written_back;
      });
    }
    if (second) {
      out_.second_reads += lines;
      out_.second_hits += lines - misses;
    }
    out_.read += static_cast<double>(misses * kLine);
    double done = transfer(multiprocessor, now, lines) + l2_latency();
    const double from_memory = to_memory(now, misses, written_back);
    if (misses > 0) done = std::max(done, from_memory + cycles(device_.memory_latency));
    return done;
  }

  // Writes as many. Nobody waits for it.
  template <size_t N>
  void write(int multiprocessor, double now, const Tensor (&tensors)[N], int64_t row, int64_t element,
             int64_t elements) {
    int64_t lines = 0, written_back = 0;
    for (const Tensor tensor : tensors) {
      each_line(tensor, row, element, elements, [&](int64_t line) {
        ++lines;
        written_back += l2_.touch(line, Keep::evict_first, true).written_back;  // whole lines: nothing is read for it
      });
    }
    transfer(multiprocessor, now, lines);
    to_memory(now, 0, written_back);
  }

  // The first reads ask for nothing to be kept where there is no second.
  void keep_nothing() { keeps_ = false; }

  Traffic finish(double last) {
    out_.seconds = last;
    out_.memory = memory_.busy();
    out_.l2 = l2_queue_.busy();
    for (size_t m = 0; m < issue_.size(); ++m) out_.issue = std::max({out_.issue, issue_[m].busy(), ports_[m].busy()});
    return out_;
  }

 private:
  static Queue& at(std::vector<Queue>& queues, int index) { return queues[static_cast<size_t>(index)]; }
  double limit(double seconds) const { return unlimited_ ? 0 : seconds; }

  template <class Each>
  void each_line(Tensor tensor, int64_t row, int64_t element, int64_t elements, const Each& each) const {
    const int64_t element_bytes = static_cast<int64_t>(dtype_size(call_.dtype));
    const int64_t end = std::min(element + elements, call_.size);
    if (element >= end) return;
    const int64_t apart =
        (call_.rows * call_.bytes() / kLine + (2 << 20) / kLine) / 512 * 512;  // tensors begin at multiples of 64 KiB
    const int64_t begin = row * call_.bytes();
    const int64_t first = (begin + element * element_bytes) / kLine, last = (begin + end * element_bytes - 1) / kLine;
    for (int64_t line = first; line <= last; ++line) each(tensor * apart + line);
  }

  double transfer(int multiprocessor, double now, int64_t lines) {
    const double bytes = static_cast<double>(lines * kLine);
    const double shared = l2_queue_.serve(now, limit(bytes / device_.l2_bandwidth));
    return std::max(shared, at(ports_, multiprocessor).serve(now, limit(cycles(bytes / cost::kPortBytes))));
  }

  double to_memory(double now, int64_t misses, int64_t written_back) {
    out_.written += static_cast<double>(written_back * kLine);
    return memory_.serve(now, limit(static_cast<double>((misses + written_back) * kLine) / device_.copy));
  }

  const Device& device_;
  const Call call_;
  L2& l2_;
  const bool unlimited_;
  bool keeps_ = true;
  Queue memory_, l2_queue_, counter_;
  std::vector<Queue> ports_, issue_;
  Traffic out_;
};

}  // namespace sdpo::traffic
