// The work on one tile where d = u_theta - u is kept between the phases: moments that store it, and the gradient that
// finds it there.
//
// The order of additions is that of tile.cuh, so both ways have the same bits. A thread finds again what it stored
// itself, so that d needs no barrier. The functions compile for the host too, where a test runs them thread by thread.
#pragma once

#include "tile.cuh"

namespace sdpo::cuda {

// 16 bytes of the compute type: one access to shared memory, of neighbours by neighbouring threads.
template <class S>
struct alignas(16) Chunk {
  static constexpr int kCount = 16 / static_cast<int>(sizeof(S));
  S v[kCount];
};

// The packs that the threads of a block keep, of both branches: `slots` of each per thread.
template <class E>
struct Kept {
  using S = typename E::Compute;
  static constexpr int kChunks = E::kPack / Chunk<S>::kCount;
  static_assert(kChunks * Chunk<S>::kCount == E::kPack, "a pack is whole chunks");

  Chunk<S>* memory;
  int threads, thread;

  SDPO_CUDA_HD Chunk<S>& chunk(int slot, int branch, int index) const {
    return memory[static_cast<int64_t>((2 * slot + branch) * kChunks + index) * threads + thread];
  }
  SDPO_CUDA_HD void put(int slot, int branch, const S (&d)[E::kPack]) const {
    SDPO_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      Chunk<S> out;
      SDPO_UNROLL
      for (int i = 0; i < Chunk<S>::kCount; ++i) out.v[i] = d[c * Chunk<S>::kCount + i];
      chunk(slot, branch, c) = out;
    }
  }
  SDPO_CUDA_HD void get(int slot, int branch, S (&d)[E::kPack]) const {
    SDPO_UNROLL
    for (int c = 0; c < kChunks; ++c) {
      const Chunk<S> in = chunk(slot, branch, c);
      SDPO_UNROLL
      for (int i = 0; i < Chunk<S>::kCount; ++i) d[c * Chunk<S>::kCount + i] = in.v[i];
    }
  }
  SDPO_CUDA_HD S& one(int slot, int branch, int i) const {
    return chunk(slot, branch, i / Chunk<S>::kCount).v[i % Chunk<S>::kCount];
  }
};

// Sums over the elements of `thread` in a tile, both branches, and their d into the slots from `slot` on. Nothing is
// read a second time, so L2 need keep nothing.
template <class E>
SDPO_CUDA_HD void keep_moments_of_tile(const LossArguments& a, const CacheHints& hints, int64_t row, int64_t tile,
                                       int thread, int slot, const Kept<E>& kept,
                                       typename E::Compute (&sums)[kPlainSums]) {
  using S = typename E::Compute;
  SDPO_UNROLL
  for (auto& sum : sums) sum = 0;
  const typename E::Source uc = source_of<E>(a.chosen.policy, row), rc = source_of<E>(a.chosen.reference, row),
                           tc = source_of<E>(a.chosen.target, row), ur = source_of<E>(a.rejected.policy, row),
                           rr = source_of<E>(a.rejected.reference, row), tr = source_of<E>(a.rejected.target, row);
  const bool vector =
      E::aligned(uc) && E::aligned(rc) && E::aligned(tc) && E::aligned(ur) && E::aligned(rr) && E::aligned(tr);
  int64_t element = tile * a.tile_elements + static_cast<int64_t>(thread) * E::kPack;
  SDPO_NO_UNROLL
  for (int k = 0; k < a.packs; ++k, element += kThreads * E::kPack) {
    if (vector && element + E::kPack <= a.size) {
      const auto puc = E::load(uc, element, hints.pass), ptc = E::load(tc, element, hints.pass),
                 prc = E::load(rc, element, hints.pass);
      const auto pur = E::load(ur, element, hints.pass), ptr = E::load(tr, element, hints.pass),
                 prr = E::load(rr, element, hints.pass);
      S d[E::kPack];
      SDPO_UNROLL
      for (int i = 0; i < E::kPack; ++i) {
        add_moments(E::get(puc, i), E::get(prc, i), E::get(ptc, i), sums);
        d[i] = sub(E::get(puc, i), E::get(ptc, i));
      }
      kept.put(slot + k, 0, d);
      SDPO_UNROLL
      for (int i = 0; i < E::kPack; ++i) {
        add_moments(E::get(pur, i), E::get(prr, i), E::get(ptr, i), sums + Sum::error_r);
        d[i] = sub(E::get(pur, i), E::get(ptr, i));
      }
      kept.put(slot + k, 1, d);
    } else {
      SDPO_NO_UNROLL
      for (int i = 0; i < E::kPack && element + i < a.size; ++i) {
        const S vuc = E::load_one(uc, element + i), vtc = E::load_one(tc, element + i);
        add_moments(vuc, E::load_one(rc, element + i), vtc, sums);
        kept.one(slot + k, 0, i) = sub(vuc, vtc);
        const S vur = E::load_one(ur, element + i), vtr = E::load_one(tr, element + i);
        add_moments(vur, E::load_one(rr, element + i), vtr, sums + Sum::error_r);
        kept.one(slot + k, 1, i) = sub(vur, vtr);
      }
    }
  }
}

// Writes a d of both branches for the elements of `thread` in a tile. Where a B came out after all the tensors are read
// again.
template <class E>
SDPO_CUDA_HD void kept_gradient_of_tile(const LossArguments& a, const CacheHints& hints, int64_t row, int64_t tile,
                                        int thread, int slot, const Kept<E>& kept, const RowCoefficients& x) {
  using S = typename E::Compute;
  SDPO_NO_UNROLL
  for (int branch = 0; branch < 2; ++branch) {
    const Branch& b = branch == 0 ? a.chosen : a.rejected;
    const double wide_a = branch == 0 ? x.a_chosen : x.a_rejected, wide_b = branch == 0 ? x.b_chosen : x.b_rejected;
    if (wide_b != 0) {
      gradient_of_branch<E, true>(a, hints, branch != 0, row, tile, thread, wide_a, wide_b);
      continue;
    }
    if (b.gradient.data == nullptr) continue;
    const typename E::Source out = E::source(b.gradient.data, b.gradient.row_stride, b.gradient.dtype, row);
    const bool vector = E::aligned(out),
               zero = wide_a == 0;  // the gradient of a removed row is written as 0, never 0 * infinity
    const S ca = static_cast<S>(wide_a);
    int64_t element = tile * a.tile_elements + static_cast<int64_t>(thread) * E::kPack;
    SDPO_NO_UNROLL
    for (int k = 0; k < a.packs; ++k, element += kThreads * E::kPack) {
      if (vector && element + E::kPack <= a.size) {
        S d[E::kPack];
        kept.get(slot + k, branch, d);
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i) d[i] = zero ? S(0) : mul(ca, d[i]);
        E::store(out, element, d, hints.pass);
      } else {
        SDPO_NO_UNROLL
        for (int i = 0; i < E::kPack && element + i < a.size; ++i) {
          E::store_one(out, element + i, zero ? S(0) : mul(ca, kept.one(slot + k, branch, i)));
        }
      }
    }
  }
}

}  // namespace sdpo::cuda
