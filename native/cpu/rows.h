// One row of a problem on the CPU: its spans, the sums over a span, and the gradient of a span, whatever the mixture of
// dtypes.
#pragma once

#include "../core/row.h"
#include "kernels.h"
#include "scratch.h"

namespace sdpo::cpu {

// A row is cut into spans, the pieces that threads share and whose sums are added in span order. The cut depends on D
// alone, so the result does not depend on the number of threads: at least 16,384 elements (a few microseconds of work),
// at most 64 spans.
struct Spans {
  int64_t size;   // D
  int64_t width;  // elements of a span, a multiple of kTile

  explicit Spans(int64_t d);
  int64_t count() const { return size == 0 ? 0 : (size + width - 1) / width; }
  int64_t begin(int64_t span) const { return span * width; }
  int64_t end(int64_t span) const { return begin(span) + width < size ? begin(span) + width : size; }
};

// Whether each of the threads of a call takes whole rows, or all of them the spans of a row.
bool takes_whole_rows(int64_t rows, const Spans& spans, int threads);

void add(RowSums& total, const RowSums& part);

// The branches of a function are numbered: 0 is chosen, 1 rejected.
class RowKernels {
 public:
  RowKernels(const Problem& problem, const KernelTable& table);

  // Whether tensors are converted on the way, for which the functions below need scratch.
  bool stages() const { return stages_; }

  // Sums over the elements [begin, end) of a row; only those of the weights where the moments pass is not asked for.
  RowSums sums(int64_t row, int64_t begin, int64_t end, Scratch* scratch) const;

  // Writes e (a d + b h) of the branches that are wanted, chosen and rejected, for the elements [begin, end); a
  // coefficient of the caller includes the 2/D.
  void gradients(int64_t row, int64_t begin, int64_t end, const RowCoefficients& c, const bool* wanted,
                 Scratch* scratch) const;

  // Writes zeros, without reading anything: the gradient of a removed row.
  void zero_gradient(int of, int64_t row, int64_t begin, int64_t end) const;

  // Writes NaN, and zeros where the weight is 0, with the same bits on every processor: the gradient of a NaN
  // coefficient.
  void nan_gradient(int of, int64_t row, int64_t begin, int64_t end, Scratch* scratch) const;

  // Gives every NaN of a gradient the same bits: which one arithmetic makes depends on the instructions.
  void make_nans_equal(int of, int64_t row, int64_t begin, int64_t end) const;

 private:
  const void* weights(int i, int64_t row, int64_t element, int64_t n, Scratch* scratch, int tile) const;
  void add_weights(const void* weights, int64_t n, double* sum, double* lowest) const;
  const void* staged(const TensorView& view, int64_t row, int64_t element, int64_t n, Scratch* scratch, int tile) const;
  bool direct(const Branch& branch) const;
  int kernel_of(int i) const;
  BranchTile tile(int i, bool with_reference, int64_t row, int64_t element, int64_t n, const void* weights,
                  Scratch* scratch) const;
  void add_moments(int64_t row, int64_t element, int64_t n, const void* const* weights, Scratch* scratch,
                   RowSums* total) const;

  const Branch& branch(int i) const { return i == 0 ? problem_.chosen : problem_.rejected; }

  const Problem& problem_;
  const KernelTable& table_;
  DType compute_;  // float64 when any tensor of the batch is, else float32
  bool stages_ = false;
  bool direct_[2];  // whether a kernel can read the tensors of a branch as they are
  bool together_;   // and one call those of both
  bool streams_;    // gradients are written past the caches: the tensors of the batch do not fit there
};

}  // namespace sdpo::cpu
