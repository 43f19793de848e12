// Memory of the host for results, kept between calls: what comes back is handed out again for the next result of the
// same size, with its pages in place.
#pragma once

#include <cstddef>

namespace sdpo::cpu {

struct BlockUse {
  size_t out = 0;    // bytes handed out
  size_t idle = 0;   // bytes that wait for another result
  size_t bound = 0;  // the most that both together may be
};

// A block of at least `bytes`, aligned to a page, with whatever was written there before; null where the bound or the
// system leaves no room. The bound is a quarter of the machine's memory, or SDPO_RESULT_POOL mebibytes; 0 gives no
// block at all. Safe to call from any thread, as the others here.
void* take_block(size_t bytes);

// Takes back a block of take_block(bytes). It is kept for about a second; the kernel may have its pages earlier.
void give_block(void* block, size_t bytes) noexcept;

BlockUse block_use();

}  // namespace sdpo::cpu
