// The order in which the fused kernel hands out tiles: from a ticket to a phase, a row and a tile, for host and device
// compilers.
//
// Every block draws tickets from one counter: first the moments of all tiles, row by row, then the gradients. So a
// block only ever waits for tickets smaller than its own, and the block that holds the smallest unfinished ticket never
// waits: the kernel makes progress however few of its blocks run at once, without a cooperative launch.
//
// Another order, in which a row's gradient follows its moments as closely as its objective allows, reads again from L2
// and moves two thirds of the bytes. It is not faster: between the last of a row's moments and its first gradient lie
// some ten microseconds of news (sums, objective, coefficients), in which an H200 reads more than its L2 holds
// (docs/cuda.md).
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#define SDPO_ORDER_HD __host__ __device__
#else
#define SDPO_ORDER_HD
#endif

namespace sdpo::cuda {

struct Step {
  bool gradient;
  int64_t row, tile;
  int64_t index;  // position in the sequence of its phase: row * tiles per row + tile
};

struct TileOrder {
  int64_t rows = 0;
  int64_t moment_tiles = 0;    // per row; 0: the phase does not exist
  int64_t gradient_tiles = 0;  // per row; 0: the phase does not exist

  SDPO_ORDER_HD int64_t tickets() const { return rows * (moment_tiles + gradient_tiles); }

  SDPO_ORDER_HD Step at(int64_t ticket) const {
    const int64_t moments = rows * moment_tiles;
    return ticket < moments ? step(false, ticket) : step(true, ticket - moments);
  }

 private:
  SDPO_ORDER_HD Step step(bool gradient, int64_t index) const {
    const int64_t tiles = gradient ? gradient_tiles : moment_tiles;
    return {gradient, index / tiles, index % tiles, index};
  }
};

}  // namespace sdpo::cuda
