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

const void* RowKernels::weights(bool of_rejected, int64_t row, int64_t element, int64_t n, Scratch* scratch) const {
  return staged(problem_.weights_of(of_rejected), row, element, n, scratch, 4);
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

BranchSums RowKernels::moments_of_tile(const Branch& branch, int64_t row, int64_t element, int64_t n,
                                       const void* weights, Scratch* scratch) const {
  if (direct(branch)) {
    return table_.moments[index(branch.policy.dtype)](
        branch.policy.at(row, element), branch.reference.data ? branch.reference.at(row, element) : nullptr,
        branch.target.at(row, element), weights, n);
  }
  return table_.moments[index(compute_)](staged(branch.policy, row, element, n, scratch, 0),
                                         staged(branch.reference, row, element, n, scratch, 1),
                                         staged(branch.target, row, element, n, scratch, 2), weights, n);
}

RowSums RowKernels::sums(int64_t row, int64_t begin, int64_t end, Scratch* scratch) const {
  RowSums total;
  for (int64_t element = begin; element < end; element += kTile) {
    const int64_t n = std::min(kTile, end - element);
    const void* e = weights(false, row, element, n, scratch);
    add_weights(e, n, &total.weights, &total.lowest_weight);
    const bool moments = (problem_.passes & Pass::moments) != 0;
    if (moments) add(total.chosen, moments_of_tile(problem_.chosen, row, element, n, e, scratch));
    if (problem_.rejected_element_weights.data != nullptr) {  // then there is no cross, which would want both
      e = weights(true, row, element, n, scratch);
      add_weights(e, n, &total.rejected_weights, &total.lowest_weight);
    }
    if (!moments) continue;
    add(total.rejected, moments_of_tile(problem_.rejected, row, element, n, e, scratch));
    if (problem_.passes & Pass::cross) {
      total.cross += table_.cross[index(compute_)](staged(problem_.chosen.policy, row, element, n, scratch, 0),
                                                   staged(problem_.chosen.target, row, element, n, scratch, 1),
                                                   staged(problem_.rejected.policy, row, element, n, scratch, 2),
                                                   staged(problem_.rejected.target, row, element, n, scratch, 3), e, n);
    }
  }
  return total;
}

void RowKernels::gradient(bool of_rejected, int64_t row, int64_t begin, int64_t end, double a, double b,
                          Scratch* scratch) const {
  const Branch& branch = this->branch(of_rejected);
  const bool drift = b != 0 && branch.reference.data != nullptr;  // a NaN coefficient is not 0 and passes
  const bool in_place = direct(branch);
  const TensorView& element_weights = problem_.weights_of(of_rejected);
  // Tiles are for what is converted on the way.
  const bool whole = in_place && (element_weights.data == nullptr || element_weights.dtype == compute_);
  const int64_t step = whole ? end - begin : kTile;
  for (int64_t element = begin; element < end; element += step) {
    const int64_t n = std::min(step, end - element);
    const void* e = weights(of_rejected, row, element, n, scratch);
    void* out = branch.gradient.at(row, element);
    if (in_place) {
      table_.gradient[index(branch.policy.dtype)](branch.policy.at(row, element),
                                                  drift ? branch.reference.at(row, element) : nullptr,
                                                  branch.target.at(row, element), e, n, a, b, out, streams_);
      continue;
    }
    void* const result = scratch->tiles[3].values;
    table_.gradient[index(compute_)](staged(branch.policy, row, element, n, scratch, 0),
                                     drift ? staged(branch.reference, row, element, n, scratch, 1) : nullptr,
                                     staged(branch.target, row, element, n, scratch, 2), e, n, a, b, result, false);
    table_.narrow[index(branch.gradient.dtype)][compute_ == DType::float64](result, out, n);
  }
}

void RowKernels::zero_gradient(bool of_rejected, int64_t row, int64_t begin, int64_t end) const {
  const MutableTensorView& gradient = branch(of_rejected).gradient;
  std::memset(gradient.at(row, begin), 0, static_cast<size_t>(end - begin) * dtype_size(gradient.dtype));
}

void RowKernels::nan_gradient(bool of_rejected, int64_t row, int64_t begin, int64_t end, Scratch* scratch) const {
  const MutableTensorView& gradient = branch(of_rejected).gradient;
  double values[kBlock];
  for (int64_t element = begin; element < end; element += kBlock) {
    const int64_t n = std::min(kBlock, end - element);
    const void* e = weights(of_rejected, row, element, n, scratch);
    for (int64_t i = 0; i < n; ++i) {
      const double weight = e == nullptr                 ? 1
                            : compute_ == DType::float64 ? static_cast<const double*>(e)[i]
                                                         : static_cast<double>(static_cast<const float*>(e)[i]);
      values[i] = weight == 0 ? 0 : kNaN;
    }
    table_.narrow[index(gradient.dtype)][1](values, gradient.at(row, element), n);
  }
}

void RowKernels::make_nans_equal(bool of_rejected, int64_t row, int64_t begin, int64_t end) const {
  const MutableTensorView& gradient = branch(of_rejected).gradient;
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
