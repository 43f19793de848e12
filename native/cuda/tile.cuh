// The work on one tile: the sums of a thread's elements for the moments, and the gradient of a thread's elements.
//
// A tile is `packs` times 128 packs of a row, of both branches. Thread t has packs t, t + 128, ... of it. The functions
// compile for the host too, where a test runs them thread by thread.
#pragma once

#include "access.cuh"
#include "arguments.h"

namespace sdpo::cuda {

// ---- Element weights and packs

// A row of element weights, whose dtype may differ from that of the tensors even in a uniform call. `row` is null: all
// one, or for rejected that it has none of its own.
SDPO_CUDA_HD AnySource weights_source(const TensorView& view, int64_t row) {
  if (view.data == nullptr) return {nullptr, view.dtype};
  return any_source(view.data, view.row_stride, view.dtype, row);
}

// Runs whole(element) for every pack of `thread` in a tile, and one(element) for every element of a pack that cannot be
// read at once. Both ways add in the same order.
template <class E, class Whole, class One>
SDPO_CUDA_HD void for_packs(const LossArguments& a, int64_t tile, int thread, bool vector, const Whole& whole,
                            const One& one) {
  int64_t element = tile * a.tile_elements + static_cast<int64_t>(thread) * E::kPack;
  SDPO_NO_UNROLL
  for (int k = 0; k < a.packs; ++k, element += kThreads * E::kPack) {
    if (vector && element + E::kPack <= a.size) {
      whole(element);
    } else {
      SDPO_NO_UNROLL
      for (int64_t i = element; i < element + E::kPack && i < a.size; ++i) one(i);
    }
  }
}

// ---- Moments

template <class E>
struct MomentSources {
  typename E::Source policy_c, reference_c, target_c, policy_r, reference_r, target_r;
  AnySource weights, weights_r;
  bool has_reference_c, has_reference_r;
  uint64_t keep, pass;  // hints for what the gradient reads again and for what it does not
};

template <class S>
SDPO_CUDA_HD void add_moments(S u, S r, S t, S* sums) {
  const S d = sub(u, t), h = sub(u, r);
  sums[0] = add(sums[0], mul(d, d));
  sums[1] = add(sums[1], mul(h, sub(add(d, d), h)));
  sums[2] = add(sums[2], mul(h, h));
}

// An element of weight 0 takes no part, whatever it holds: 0 * NaN must not reach a sum.
template <class S>
SDPO_CUDA_HD void add_weighted_moments(S e, S u, S r, S t, bool has_reference, S* sums) {
  const S d = e != 0 ? sub(u, t) : S(0), h = has_reference && e != 0 ? sub(u, r) : S(0);
  sums[0] = add(sums[0], mul(e, mul(d, d)));
  sums[1] = add(sums[1], mul(e, mul(h, sub(add(d, d), h))));
  sums[2] = add(sums[2], mul(e, mul(h, h)));
}

template <class S>
SDPO_CUDA_HD void add_cross(S e, S uc, S tc, S ur, S tr, S* sums) {
  if (e != 0) sums[Sum::cross] = add(sums[Sum::cross], mul(e, mul(sub(uc, tc), sub(ur, tr))));
}

template <class S>
SDPO_CUDA_HD void add_weight(S e, Sum::Index field, S* sums) {
  sums[field] = add(sums[field], e);
  if (e < sums[Sum::lowest_weight]) sums[Sum::lowest_weight] = e;
}

// The kernel of most batches: both references, no element weights, no cross moment. All loads of a pack come before the
// first use, so that they are in flight together.
template <class E>
SDPO_CUDA_HD void plain_moments(const LossArguments& a, const MomentSources<E>& s, int64_t tile, int thread,
                                bool vector, typename E::Compute* sums) {
  for_packs<E>(
      a, tile, thread, vector,
      [&](int64_t element) {
        const auto uc = E::load(s.policy_c, element, s.keep), tc = E::load(s.target_c, element, s.keep);
        const auto rc = E::load(s.reference_c, element, s.pass);
        const auto ur = E::load(s.policy_r, element, s.keep), tr = E::load(s.target_r, element, s.keep);
        const auto rr = E::load(s.reference_r, element, s.pass);
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i) add_moments(E::get(uc, i), E::get(rc, i), E::get(tc, i), sums);
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i)
          add_moments(E::get(ur, i), E::get(rr, i), E::get(tr, i), sums + Sum::error_r);
      },
      [&](int64_t i) {
        add_moments(E::load_one(s.policy_c, i), E::load_one(s.reference_c, i), E::load_one(s.target_c, i), sums);
        add_moments(E::load_one(s.policy_r, i), E::load_one(s.reference_r, i), E::load_one(s.target_r, i),
                    sums + Sum::error_r);
      });
}

// A pack of element weights, which also go into their sum.
template <class E>
SDPO_CUDA_HD void load_weights(const AnySource& s, int64_t element, uint64_t hint, Sum::Index field,
                               typename E::Compute (&e)[E::kPack], typename E::Compute* sums) {
  load_any<typename E::Compute, E::kPack>(s, element, hint, e);
  SDPO_UNROLL
  for (int i = 0; i < E::kPack; ++i) add_weight(e[i], field, sums);
}

template <class E>
SDPO_CUDA_HD void general_moments(const LossArguments& a, const MomentSources<E>& s, int64_t tile, int thread,
                                  bool vector, typename E::Compute* sums) {
  using S = typename E::Compute;
  const bool weighted = s.weights.row != nullptr, apart = s.weights_r.row != nullptr;
  const bool moments = a.passes & Pass::moments, cross = a.passes & Pass::cross;
  for_packs<E>(
      a, tile, thread, vector,
      [&](int64_t element) {
        S e[E::kPack];
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i) e[i] = 1;
        if (weighted) load_weights<E>(s.weights, element, s.keep, Sum::weights, e, sums);
        if (!moments) {
          if (apart) load_weights<E>(s.weights_r, element, s.keep, Sum::weights_r, e, sums);
          return;
        }
        const auto uc = E::load(s.policy_c, element, s.keep), tc = E::load(s.target_c, element, s.keep);
        const auto ur = E::load(s.policy_r, element, s.keep), tr = E::load(s.target_r, element, s.keep);
        auto rc = uc, rr = ur;
        if (s.has_reference_c) rc = E::load(s.reference_c, element, s.pass);
        if (s.has_reference_r) rr = E::load(s.reference_r, element, s.pass);
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i)
          add_weighted_moments(e[i], E::get(uc, i), E::get(rc, i), E::get(tc, i), s.has_reference_c, sums);
        // In the registers of the others: a second pack would be one too many.
        if (apart) load_weights<E>(s.weights_r, element, s.keep, Sum::weights_r, e, sums);
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i)
          add_weighted_moments(e[i], E::get(ur, i), E::get(rr, i), E::get(tr, i), s.has_reference_r,
                               sums + Sum::error_r);
        if (!cross) return;
        SDPO_UNROLL
        for (int i = 0; i < E::kPack; ++i)
          add_cross(e[i], E::get(uc, i), E::get(tc, i), E::get(ur, i), E::get(tr, i), sums);
      },
      [&](int64_t i) {
        const S e = weighted ? load_any_one<S>(s.weights, i) : S(1);
        if (weighted) add_weight(e, Sum::weights, sums);
        const S er = apart ? load_any_one<S>(s.weights_r, i) : e;
        if (apart) add_weight(er, Sum::weights_r, sums);
        if (!moments) return;
        const S uc = E::load_one(s.policy_c, i), tc = E::load_one(s.target_c, i);
        const S ur = E::load_one(s.policy_r, i), tr = E::load_one(s.target_r, i);
        const S rc = s.has_reference_c ? E::load_one(s.reference_c, i) : uc,
                rr = s.has_reference_r ? E::load_one(s.reference_r, i) : ur;
        add_weighted_moments(e, uc, rc, tc, s.has_reference_c, sums);
        add_weighted_moments(er, ur, rr, tr, s.has_reference_r, sums + Sum::error_r);
        if (cross) add_cross(e, uc, tc, ur, tr, sums);
      });
}

// Sums over the elements of `thread` in a tile, both branches.
template <class E, bool kPlain>
SDPO_CUDA_HD void moments_of_tile(const LossArguments& a, const CacheHints& hints, int64_t row, int64_t tile,
                                  int thread, typename E::Compute (&sums)[kSumsOf<kPlain>]) {
  SDPO_UNROLL
  for (auto& sum : sums) sum = 0;
  if (!a.wants_sums) return;
  MomentSources<E> s;
  s.policy_c = source_of<E>(a.chosen.policy, row);
  s.reference_c = source_of<E>(a.chosen.reference, row);
  s.target_c = source_of<E>(a.chosen.target, row);
  s.policy_r = source_of<E>(a.rejected.policy, row);
  s.reference_r = source_of<E>(a.rejected.reference, row);
  s.target_r = source_of<E>(a.rejected.target, row);
  s.keep = a.order.gradient_tiles > 0 ? hints.keep : hints.pass;
  s.pass = a.wants_drift ? s.keep : hints.pass;
  s.has_reference_c = kPlain || a.chosen.reference.data != nullptr;
  s.has_reference_r = kPlain || a.rejected.reference.data != nullptr;
  bool vector = E::aligned(s.policy_c) && E::aligned(s.target_c) && E::aligned(s.policy_r) && E::aligned(s.target_r) &&
                (!s.has_reference_c || E::aligned(s.reference_c)) && (!s.has_reference_r || E::aligned(s.reference_r));
  if constexpr (kPlain) {
    plain_moments<E>(a, s, tile, thread, vector, sums);
  } else {
    s.weights = weights_source(a.element_weights, row);
    s.weights_r = weights_source(a.rejected_element_weights, row);
    vector = vector && (s.weights.row == nullptr || aligned_pack<E::kPack>(s.weights)) &&
             (s.weights_r.row == nullptr || aligned_pack<E::kPack>(s.weights_r));
    general_moments<E>(a, s, tile, thread, vector, sums);
  }
}

// ---- Gradient

template <class E>
struct GradientSources {
  typename E::Source policy, reference, target, gradient;
};

template <class E>
SDPO_CUDA_HD GradientSources<E> gradient_sources(const Branch& branch, int64_t row) {
  return {source_of<E>(branch.policy, row), source_of<E>(branch.reference, row), source_of<E>(branch.target, row),
          E::source(branch.gradient.data, branch.gradient.row_stride, branch.gradient.dtype, row)};
}

// Any branch: zeros for a removed row (nothing is read then), with or without drift, with or without element weights.
template <class E, bool kPlain>
SDPO_CUDA_HD void gradient_of_branch(const LossArguments& a, const CacheHints& hints, bool of_rejected, int64_t row,
                                     int64_t tile, int thread, double wide_a, double wide_b) {
  using S = typename E::Compute;
  const Branch& branch = of_rejected ? a.rejected : a.chosen;
  if (branch.gradient.data == nullptr) return;
  const GradientSources<E> s = gradient_sources<E>(branch, row);
  if (wide_a == 0 && wide_b == 0) {  // a NaN is not 0 and passes
    for_packs<E>(
        a, tile, thread, E::aligned(s.gradient),
        [&](int64_t element) {
          const S zeros[E::kPack] = {};
          E::store(s.gradient, element, zeros, hints.pass);
        },
        [&](int64_t i) { E::store_one(s.gradient, i, S(0)); });
    return;
  }
  const S ca = static_cast<S>(wide_a), cb = static_cast<S>(wide_b);
  const bool drift = wide_b != 0 && branch.reference.data != nullptr;
  const AnySource weights =
      kPlain ? AnySource{nullptr, DType::float32}
             : weights_source(of_rejected && a.weighted_apart ? a.rejected_element_weights : a.element_weights, row);
  const bool vector = E::aligned(s.policy) && E::aligned(s.target) && E::aligned(s.gradient) &&
                      (!drift || E::aligned(s.reference)) &&
                      (weights.row == nullptr || aligned_pack<E::kPack>(weights));
  for_packs<E>(
      a, tile, thread, vector,
      [&](int64_t element) {
        const auto u = E::load(s.policy, element, hints.pass), t = E::load(s.target, element, hints.pass);
        S out[E::kPack];
        if (drift) {
          const auto r = E::load(s.reference, element, hints.pass);
          SDPO_UNROLL
          for (int i = 0; i < E::kPack; ++i) {
            out[i] = add(mul(ca, sub(E::get(u, i), E::get(t, i))), mul(cb, sub(E::get(u, i), E::get(r, i))));
          }
        } else {
          SDPO_UNROLL
          for (int i = 0; i < E::kPack; ++i) out[i] = mul(ca, sub(E::get(u, i), E::get(t, i)));
        }
        if (weights.row != nullptr) {
          S e[E::kPack];
          load_any<S, E::kPack>(weights, element, hints.keep, e);
          SDPO_UNROLL
          for (int i = 0; i < E::kPack; ++i) out[i] = e[i] != 0 ? mul(e[i], out[i]) : S(0);
        }
        E::store(s.gradient, element, out, hints.pass);
      },
      [&](int64_t i) {
        const S u = E::load_one(s.policy, i);
        S out = mul(ca, sub(u, E::load_one(s.target, i)));
        if (drift) out = add(out, mul(cb, sub(u, E::load_one(s.reference, i))));
        if (weights.row != nullptr) {
          const S e = load_any_one<S>(weights, i);
          out = e != 0 ? mul(e, out) : S(0);
        }
        E::store_one(s.gradient, i, out);
      });
}

// Writes e (a d + b h) of both branches for the elements of `thread` in a tile. The second read of the inputs is their
// last, and nobody here reads what is stored, so L2 may drop both first.
template <class E, bool kPlain>
SDPO_CUDA_HD void gradient_of_tile(const LossArguments& a, const CacheHints& hints, int64_t row, int64_t tile,
                                   int thread, const RowCoefficients& x) {
  using S = typename E::Compute;
  // Most rows: both branches wanted, kept and without drift. Four loads in flight instead of two.
  if (kPlain && x.a_chosen != 0 && x.a_rejected != 0 && x.b_chosen == 0 && x.b_rejected == 0 &&
      a.chosen.gradient.data != nullptr && a.rejected.gradient.data != nullptr) {
    const GradientSources<E> c = gradient_sources<E>(a.chosen, row), r = gradient_sources<E>(a.rejected, row);
    if (E::aligned(c.policy) && E::aligned(c.target) && E::aligned(c.gradient) && E::aligned(r.policy) &&
        E::aligned(r.target) && E::aligned(r.gradient)) {
      const S ac = static_cast<S>(x.a_chosen), ar = static_cast<S>(x.a_rejected);
      for_packs<E>(
          a, tile, thread, true,
          [&](int64_t element) {
            const auto uc = E::load(c.policy, element, hints.pass), tc = E::load(c.target, element, hints.pass);
            const auto ur = E::load(r.policy, element, hints.pass), tr = E::load(r.target, element, hints.pass);
            S out[E::kPack];
            SDPO_UNROLL
            for (int i = 0; i < E::kPack; ++i) out[i] = mul(ac, sub(E::get(uc, i), E::get(tc, i)));
            E::store(c.gradient, element, out, hints.pass);
            SDPO_UNROLL
            for (int i = 0; i < E::kPack; ++i) out[i] = mul(ar, sub(E::get(ur, i), E::get(tr, i)));
            E::store(r.gradient, element, out, hints.pass);
          },
          [&](int64_t i) {
            E::store_one(c.gradient, i, mul(ac, sub(E::load_one(c.policy, i), E::load_one(c.target, i))));
            E::store_one(r.gradient, i, mul(ar, sub(E::load_one(r.policy, i), E::load_one(r.target, i))));
          });
      return;
    }
  }
  SDPO_NO_UNROLL
  for (int branch = 0; branch < 2; ++branch) {
    gradient_of_branch<E, kPlain>(a, hints, branch != 0, row, tile, thread, branch == 0 ? x.a_chosen : x.a_rejected,
                                  branch == 0 ? x.b_chosen : x.b_rejected);
  }
}

}  // namespace sdpo::cuda
