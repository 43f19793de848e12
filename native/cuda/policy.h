// The launch parameters of the CUDA kernels as constants with their reasons, in plain C++ so that a host test can check
// every architecture.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"

namespace sdpo::cuda {

// ---- What the kernels run on

// Limits from the CUDA programming guide (compute capabilities); multiprocessors, L2 and bandwidth of the fastest
// product of the architecture, since that one needs the most bytes in flight. Latency is that of a load from device
// memory under load.
struct Architecture {
  int capability;  // 10 * major + minor
  int threads_per_multiprocessor;
  int blocks_per_multiprocessor;
  int registers_per_multiprocessor;
  int shared_per_multiprocessor;  // bytes
  int shared_per_block;           // bytes, with the opt-in that more than 48 KiB needs
  int multiprocessors;
  double bandwidth;  // bytes per second
  double latency;    // seconds
  int64_t l2;        // bytes
};

constexpr Architecture kArchitectures[] = {
    {75, 1024, 16, 65536, 64 << 10, 64 << 10, 72, 672e9, 600e-9, 6 << 20},         // TITAN RTX
    {80, 2048, 32, 65536, 164 << 10, 163 << 10, 108, 2039e9, 600e-9, 40 << 20},    // A100 80 GB
    {86, 1536, 16, 65536, 100 << 10, 99 << 10, 84, 1008e9, 600e-9, 6 << 20},       // RTX 3090 Ti
    {89, 1536, 24, 65536, 100 << 10, 99 << 10, 128, 1008e9, 700e-9, 72 << 20},     // RTX 4090
    {90, 2048, 32, 65536, 228 << 10, 227 << 10, 132, 4800e9, 700e-9, 50 << 20},    // H200
    {100, 2048, 32, 65536, 228 << 10, 227 << 10, 148, 8000e9, 800e-9, 126 << 20},  // B200
    {120, 1536, 24, 65536, 100 << 10, 99 << 10, 170, 1792e9, 800e-9, 96 << 20},    // RTX 5090
};

// ---- Loads

// The widest access of a thread. Fewer, wider requests leave the load-store unit free; a row whose address does not
// allow it is read element by element.
constexpr int kAccessBytes = 16;

// Elements of a pack: what a thread reads of one tensor at a time. Packs are cut by element index, never by address, so
// the sums of a row have one order whatever its alignment.
constexpr int pack_elements(DType type) { return kAccessBytes / static_cast<int>(dtype_size(type)); }

// A mixture of dtypes is cut as its compute type is: 4 elements in float32, 2 in float64.

// ---- The fused kernel

// 128 threads: four warps wait at a barrier together, not more, and the tiles of a small row (65,536 elements in
// bfloat16) still spread over 64 multiprocessors.
constexpr int kThreads = 128;

// The kernels of one operation. Plain: one dtype, both references, no element weights, no cross moment (nearly every
// training batch). General: one dtype, anything else. Mixed: every tensor with a dtype of its own.
enum class Variant { plain, general, mixed };

// Blocks that must fit on a multiprocessor; with kThreads it caps the registers of a thread at 96, 128 and 168. Below
// that the compiler would spill: the double-precision objective, which one thread of a block runs for each row, wants
// 80 registers of its own. A thread has six 16-byte loads in flight (three tensors of two branches), so a
// multiprocessor has 5 * 128 * 96 bytes = 60 KiB (48 KiB in the general kernel): above what Little's law asks of every
// architecture in the table (43 KiB on sm_100, 25 KiB on an H200), so that blocks at a barrier are not missed. Mixtures
// have 36 KiB; a caller in a hurry converts his tensors.
constexpr int min_blocks(Variant variant) {
  return variant == Variant::plain ? 5 : variant == Variant::general ? 4 : 3;
}

constexpr int kTensorsInFlight = 6;
constexpr int bytes_in_flight(int blocks) { return blocks * kThreads * kTensorsInFlight * kAccessBytes; }

// Packs per thread in one tile. A tile ends with a reduction, a fence and an atomic (about 1.5 microseconds of one
// block); longer tiles pay that less often, shorter ones let a row's gradient start sooner, while its inputs are in L2.
// Depends on D and the pack alone, so that the bits of a row do not depend on the batch it comes in or on the GPU.
constexpr int kMaxPacksPerThread = 4;
constexpr int64_t kLongRowTiles = 256;  // a row is cut into longer tiles only when at least so many remain

constexpr int packs_per_thread(int64_t size, int pack) {
  int packs = 1;
  while (packs < kMaxPacksPerThread &&
         size / (2 * packs * static_cast<int64_t>(pack) * kThreads) >= kLongRowTiles * packs)
    packs *= 2;
  return packs;
}

struct Tiling {
  int packs;         // per thread
  int64_t elements;  // of a tile
  int64_t count;     // tiles of a row, at least 1: an empty row still has an objective
};

constexpr Tiling tiling(int64_t size, int pack) {
  const int packs = packs_per_thread(size, pack);
  const int64_t elements = static_cast<int64_t>(kThreads) * pack * packs;
  return {packs, elements, size > elements ? (size + elements - 1) / elements : 1};
}

// The most blocks of a grid in x.
constexpr int64_t kMostGridBlocks = 2147483647;

// Persistent blocks: as many as run at once, each drawing tickets, and never more than there are tickets.
constexpr int64_t grid_blocks(int64_t resident, int64_t tickets) { return tickets < resident ? tickets : resident; }

// How many tiles of the next row's moments go before the first gradient of a row, beyond the row itself (order.h).
// Between the last moments tile of a row and its first gradient tile then lie 2 * lead tickets. One for each block
// (blocks / 2) is about the time that the row's last tile takes, but not the time of its sums, objective and flag: with
// up to four (2 * blocks) nobody waits for those either, as long as what waits for its second read, `tile_bytes` of
// every tile of a row and of the lead, takes no more than half of L2. By the model of the traffic
// (benchmarks/gpu/traffic.cc --sweep lead) that takes a quarter off 16 rows of CogVideoX in bfloat16 on an H200. Where
// a row leaves no room, waiting costs less than reading again: blocks / 8. Where the size of L2 is not known (0):
// blocks / 2.
constexpr int64_t lead_tiles(int64_t blocks, int64_t tiles_per_row, int64_t tile_bytes, int64_t l2) {
  if (l2 <= 0 || tile_bytes <= 0) return blocks / 2;
  const int64_t least = blocks / 8, most = 2 * blocks, room = l2 / 2 / tile_bytes - tiles_per_row;
  return room < least ? least : room > most ? most : room;
}

// Partial sums are kept in a ring: every block may hold two tickets (the one it works on and the next), and a row is
// not reduced before its last tile arrives. So a full turn is never waited for in practice, and the workspace does not
// grow with the number of rows.
constexpr int64_t ring_tiles(int64_t tiles_per_row, int64_t blocks, int64_t total) {
  const int64_t wanted = 2 * tiles_per_row + 2 * blocks;
  return wanted < total ? wanted : total;
}

// ---- The cluster kernel, where a row's d = u_theta - u waits in the shared memory of a cluster of blocks (sm_90 and
// later): every tensor is read once.

constexpr int kClusterCapability = 90;
constexpr int kLargestCluster = 8;  // what every device with clusters runs

// A block works on up to four tiles at a time, each by kThreads threads as in the other kernel, so that the sums are
// cut alike. 512 threads with six 16-byte loads have 48 KiB in flight, what a multiprocessor needs alone; and they may
// have 128 registers, more than the objective wants.
constexpr int kClusterGroups = 4;

// Shared memory that the kernel declares itself (a few hundred bytes), and what is left of a block's.
constexpr int64_t kClusterStaticShared = 1024;

// How a row is spread over a cluster: its tile t belongs to block t % blocks.
struct ClusterPlan {
  int blocks;      // of a cluster; 0: the row does not fit
  int groups;      // of kThreads threads in a block
  int tiles;       // of the first block; others have as many, or one less
  int slots;       // packs of each branch that a thread keeps
  int kept_bytes;  // dynamic shared memory: first d, then the sums of the row's tiles (used in the first block), then
                   // those of the block's warps
  int tile_sums_bytes;
  int shared_bytes;  // all of it
};

// As many blocks as the row has tiles, up to a whole cluster: the more multiprocessors read, the sooner a single row is
// there.
constexpr ClusterPlan cluster_plan(int64_t size, int pack, int compute_bytes, int sums, int64_t shared_per_block) {
  constexpr int64_t kTooMany = 1 << 16;  // tiles; keeps the products below small
  const Tiling t = tiling(size, pack);
  ClusterPlan plan{};
  if (t.count > kTooMany) return plan;
  int blocks = 1;
  while (2 * blocks <= kLargestCluster && 2 * blocks <= t.count) blocks *= 2;
  const int64_t tiles = (t.count + blocks - 1) / blocks;
  const int64_t groups = tiles < kClusterGroups ? tiles : kClusterGroups;
  const int64_t slots = (tiles + groups - 1) / groups * t.packs;
  const int64_t kept = 2 * slots * pack * compute_bytes * groups * kThreads;
  const int64_t tile_sums = t.count * sums * static_cast<int64_t>(sizeof(double));
  const int64_t shared = kept + tile_sums + tiles * (kThreads / 32) * sums * compute_bytes;
  if (shared > shared_per_block - kClusterStaticShared) return plan;
  plan.blocks = blocks;
  plan.groups = static_cast<int>(groups);
  plan.tiles = static_cast<int>(tiles);
  plan.slots = static_cast<int>(slots);
  plan.kept_bytes = static_cast<int>(kept);
  plan.tile_sums_bytes = static_cast<int>(tile_sums);
  plan.shared_bytes = static_cast<int>(shared);
  return plan;
}

// Clusters for as many rows as run at once, by what the driver says of this cluster on this device (16 rows of SDXL on
// an H200 and on a B200, whose processing clusters have room for two each; 32 of SD1.5). There a call takes as long as
// its chain of dependent steps, and the chain of the cluster is the shorter one: loads, two hardware barriers around
// the objective, stores; the other draws tickets, passes sums and the flag through L2, and loads again. With more rows
// the last clusters run after the others, and tickets keep reading while some wait or store. By the model of the
// traffic (benchmarks/gpu/traffic.cc --sweep switch) tickets take 1.0 to 1.6 times as long up to there (0.9 for one row
// of SDXL in float32) and 0.8 to 0.9 times just beyond; benchmarks/gpu/run.sh times both.
constexpr bool prefer_clusters(const ClusterPlan& plan, int64_t rows, int64_t at_once) {
  return plan.blocks > 0 && rows <= at_once;
}

// ---- Elementwise kernels (combine, noise): no reductions, so only bytes in flight matter.
constexpr int kElementwiseThreads = 256;
constexpr int kElementwiseMinBlocks = 4;

// ---- Occupancy, as the hardware counts it: registers are given to warps in units of 256.
constexpr int resident_blocks(const Architecture& a, int threads, int registers, int shared) {
  const int warps = threads / 32;
  const int per_warp = (registers * 32 + 255) / 256 * 256;
  int blocks = a.blocks_per_multiprocessor;
  const auto limit = [&](int n) { blocks = n < blocks ? n : blocks; };
  limit(a.threads_per_multiprocessor / threads);
  limit(a.registers_per_multiprocessor / (per_warp * warps));
  if (shared > 0) limit(a.shared_per_multiprocessor / (shared + 1024));  // the system keeps 1 KiB of each block
  return blocks;
}

// The most registers the launch bounds let the compiler use.
constexpr int register_cap(Variant variant) { return 65536 / (kThreads * min_blocks(variant)) / 8 * 8; }

}  // namespace sdpo::cuda
