// Access of the kernels to the elements of a row, packs of them or one at a time: one dtype known when they are
// compiled, or each tensor its own.
#pragma once

#include "../core/problem.h"
#include "pack.cuh"
#include "policy.h"

namespace sdpo::cuda {

// Uniform: every tensor of the call holds T. Mixed: each holds its own dtype and is computed
// in S.

template <class T>
struct Uniform {
  using Compute = typename Format<T>::Compute;
  static constexpr int kPack = kAccessBytes / static_cast<int>(sizeof(T));
  static constexpr Variant kGeneral = Variant::general;
  using Source = const T*;  // the row's first element
  using Raw = Words<T, kPack>;

  SDPO_CUDA_HD static Source source(const void* data, int64_t row_stride, DType, int64_t row) {
    return static_cast<const T*>(data) + row * row_stride;
  }
  SDPO_CUDA_HD static bool aligned(Source s) { return is_aligned(s, kAccessBytes); }
  SDPO_CUDA_HD static Raw load(Source s, int64_t element, uint64_t hint) {
    return load_words<T, kPack>(s + element, hint);
  }
  SDPO_CUDA_HD static Compute get(const Raw& raw, int i) { return raw.get(i); }
  SDPO_CUDA_HD static Compute load_one(Source s, int64_t element) { return load_element(s + element); }
  SDPO_CUDA_HD static void store(Source s, int64_t element, const Compute (&values)[kPack], uint64_t hint) {
    store_values<T, kPack>(const_cast<T*>(s) + element, values, hint);
  }
  SDPO_CUDA_HD static void store_one(Source s, int64_t element, Compute value) {
    store_element(const_cast<T*>(s) + element, value);
  }
};

// A row of a run-time dtype.
struct AnySource {
  const char* row;
  DType type;
};

SDPO_CUDA_HD AnySource any_source(const void* data, int64_t row_stride, DType type, int64_t row) {
  return {static_cast<const char*>(data) + row * row_stride * bytes_of(type), type};
}

template <int N>
SDPO_CUDA_HD bool aligned_pack(const AnySource& s) {
  const int bytes = N * bytes_of(s.type);
  return is_aligned(s.row, bytes < kAccessBytes ? bytes : kAccessBytes);
}

// N elements, widened to S.
template <class S, int N>
SDPO_CUDA_HD void load_any(const AnySource& s, int64_t element, uint64_t hint, S (&out)[N]) {
  with_format(s.type, [&](auto storage) {
    using T = decltype(storage);
    const Words<T, N> words = load_words<T, N>(reinterpret_cast<const T*>(s.row) + element, hint);
    SDPO_UNROLL
    for (int i = 0; i < N; ++i) out[i] = static_cast<S>(words.get(i));
  });
}

template <class S>
SDPO_CUDA_HD S load_any_one(const AnySource& s, int64_t element) {
  S out = 0;
  with_format(s.type, [&](auto storage) {
    using T = decltype(storage);
    out = static_cast<S>(load_element(reinterpret_cast<const T*>(s.row) + element));
  });
  return out;
}

template <class S>
struct Mixed {
  using Compute = S;
  static constexpr int kPack = kAccessBytes / static_cast<int>(sizeof(S));
  static constexpr Variant kGeneral = Variant::mixed;
  using Source = AnySource;
  struct Raw {
    S v[kPack];
  };

  SDPO_CUDA_HD static Source source(const void* data, int64_t row_stride, DType type, int64_t row) {
    return any_source(data, row_stride, type, row);
  }
  SDPO_CUDA_HD static bool aligned(const Source& s) { return aligned_pack<kPack>(s); }
  SDPO_CUDA_HD static Raw load(const Source& s, int64_t element, uint64_t hint) {
    Raw raw;
    load_any<S, kPack>(s, element, hint, raw.v);
    return raw;
  }
  SDPO_CUDA_HD static S get(const Raw& raw, int i) { return raw.v[i]; }
  SDPO_CUDA_HD static S load_one(const Source& s, int64_t element) { return load_any_one<S>(s, element); }
  SDPO_CUDA_HD static void store(const Source& s, int64_t element, const S (&values)[kPack], uint64_t hint) {
    with_format(s.type, [&](auto storage) {
      using T = decltype(storage);
      store_values<T, kPack>(reinterpret_cast<T*>(const_cast<char*>(s.row)) + element, values, hint);
    });
  }
  SDPO_CUDA_HD static void store_one(const Source& s, int64_t element, S value) {
    with_format(s.type, [&](auto storage) {
      using T = decltype(storage);
      store_element(reinterpret_cast<T*>(const_cast<char*>(s.row)) + element, value);
    });
  }
};

template <class E>
SDPO_CUDA_HD typename E::Source source_of(const TensorView& view, int64_t row) {
  return E::source(view.data, view.row_stride, view.dtype, row);
}

}  // namespace sdpo::cuda
