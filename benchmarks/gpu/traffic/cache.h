// A set-associative L2 with the cache hints of the kernels, and the queues of a device: what the model of the traffic
// plays against.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <vector>

namespace sdpo::traffic {

constexpr int64_t kLine = 128;  // bytes

// What a hint makes of a line: among the lines of a set those of the lowest class leave first, and of these the least
// recently used.
enum class Keep : uint8_t { evict_first, normal, evict_last };

// How hints are taken. `honoured`: the last access decides, so that the second read of a tile gives it up. `sticky`:
// the access that brought the line in decides. `ignored`: plain least recently used.
enum class Hints { honoured, sticky, ignored };

class L2 {
 public:
  static constexpr int kWays = 16;

  struct Access {
    bool hit;
    bool written_back;  // a line that was written had to leave for it
  };

  explicit L2(int64_t bytes, Hints hints = Hints::honoured, int ways = kWays)
      : ways_(static_cast<size_t>(ways)),
        sets_(static_cast<size_t>(bytes / kLine / ways)),
        hints_(hints),
        lines_(sets_ * ways_) {}

  Access touch(int64_t line, Keep keep, bool write) {
    if (sets_ == 0) return {false, write};
    if (hints_ == Hints::ignored) keep = Keep::normal;
    Line* const set = &lines_[set_of(line) * ways_];
    Line* victim = set;
    for (Line* l = set; l != set + ways_; ++l) {
      if (l->tag == line) {
        l->used = ++clock_;
        l->dirty = l->dirty || write;
        if (hints_ == Hints::honoured) l->keep = keep;
        return {true, false};
      }
      if (before(*l, *victim)) victim = l;
    }
    const bool written_back = victim->tag >= 0 && victim->dirty;
    *victim = {line, ++clock_, keep, write};
    return {false, written_back};
  }

  // Lines that have yet to be written to device memory.
  int64_t dirty() const {
    return std::count_if(lines_.begin(), lines_.end(), [](const Line& l) { return l.tag >= 0 && l.dirty; });
  }

 private:
  struct Line {
    int64_t tag = -1;  // empty
    uint64_t used = 0;
    Keep keep = Keep::evict_first;
    bool dirty = false;
  };

  // Which of two lines leaves first. Empty ones have never been used.
  static bool before(const Line& a, const Line& b) {
    if ((a.tag < 0) != (b.tag < 0)) return a.tag < 0;
    return a.keep != b.keep ? a.keep < b.keep : a.used < b.used;
  }

  // Addresses are spread over the sets by a hash, as the devices do; the multiplier is that of Knuth's multiplicative
  // hashing.
  size_t set_of(int64_t line) const {
    if (sets_ == 1) return 0;
    uint64_t x = static_cast<uint64_t>(line) * 0x9e3779b97f4a7c15u;
    x = (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9u;
    return static_cast<size_t>((x >> 32) * sets_ >> 32);
  }

  const size_t ways_, sets_;
  const Hints hints_;
  uint64_t clock_ = 0;
  std::vector<Line> lines_;
};

// Something that serves one request after the other: a memory of some bandwidth, the issue slots of a multiprocessor.
class Queue {
 public:
  // When a request that comes at `now` and takes `seconds` is served.
  double serve(double now, double seconds) {
    free_ = std::max(free_, now) + seconds;
    busy_ += seconds;
    return free_;
  }
  double busy() const { return busy_; }

 private:
  double free_ = 0, busy_ = 0;
};

}  // namespace sdpo::traffic
