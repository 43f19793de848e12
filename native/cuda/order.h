// The order in which the fused kernel hands out tiles: from a ticket to a phase, a row and a tile, for host and device
// compilers.
//
// Every block draws tickets from one counter. The moments of all tiles form one sequence M(0), M(1), ..., the gradients
// another, G(0), G(1), ..., both in row order, and the two are merged so that a gradient tile comes `lead` moments
// tiles behind its own:
//
//   M(0) ... M(lead-1)   G(0) M(lead) G(1) M(lead+1) ...   ... G(last)
//
// With lead >= tiles per row every gradient tile comes after all moments of its row. Hence a block only ever waits for
// tickets smaller than its own, and the block that holds the smallest unfinished ticket never waits: the kernel makes
// progress however few of its blocks run at once, without a cooperative launch. And between the two reads of a tile lie
// the bytes of `lead` tiles, the same for every tile: one row and a little, which is what has to stay in L2.
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
  int64_t lead = 0;            // moments tiles before the first gradient tile

  SDPO_ORDER_HD int64_t tickets() const { return rows * (moment_tiles + gradient_tiles); }

  SDPO_ORDER_HD Step at(int64_t ticket) const {
    const int64_t merged = 2 * (rows * moment_tiles - lead);  // tickets of the alternating part
    const int64_t position = ticket - lead;
    if (position < 0) return step(false, ticket);
    if (position >= merged) return step(true, position - merged / 2);
    return position % 2 == 0 ? step(true, position / 2) : step(false, lead + position / 2);
  }

 private:
  SDPO_ORDER_HD Step step(bool gradient, int64_t index) const {
    const int64_t tiles = gradient ? gradient_tiles : moment_tiles;
    return {gradient, index / tiles, index % tiles, index};
  }
};

// `ahead`: how many moments tiles of later rows go before a row's first gradient tile (policy.h).
inline TileOrder make_order(int64_t rows, int64_t moment_tiles, int64_t gradient_tiles, int64_t ahead) {
  TileOrder order;
  order.rows = rows;
  order.moment_tiles = moment_tiles;
  order.gradient_tiles = gradient_tiles;
  const int64_t all = rows * moment_tiles;
  // Phases of different lengths (sums without elements, or one phase only) do not alternate: all of the first, then all
  // of the second.
  const int64_t wanted = moment_tiles == gradient_tiles ? moment_tiles + ahead : all;
  order.lead = wanted < all ? wanted : all;
  return order;
}

}  // namespace sdpo::cuda
