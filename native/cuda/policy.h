// The launch parameters of the CUDA kernels as constants with their reasons, in plain C++ so that a host test can check
// every architecture.
#pragma once

#include <cstdint>

#include "../core/dtypes.h"

namespace sdpo::cuda {

// ---- What the kernels run on

// Limits from the CUDA programming guide (compute capabilities); multiprocessors and bandwidth of the fastest
// product of the architecture, since that one needs the most bytes in flight. Latency is that of a load from device
// memory under load.
struct Architecture {
  int capability;  // 10 * major + minor
  int threads_per_multiprocessor;
  int blocks_per_multiprocessor;
  int registers_per_multiprocessor;
  int shared_per_multiprocessor;  // bytes
  int multiprocessors;
  double bandwidth;  // bytes per second
  double latency;    // seconds
};

constexpr Architecture kArchitectures[] = {
    {75, 1024, 16, 65536, 64 << 10, 72, 672e9, 600e-9},      // TITAN RTX
    {80, 2048, 32, 65536, 164 << 10, 108, 2039e9, 600e-9},   // A100 80 GB
    {86, 1536, 16, 65536, 100 << 10, 84, 1008e9, 600e-9},    // RTX 3090 Ti
    {89, 1536, 24, 65536, 100 << 10, 128, 1008e9, 700e-9},   // RTX 4090
    {90, 2048, 32, 65536, 228 << 10, 132, 4800e9, 700e-9},   // H200
    {100, 2048, 32, 65536, 228 << 10, 148, 8000e9, 800e-9},  // B200
    {120, 1536, 24, 65536, 100 << 10, 170, 1792e9, 800e-9},  // RTX 5090
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
// bfloat16) still spread over 32 multiprocessors. (Tiles of single warps were slower on an H200.)
constexpr int kThreads = 128;

// The kernels of one operation. Plain: one dtype, both references, no element weights, no cross moment (nearly every
// training batch). General: one dtype, anything else. Mixed: every tensor with a dtype of its own.
enum class Variant { plain, general, mixed };

// Blocks that must fit on a multiprocessor; with kThreads it caps the registers of a thread at 96, 128 and 168. Below
// that the compiler would spill: the double-precision objective, which one thread of a block runs for each row, wants
// 90 registers of its own. (Six blocks, with spills there, were no faster on an H200, and four no faster either.) A
// thread has six 16-byte loads in flight (three tensors of two branches), so a multiprocessor has 5 * 128 * 96 bytes =
// 60 KiB (48 KiB in the general kernel): above what Little's law asks of every architecture in the table (43 KiB on
// sm_100, 25 KiB on an H200), so that blocks at a barrier are not missed. Mixtures have 36 KiB; a caller in a hurry
// converts his tensors.
constexpr int min_blocks(Variant variant) {
  return variant == Variant::plain ? 5 : variant == Variant::general ? 4 : 3;
}

constexpr int kTensorsInFlight = 6;
constexpr int bytes_in_flight(int blocks) { return blocks * kThreads * kTensorsInFlight * kAccessBytes; }

// Packs per thread in one tile. A tile ends with a reduction, a fence, an atomic and another ticket (two to three
// microseconds of one block); longer tiles pay that less often, shorter ones spread a row over more blocks. On an H200
// two packs were slower than four for rows of video models, and eight not always faster. Depends on D and the pack
// alone, so that the bits of a row do not depend on the batch it comes in or on the GPU.
constexpr int kMaxPacksPerThread = 4;
constexpr int64_t kLongRowTiles = 32;  // a row is cut into longer tiles only when at least so many remain

constexpr int packs_per_thread(int64_t size, int pack) {
  int packs = 1;
  while (packs < kMaxPacksPerThread && size / (2 * packs * static_cast<int64_t>(pack) * kThreads) >= kLongRowTiles)
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

// Rows whose outputs a block reads at a time for the metrics of the batch: one latency for all of them, and 3 KiB of
// shared memory.
constexpr int kMetricRows = 16;

// The most blocks of a grid in x.
constexpr int64_t kMostGridBlocks = 2147483647;

// Persistent blocks: as many as run at once, each drawing tickets, and never more than there are tickets.
constexpr int64_t grid_blocks(int64_t resident, int64_t tickets) { return tickets < resident ? tickets : resident; }

// Partial sums are kept in a ring: every block may hold two tickets (the one it works on and the next), and a row is
// not reduced before its last tile arrives. So a full turn is never waited for in practice, and the workspace does not
// grow with the number of rows.
constexpr int64_t ring_tiles(int64_t tiles_per_row, int64_t blocks, int64_t total) {
  const int64_t wanted = 2 * tiles_per_row + 2 * blocks;
  return wanted < total ? wanted : total;
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
