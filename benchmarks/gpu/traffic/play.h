// Plays a call of either design, event by event: which block draws which ticket and when, what it reads, and for whom
// it waits.
//
// Deterministic: events of one time are taken in the order in which they were made.
#pragma once

#include <queue>

#include "../../../native/cuda/order.h"
#include "../../../native/cuda/reduce.cuh"
#include "machine.h"

namespace sdpo::traffic {

// What the launcher decides, for a sweep to change.
struct Choice {
  int packs = 0;       // per thread; 0: policy.h's
  int64_t ahead = -1;  // moments tiles before a row's first gradient, beyond the row; -1: policy.h's
  int blocks = 0;      // per multiprocessor; 0: what runs at once
  double fences = cost::kFences;
};

constexpr int kStaticShared = static_cast<int>(sizeof(cuda::BlockSums)) + 16;
constexpr int kClusterRegisters = 104;  // test/build/cuda-host/budget.json

struct Event {
  double time;
  uint64_t order;
  int actor;
  bool operator>(const Event& other) const { return time != other.time ? time > other.time : order > other.order; }
};

class Events {
 public:
  void at(double time, int actor) { queue_.push({time, order_++, actor}); }
  bool empty() const { return queue_.empty(); }
  Event next() {
    const Event event = queue_.top();
    queue_.pop();
    return event;
  }

 private:
  uint64_t order_ = 0;
  std::priority_queue<Event, std::vector<Event>, std::greater<Event>> queue_;
};

// ---- Tickets

class Tickets {
 public:
  Tickets(Machine& machine, const Call& call, const Choice& choice) : machine_(machine), call_(call), choice_(choice) {
    using namespace cuda;
    const Tiling tiles = tiling(call.size, call.pack());
    packs_ = choice.packs > 0 ? choice.packs : tiles.packs;
    tile_elements_ = int64_t{kThreads} * call.pack() * packs_;
    tiles_ = std::max<int64_t>(1, (call.size + tile_elements_ - 1) / tile_elements_);
    const Device& device = machine.device();
    const int per = choice.blocks > 0 ? choice.blocks
                                      : resident_blocks(architecture_of(device), kThreads, register_cap(Variant::plain),
                                                        kStaticShared);
    const int64_t resident = int64_t{per} * device.multiprocessors,
                  element_bytes = static_cast<int64_t>(dtype_size(call.dtype));
    order_ = make_order(
        call.rows, tiles_, tiles_,
        choice.ahead >= 0 ? choice.ahead : lead_tiles(resident, tiles_, 4 * tile_elements_ * element_bytes, device.l2));
    blocks_.resize(static_cast<size_t>(grid_blocks(resident, order_.tickets())));
    rows_.resize(static_cast<size_t>(call.rows));
  }

  Traffic play() {
    for (size_t b = 0; b < blocks_.size(); ++b) {  // the hardware spreads blocks over the multiprocessors
      blocks_[b].multiprocessor = static_cast<int>(b % static_cast<size_t>(machine_.device().multiprocessors));
      blocks_[b].next = counter_++;
      events_.at(machine_.draw(cost::kLaunch), static_cast<int>(b));
    }
    while (!events_.empty()) {
      const Event event = events_.next();
      advance(event.actor, event.time);
    }
    return machine_.finish(last_ + 2 * machine_.l2_latency());  // the last block to leave resets the counters
  }

 private:
  enum class Stage { draw, read_moments, moments, arrive, wait, read_gradient, gradient, written };

  struct Block {
    int multiprocessor = 0;
    Stage stage = Stage::draw;
    int64_t next = 0;  // ticket
    double next_at = 0;
    cuda::Step step{};
    int pack = 0;
  };
  struct Row {
    int64_t arrived = 0;
    double ready = -1;
    std::vector<int> waiting;
  };

  void go(int actor, double time, Stage stage) {
    blocks_[static_cast<size_t>(actor)].stage = stage;
    events_.at(time, actor);
  }

  void advance(int actor, double now) {
    Block& b = blocks_[static_cast<size_t>(actor)];
    switch (b.stage) {
      case Stage::draw:
        return begin(actor, b, now);
      case Stage::read_moments:
        return go(
            actor,
            machine_.read(b.multiprocessor, now, {policy_c, target_c, reference_c, policy_r, target_r, reference_r},
                          b.step.row, element(b), pack_elements(), false),
            Stage::moments);
      case Stage::moments:
        return moments(actor, b, now);
      case Stage::arrive:
        return arrive(actor, b, now);
      case Stage::wait:
        return wait(actor, b, now);
      case Stage::read_gradient:
        return go(actor,
                  machine_.read(b.multiprocessor, now, {policy_c, target_c, policy_r, target_r}, b.step.row, element(b),
                                pack_elements(), true),
                  Stage::gradient);
      case Stage::gradient:
        return go(actor, machine_.work(b.multiprocessor, now, instructions_of(call_.dtype).gradient, cuda::kWarps),
                  Stage::written);
      case Stage::written:
        return written(actor, b, now);
    }
  }

  void begin(int actor, Block& b, double now) {
    if (b.next >= order_.tickets()) {
      last_ = std::max(last_, now);
      return;
    }
    b.step = order_.at(b.next);
    b.pack = 0;
    b.next = counter_++;
    b.next_at = machine_.draw(now);
    go(actor, now + machine_.cycles(cost::kBarrier + cost::kDecode),
       b.step.gradient ? Stage::wait : Stage::read_moments);
  }

  void leave(int actor, const Block& b, double now) {
    go(actor, std::max(now, b.next_at) + machine_.cycles(cost::kBarrier), Stage::draw);
  }

  int64_t pack_elements() const { return int64_t{cuda::kThreads} * call_.pack(); }
  int64_t element(const Block& b) const { return b.step.tile * tile_elements_ + b.pack * pack_elements(); }
  bool last_pack(const Block& b) const { return b.pack == packs_ || element(b) >= call_.size; }

  void moments(int actor, Block& b, double now) {
    const double done = machine_.work(b.multiprocessor, now, instructions_of(call_.dtype).moments, cuda::kWarps);
    ++b.pack;
    if (!last_pack(b)) return go(actor, done, Stage::read_moments);
    const double sums = machine_.cycles(cost::kWarpTotals + cost::kBarrier + cost::kBlockTotals);
    go(actor, done + sums + choice_.fences * machine_.l2_latency(), Stage::arrive);
  }

  void arrive(int actor, Block& b, double now) {
    Row& row = rows_[static_cast<size_t>(b.step.row)];
    const double told = now + machine_.l2_latency() + machine_.cycles(cost::kBarrier);
    if (++row.arrived < order_.moment_tiles) return leave(actor, b, told);
    // Each thread adds up every 128th tile, one after the other; then the objective; then the flag goes out to L2.
    const double tiles = static_cast<double>((tiles_ + cuda::kThreads - 1) / cuda::kThreads);
    row.ready = told + tiles * machine_.l2_latency() + machine_.row_end() + machine_.l2_latency();
    for (const int other : row.waiting) events_.at(row.ready + cost::kSleep, other);
    leave(actor, b, row.ready + machine_.l2_latency());
  }

  void wait(int actor, Block& b, double now) {
    Row& row = rows_[static_cast<size_t>(b.step.row)];
    if (row.ready < 0) {
      row.waiting.push_back(actor);
      return;
    }
    // The flag, then the coefficients.
    go(actor, std::max(now, row.ready) + 2 * machine_.l2_latency() + machine_.cycles(cost::kBarrier),
       Stage::read_gradient);
  }

  void written(int actor, Block& b, double now) {
    machine_.write(b.multiprocessor, now, {gradient_c, gradient_r}, b.step.row, element(b), pack_elements());
    ++b.pack;
    if (!last_pack(b)) return go(actor, now, Stage::read_gradient);
    leave(actor, b, now);
  }

  Machine& machine_;
  const Call call_;
  const Choice choice_;
  cuda::TileOrder order_;
  int packs_ = 0;
  int64_t tile_elements_ = 0, tiles_ = 0, counter_ = 0;
  std::vector<Block> blocks_;
  std::vector<Row> rows_;
  Events events_;
  double last_ = 0;
};

// ---- Clusters

// How many clusters run at once.
inline int64_t clusters_at_once(const Device& device, const cuda::ClusterPlan& plan) {
  const int per = cuda::resident_blocks(architecture_of(device), plan.groups * cuda::kThreads, kClusterRegisters,
                                        plan.shared_bytes + static_cast<int>(cuda::kClusterStaticShared));
  const int64_t slots =
      plan.blocks == cuda::kLargestCluster ? device.clusters_per_slot : device.multiprocessors / plan.blocks;
  return slots * per;
}

class Clusters {
 public:
  Clusters(Machine& machine, const Call& call, const cuda::ClusterPlan& plan)
      : machine_(machine), call_(call), plan_(plan) {
    const cuda::Tiling tiles = cuda::tiling(call.size, call.pack());
    packs_ = tiles.packs;
    tile_elements_ = tiles.elements;
    tiles_ = tiles.count;
    slots_ = std::max<int64_t>(1, clusters_at_once(machine.device(), plan));
    machine.keep_nothing();
  }

  Traffic play() {
    const int64_t at_once = std::min(slots_, call_.rows);
    groups_.resize(static_cast<size_t>(at_once * plan_.blocks * plan_.groups));
    clusters_.resize(static_cast<size_t>(at_once));
    for (int64_t c = 0; c < at_once; ++c) start(c, cost::kLaunch);
    while (!events_.empty()) {
      const Event event = events_.next();
      advance(event.actor, event.time);
    }
    return machine_.finish(last_ + machine_.l2_latency());
  }

 private:
  struct Group {
    int64_t tile = 0;  // of the row
    int pack = 0;
    bool loaded = false;  // or computed, in the gradient
  };
  struct Cluster {
    int64_t row = 0;
    int64_t busy = 0;  // groups that have not come to the end of the phase
    bool gradient = false;
    double until = 0;
  };

  int64_t groups() const { return int64_t{plan_.blocks} * plan_.groups; }

  void start(int64_t c, double now) {
    if (next_row_ >= call_.rows) return;
    clusters_[static_cast<size_t>(c)].row = next_row_++;
    clusters_[static_cast<size_t>(c)].gradient = false;
    phase(c, now);
  }

  // Puts all groups of a cluster to their first tiles.
  void phase(int64_t c, double now) {
    Cluster& cluster = clusters_[static_cast<size_t>(c)];
    cluster.busy = groups();
    cluster.until = now;
    for (int64_t g = 0; g < groups(); ++g) {
      const int64_t rank = g / plan_.groups, group = g % plan_.groups;
      groups_[static_cast<size_t>(c * groups() + g)] = {rank + group * plan_.blocks, 0, false};
      events_.at(now, static_cast<int>(c * groups() + g));
    }
  }

  void advance(int actor, double now) {
    const int64_t c = actor / groups(), rank = actor % groups() / plan_.groups;
    Cluster& cluster = clusters_[static_cast<size_t>(c)];
    Group& g = groups_[static_cast<size_t>(actor)];
    const int64_t element = g.tile * tile_elements_ + g.pack * int64_t{cuda::kThreads} * call_.pack();
    if (g.tile >= tiles_) return done(c, now);
    const int multiprocessor = static_cast<int>((c * plan_.blocks + rank) % machine_.device().multiprocessors);
    const int64_t elements = int64_t{cuda::kThreads} * call_.pack();
    const Instructions instructions = instructions_of(call_.dtype);
    if (!g.loaded) {
      g.loaded = true;
      events_.at(cluster.gradient ? machine_.work(multiprocessor, now, instructions.kept_gradient, cuda::kWarps)
                                  : machine_.read(multiprocessor, now,
                                                  {policy_c, target_c, reference_c, policy_r, target_r, reference_r},
                                                  cluster.row, element, elements, false),
                 actor);
      return;
    }
    double end = now;
    if (cluster.gradient) {
      machine_.write(multiprocessor, now, {gradient_c, gradient_r}, cluster.row, element, elements);
    } else {
      end = machine_.work(multiprocessor, now, instructions.keep, cuda::kWarps);
    }
    g.loaded = false;
    if (++g.pack == packs_) {
      g.pack = 0;
      g.tile += int64_t{plan_.blocks} * plan_.groups;
      if (!cluster.gradient) end += machine_.cycles(cost::kWarpTotals);
    }
    events_.at(end, actor);
  }

  // A group is through its tiles; the last one takes the cluster on.
  void done(int64_t c, double now) {
    Cluster& cluster = clusters_[static_cast<size_t>(c)];
    cluster.until = std::max(cluster.until, now);
    if (--cluster.busy > 0) return;
    if (cluster.gradient) {
      last_ = std::max(last_, cluster.until);
      return start(c, cluster.until + cost::kClusterStart);
    }
    cluster.gradient = true;
    // Sums of tiles to the first block, the row, the coefficients to the others: two barriers of the cluster around it.
    const double sums = cost::kBarrier + cost::kBlockTotals + cost::kRemoteShared + cost::kClusterBarrier;
    phase(c, cluster.until + machine_.row_end() + machine_.cycles(sums + cost::kRemoteShared + cost::kClusterBarrier));
  }

  Machine& machine_;
  const Call call_;
  const cuda::ClusterPlan plan_;
  int packs_ = 0;
  int64_t tile_elements_ = 0, tiles_ = 0, slots_ = 0, next_row_ = 0;
  std::vector<Group> groups_;
  std::vector<Cluster> clusters_;
  Events events_;
  double last_ = 0;
};

// ---- A call

enum class Design { tickets, clusters };

inline cuda::ClusterPlan plan_of(const Device& device, const Call& call) {
  if (device.capability < cuda::kClusterCapability) return {};
  const int compute = call.dtype == DType::float64 ? 8 : 4;
  return cuda::cluster_plan(call.size, call.pack(), compute, cuda::kPlainSums,
                            architecture_of(device).shared_per_block);
}

inline Traffic play(const Device& device, const Call& call, Design design, L2& l2, const Choice& choice = {},
                    bool unlimited = false) {
  Machine machine(device, call, l2, unlimited);
  return design == Design::tickets ? Tickets(machine, call, choice).play()
                                   : Clusters(machine, call, plan_of(device, call)).play();
}

}  // namespace sdpo::traffic
