// Cuts rows into tiles, stages mixed dtypes up to the widest of the batch, and calls the kernels.
#include "rows.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace sdpo::cpu {
namespace {

constexpr int64_t kSpanMin = 16384;
constexpr int64_t kSpansMax = 64;

// Elements that are looked at or written through a buffer on the stack.
constexpr int64_t kBlock = 512;
constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();

// A batch whose tensors take more than a usual last-level cache has lost its gradients from there when the call ends,
// so they are written past the caches, which spares the memory the reading of every line that is written. A constant,
// since in virtual machines the processor often states the cache of all their neighbours (sysconf: 320 MiB where 32 are
// shared).
constexpr int64_t kCacheBytes = int64_t{32} << 20;

int index(DType type) { return static_cast<int>(type); }

void add(BranchSums& sum, const BranchSums& x) {
  sum.error += x.error;
  sum.delta += x.delta;
  sum.drift += x.drift;
}

}  // namespace

Spans::Spans(int64_t d) : size(d) {
  const int64_t even = (d + kSpansMax - 1) / kSpansMax;
  width = std::max(kSpanMin, (even + kTile - 1) / kTile * kTile);
}

bool takes_whole_rows(int64_t rows, const Spans& spans, int threads) {
  // With that many rows per thread, fewer where they come out even: a row's second read then hits the cache of the
  // thread that read it first, and nobody waits.
  const int64_t per_thread = rows % threads == 0 ? 2 : 4;
  return threads == 1 || rows >= per_thread * threads || spans.count() <= 1;
}

void add(RowSums& total, const RowSums& part) {
  add(total.chosen, part.chosen);
  add(total.rejected, part.rejected);
  total.cross += part.cross;
  total.weights += part.weights;
  total.rejected_weights += part.rejected_weights;
  total.lowest_weight = std::min(total.lowest_weight, part.lowest_weight);
}

RowKernels::RowKernels(const Problem& problem, const KernelTable& table) : problem_(problem), table_(table) {
  compute_ = DType::float32;
  const auto widest = [&](const TensorView& view) {
    if (view.data != nullptr && view.dtype == DType::float64) compute_ = DType::float64;
  };
  for (const Branch* branch : {&problem.chosen, &problem.rejected}) {
    widest(branch->policy);
    widest(branch->reference);
    widest(branch->target);
  }
  widest(problem.element_weights);
  widest(problem.rejected_element_weights);
  const auto stage = [&](const void* data, DType dtype) {
    stages_ = stages_ || (data != nullptr && dtype != compute_);
  };
  for (const Branch* branch : {&problem.chosen, &problem.rejected}) {
    stage(branch->policy.data, branch->policy.dtype);
    stage(branch->reference.data, branch->reference.dtype);
    stage(branch->target.data, branch->target.dtype);
    stage(branch->gradient.data, branch->gradient.dtype);
  }
  stage(problem.element_weights.data, problem.element_weights.dtype);
  stage(problem.rejected_element_weights.data, problem.rejected_element_weights.dtype);
  for (int i = 0; i < 2; ++i) direct_[i] = direct(branch(i));
  together_ = direct_[0] && direct_[1] && problem.chosen.policy.dtype == problem.rejected.policy.dtype;
  const int64_t row_bytes = 8 * problem.size * static_cast<int64_t>(dtype_size(problem.chosen.policy.dtype));
  streams_ = problem.rows > 0 && row_bytes > kCacheBytes / problem.rows;
}

// A tile of a tensor in the compute type: in place where it already is, else converted into a tile of the scratch.
const void* RowKernels::staged(const TensorView& view, int64_t row, int64_t element, int64_t n, Scratch* scratch,
                               int tile) const {
  if (view.data == nullptr) return nullptr;
  const void* in_place = view.at(row, element);
  if (view.dtype == compute_) return in_place;
  void* const buffer = scratch->tiles[tile].values;
  table_.widen[index(view.dtype)][compute_ == DType::float64](in_place, buffer, n);
  return buffer;
}

const void* RowKernels::weights(int i, int64_t row, int64_t element, int64_t n, Scratch* scratch, int tile) const {
  return staged(problem_.weights_of(i != 0), row, element, n, scratch, tile);
}

void RowKernels::add_weights(const void* weights, int64_t n, double* sum, double* lowest) const {
  if (weights == nullptr) return;
  const TileWeights tile = table_.weights[compute_ == DType::float64](weights, n);
  *sum += tile.sum;
  *lowest = std::min(*lowest, tile.lowest);
}

// Whether the kernel of the policy's own dtype can read all tensors of the branch as they are.
bool RowKernels::direct(const Branch& branch) const {
  const DType type = branch.policy.dtype;
  return (type == DType::float64) == (compute_ == DType::float64) && branch.target.dtype == type &&
         (branch.reference.data == nullptr || branch.reference.dtype == type) &&
         (branch.gradient.data == nullptr || branch.gradient.dtype == type);
}

// Of a branch that no kernel can read as it is, in the tiles 0 to 2 of the scratch.
BranchTile RowKernels::tile(int i, bool with_reference, int64_t row, int64_t element, int64_t n, const void* weights,
                            Scratch* scratch) const {
  const auto of = [&](const TensorView& view, int slot) {
    return direct_[i] ? view.at(row, element) : staged(view, row, element, n, scratch, slot);
  };
  const Branch& x = branch(i);
  return {of(x.policy, 0), with_reference ? of(x.reference, 1) : nullptr, of(x.target, 2), weights};
}

int RowKernels::kernel_of(int i) const { return index(direct_[i] ? branch(i).policy.dtype : compute_); }

void RowKernels::add_moments(int64_t row, int64_t element, int64_t n, const void* const* weights, Scratch* scratch,
                             RowSums* total) const {
  BranchSums* const sums[] = {&total->chosen, &total->rejected};
  BranchTile tiles[2];
  BranchSums found[2];
  for (int i = 0; i < 2; ++i) {
    tiles[i] = tile(i, branch(i).reference.data != nullptr, row, element, n, weights[i], scratch);
    if (!together_) table_.moments[kernel_of(i)](&tiles[i], 1, n, &found[i]);
  }
  if (together_) table_.moments[kernel_of(0)](tiles, 2, n, found);
  for (int i = 0; i < 2; ++i) add(*sums[i], found[i]);
}

RowSums RowKernels::sums(int64_t row, int64_t begin, int64_t end, Scratch* scratch) const {
  RowSums total;
  for (int64_t element = begin; element < end; element += kTile) {
    const int64_t n = std::min(kTile, end - element);
    const void* const e = weights(0, row, element, n, scratch, 4);
    const void* of_branch[] = {e, e};
    add_weights(e, n, &total.weights, &total.lowest_weight);
    if (problem_.rejected_element_weights.data != nullptr) {  // then there is no cross, which would want both
      of_branch[1] = weights(1, row, element, n, scratch, 3);
      add_weights(of_branch[1], n, &total.rejected_weights, &total.lowest_weight);
    }
    if ((problem_.passes & Pass::moments) == 0) continue;
    add_moments(row, element, n, of_branch, scratch, &total);
    if (problem_.passes & Pass::cross) {
      total.cross += table_.cross[index(compute_)](staged(problem_.chosen.policy, row, element, n, scratch, 0),
                                                   staged(problem_.chosen.target, row, element, n, scratch, 1),
                                                   staged(problem_.rejected.policy, row, element, n, scratch, 2),
                                                   staged(problem_.rejected.target, row, element, n, scratch, 3), e, n);
    }
  }
  return total;
}

void RowKernels::gradients(int64_t row, int64_t begin, int64_t end, const RowCoefficients& c, const bool* wanted,
                           Scratch* scratch) const {
  const double a[] = {c.a_chosen, c.a_rejected}, b[] = {c.b_chosen, c.b_rejected};
  const auto part = [&](int i, int64_t element, int64_t n, void* out) {
    const Branch& x = branch(i);
    const bool drift = b[i] != 0 && x.reference.data != nullptr;  // a NaN coefficient is not 0 and passes
    const void* const e = weights(i, row, element, n, scratch, 4);
    return BranchGradient{tile(i, drift, row, element, n, e, scratch), a[i], b[i], out};
  };
  // Tiles are for what is converted on the way.
  const auto whole = [&](int i) {
    const TensorView& e = problem_.weights_of(i != 0);
    return direct_[i] && (e.data == nullptr || e.dtype == compute_);
  };
  if (wanted[0] && wanted[1] && together_ && whole(0) && whole(1)) {
    const int64_t n = end - begin;
    const BranchGradient both[] = {part(0, begin, n, branch(0).gradient.at(row, begin)),
                                   part(1, begin, n, branch(1).gradient.at(row, begin))};
    table_.gradients[kernel_of(0)](both, 2, n, streams_);
    return;
  }
  for (int i = 0; i < 2; ++i) {
    if (!wanted[i]) continue;
    const Branch& x = branch(i);
    const int64_t step = whole(i) ? end - begin : kTile;
    for (int64_t element = begin; element < end; element += step) {
      const int64_t n = std::min(step, end - element);
      void* const out = x.gradient.at(row, element);
      const BranchGradient one = part(i, element, n, direct_[i] ? out : scratch->tiles[3].values);
      table_.gradients[kernel_of(i)](&one, 1, n, direct_[i] && streams_);
      if (!direct_[i]) table_.narrow[index(x.gradient.dtype)][compute_ == DType::float64](one.out, out, n);
    }
  }
}

void RowKernels::zero_gradient(int of, int64_t row, int64_t begin, int64_t end) const {
  const MutableTensorView& gradient = branch(of).gradient;
  std::memset(gradient.at(row, begin), 0, static_cast<size_t>(end - begin) * dtype_size(gradient.dtype));
}

void RowKernels::nan_gradient(int of, int64_t row, int64_t begin, int64_t end, Scratch* scratch) const {
  const MutableTensorView& gradient = branch(of).gradient;
  double values[kBlock];
  for (int64_t element = begin; element < end; element += kBlock) {
    const int64_t n = std::min(kBlock, end - element);
    const void* e = weights(of, row, element, n, scratch, 4);
    for (int64_t i = 0; i < n; ++i) {
      const double weight = e == nullptr                 ? 1
                            : compute_ == DType::float64 ? static_cast<const double*>(e)[i]
                                                         : static_cast<double>(static_cast<const float*>(e)[i]);
      values[i] = weight == 0 ? 0 : kNaN;
    }
    table_.narrow[index(gradient.dtype)][1](values, gradient.at(row, element), n);
  }
}

void RowKernels::make_nans_equal(int of, int64_t row, int64_t begin, int64_t end) const {
  const MutableTensorView& gradient = branch(of).gradient;
  double values[kBlock];
  for (int64_t element = begin; element < end; element += kBlock) {
    const int64_t n = std::min(kBlock, end - element);
    void* const out = gradient.at(row, element);
    table_.widen[index(gradient.dtype)][1](out, values, n);
    bool found = false;
    for (int64_t i = 0; i < n; ++i) {
      if (values[i] == values[i]) continue;
      values[i] = kNaN;
      found = true;
    }
    if (found) table_.narrow[index(gradient.dtype)][1](values, out, n);
  }
}

}  // namespace sdpo::cpu
