// Cuts rows into tiles, stages mixed dtypes up to the widest of the batch, and calls the kernels.
#include "rows.h"

#include <algorithm>
#include <cstring>
#include <limits>

namespace sdpo::cpu {
namespace {

constexpr int64_t kSpanMin = 16384;
constexpr int64_t kSpansMax = 64;

// Room for one tile of either compute type.
struct Staging {
  alignas(64) double values[kTile];
};

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
  const int64_t row_bytes = 8 * problem.size * static_cast<int64_t>(dtype_size(problem.chosen.policy.dtype));
  streams_ = problem.rows > 0 && row_bytes > kCacheBytes / problem.rows;
}

// A tile of a tensor in the compute type: in place where it already is, else converted into the buffer.
const void* RowKernels::staged(const TensorView& view, int64_t row, int64_t element, int64_t n, void* buffer) const {
  if (view.data == nullptr) return nullptr;
  const void* tile = view.at(row, element);
  if (view.dtype == compute_) return tile;
  table_.widen[index(view.dtype)][compute_ == DType::float64](tile, buffer, n);
  return buffer;
}

const void* RowKernels::weights(bool of_rejected, int64_t row, int64_t element, int64_t n, void* buffer) const {
  return staged(problem_.weights_of(of_rejected), row, element, n, buffer);
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
                                       const void* weights) const {
  if (direct(branch)) {
    return table_.moments[index(branch.policy.dtype)](
        branch.policy.at(row, element), branch.reference.data ? branch.reference.at(row, element) : nullptr,
        branch.target.at(row, element), weights, n);
  }
  Staging policy, reference, target;
  return table_.moments[index(compute_)](staged(branch.policy, row, element, n, policy.values),
                                         staged(branch.reference, row, element, n, reference.values),
                                         staged(branch.target, row, element, n, target.values), weights, n);
}

RowSums RowKernels::sums(int64_t row, int64_t begin, int64_t end) const {
  RowSums total;
  for (int64_t element = begin; element < end; element += kTile) {
    const int64_t n = std::min(kTile, end - element);
    Staging chosen_buffer, rejected_buffer;
    const void* e = weights(false, row, element, n, chosen_buffer.values);
    add_weights(e, n, &total.weights, &total.lowest_weight);
    const void* rejected_e = e;
    if (problem_.rejected_element_weights.data != nullptr) {
      rejected_e = weights(true, row, element, n, rejected_buffer.values);
      add_weights(rejected_e, n, &total.rejected_weights, &total.lowest_weight);
    }
    if (!(problem_.passes & Pass::moments)) continue;
    add(total.chosen, moments_of_tile(problem_.chosen, row, element, n, e));
    add(total.rejected, moments_of_tile(problem_.rejected, row, element, n, rejected_e));
    if (problem_.passes & Pass::cross) {
      Staging uc, tc, ur, tr;
      total.cross += table_.cross[index(compute_)](staged(problem_.chosen.policy, row, element, n, uc.values),
                                                   staged(problem_.chosen.target, row, element, n, tc.values),
                                                   staged(problem_.rejected.policy, row, element, n, ur.values),
                                                   staged(problem_.rejected.target, row, element, n, tr.values), e, n);
    }
  }
  return total;
}

void RowKernels::gradient(bool of_rejected, int64_t row, int64_t begin, int64_t end, double a, double b) const {
  const Branch& branch = this->branch(of_rejected);
  const bool drift = b != 0 && branch.reference.data != nullptr;  // a NaN coefficient is not 0 and passes
  const bool in_place = direct(branch);
  for (int64_t element = begin; element < end; element += kTile) {
    const int64_t n = std::min(kTile, end - element);
    Staging weight_buffer;
    const void* e = weights(of_rejected, row, element, n, weight_buffer.values);
    void* out = branch.gradient.at(row, element);
    if (in_place) {
      table_.gradient[index(branch.policy.dtype)](branch.policy.at(row, element),
                                                  drift ? branch.reference.at(row, element) : nullptr,
                                                  branch.target.at(row, element), e, n, a, b, out, streams_);
      continue;
    }
    Staging policy, reference, target, result;
    table_.gradient[index(compute_)](staged(branch.policy, row, element, n, policy.values),
                                     drift ? staged(branch.reference, row, element, n, reference.values) : nullptr,
                                     staged(branch.target, row, element, n, target.values), e, n, a, b, result.values,
                                     false);
    table_.narrow[index(branch.gradient.dtype)][compute_ == DType::float64](result.values, out, n);
  }
}

void RowKernels::zero_gradient(bool of_rejected, int64_t row, int64_t begin, int64_t end) const {
  const MutableTensorView& gradient = branch(of_rejected).gradient;
  std::memset(gradient.at(row, begin), 0, static_cast<size_t>(end - begin) * dtype_size(gradient.dtype));
}

}  // namespace sdpo::cpu
