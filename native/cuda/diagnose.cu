// After a call has failed: a search through the tensors of one row for the first value that is not finite.
#include <cmath>

#include "../core/row.h"
#include "diagnose.h"
#include "pack.cuh"
#include "policy.h"

namespace sdpo::cuda {
namespace {

constexpr unsigned long long kNone = ~0ull;
constexpr int kSearchBlocks = 256,
              kSearchThreads = 128;  // enough to read a row quickly; this is the way of an error, not of a call

__device__ double element_of(const char* row, DType type, int64_t i) {
  double value = 0;
  with_format(type, [&](auto storage) {
    using T = decltype(storage);
    value = static_cast<double>(load_element(reinterpret_cast<const T*>(row) + i));
  });
  return value;
}

// The lowest index of an element with a weight whose value is not finite.
__global__ void search(const char* row, DType type, const char* weights, DType weight_type, int64_t size,
                       unsigned long long* first) {
  unsigned long long lowest = kNone;
  for (int64_t i = blockIdx.x * static_cast<int64_t>(blockDim.x) + threadIdx.x; i < size;
       i += gridDim.x * static_cast<int64_t>(blockDim.x)) {
    if (isfinite(element_of(row, type, i))) continue;
    if (weights != nullptr && element_of(weights, weight_type, i) == 0) continue;
    lowest = static_cast<unsigned long long>(i);
    break;
  }
  if (lowest != kNone) atomicMin(first, lowest);
}

// *element: the index, or -1.
Status search_row(const Problem& problem, bool of_rejected, const TensorView& view, int device, cudaStream_t stream,
                  int64_t row, unsigned long long* scratch, int64_t* element) {
  *element = -1;
  if (view.data == nullptr) return Status::ok;
  const TensorView& e = problem.weights_of(of_rejected);
  unsigned long long found = kNone;
  CUDA_TRY(cudaMemcpyAsync(scratch, &found, sizeof found, cudaMemcpyHostToDevice, stream), "diagnosing a row", device,
           std::string());
  search<<<kSearchBlocks, kSearchThreads, 0, stream>>>(
      static_cast<const char*>(view.at(row, 0)), view.dtype,
      e.data == nullptr ? nullptr : static_cast<const char*>(e.at(row, 0)), e.dtype, problem.size, scratch);
  CUDA_TRY(cudaGetLastError(), "diagnosing a row", device, std::string());
  CUDA_TRY(cudaMemcpyAsync(&found, scratch, sizeof found, cudaMemcpyDeviceToHost, stream), "diagnosing a row", device,
           std::string());
  CUDA_TRY(cudaStreamSynchronize(stream), "diagnosing a row", device, std::string());
  if (found != kNone) *element = static_cast<int64_t>(found);
  return Status::ok;
}

// One number of the row outputs or of the numbers per row, from where it lies.
Status read_number(const void* data, DType dtype, bool on_host, int64_t index, int device, cudaStream_t stream,
                   double* out) {
  RowColumn column;
  column.data = data;
  column.dtype = dtype;
  if (on_host) {
    *out = column_value(column, index);
    return Status::ok;
  }
  double value = 0;  // of either dtype
  const size_t bytes = dtype_size(dtype);
  const char* const from = static_cast<const char*>(data) + static_cast<size_t>(index) * bytes;
  CUDA_TRY(cudaMemcpyAsync(&value, from, bytes, cudaMemcpyDeviceToHost, stream), "diagnosing a row", device,
           std::string());
  CUDA_TRY(cudaStreamSynchronize(stream), "diagnosing a row", device, std::string());
  column.data = &value;
  *out = column_value(column, 0);
  return Status::ok;
}

}  // namespace

Status find_non_finite(const Problem& problem, int device, cudaStream_t stream, unsigned long long* scratch,
                       Failure* failure) {
  CUDA_ENTER(device);
  const int64_t row = failure->row;
  const Branch* branches[] = {&problem.chosen, &problem.rejected};
  for (failure->branch = 0; failure->branch < 2; ++failure->branch) {
    const Branch& branch = *branches[failure->branch];
    const TensorView* views[] = {&branch.policy, &branch.reference, &branch.target};
    const FailureTensor names[] = {FailureTensor::policy, FailureTensor::reference, FailureTensor::target};
    for (int k = 0; k < 3; ++k) {
      const Status status =
          search_row(problem, failure->branch != 0, *views[k], device, stream, row, scratch, &failure->element);
      if (status != Status::ok) return status;
      if (failure->element < 0) continue;
      failure->tensor = names[k];
      return Status::non_finite;
    }
    if (branch.reference.data != nullptr || !(problem.passes & Pass::moments)) continue;
    const RowColumn& column =
        problem.columns
            .fields[failure->branch == 0 ? RowInput::referenceErrorChosen : RowInput::referenceErrorRejected];
    double error = column.value;
    if (column.data != nullptr) {
      const Status status = read_number(column.data, column.dtype, column.on_host, row, device, stream, &error);
      if (status != Status::ok) return status;
    }
    if (std::isfinite(error)) continue;
    failure->tensor = FailureTensor::referenceError;
    return Status::non_finite;
  }
  // Every input is finite: squares or the loss overflowed.
  double values[2];
  const RowOutput::Index fields[] = {RowOutput::errorChosen, RowOutput::deltaChosen};
  for (int k = 0; k < 2; ++k) {
    const Status status = read_number(problem.row_outputs, DType::float64, problem.scalars.kind == Location::host,
                                      fields[k] * problem.rows + row, device, stream, &values[k]);
    if (status != Status::ok) return status;
  }
  failure->branch = std::isfinite(values[0] + values[1]) ? 1 : 0;
  failure->tensor = FailureTensor::row;
  return Status::non_finite;
}

Status find_overflow(const Problem& problem, int device, cudaStream_t stream, unsigned long long* scratch,
                     Failure* failure) {
  if (!std::isfinite(problem.metrics[Metric::batchLoss])) {
    failure->tensor = FailureTensor::batch;
    return Status::non_finite;
  }
  if (!(problem.passes & Pass::gradients)) return Status::ok;
  CUDA_ENTER(device);
  const RowTask task = make_row_task(problem);
  const Branch* branches[] = {&problem.chosen, &problem.rejected};
  for (int64_t row = 0; row < problem.rows; ++row) {
    for (int branch = 0; branch < 2; ++branch) {
      const MutableTensorView& gradient = branches[branch]->gradient;
      if (gradient.data == nullptr || !may_overflow(task, row, branch == 0, gradient.dtype)) continue;
      const TensorView view{gradient.data, gradient.row_stride, gradient.dtype};
      int64_t element = -1;
      const Status status = search_row(problem, branch != 0, view, device, stream, row, scratch, &element);
      if (status != Status::ok) return status;
      if (element < 0) continue;
      *failure = {row, branch, FailureTensor::gradient, element};
      return Status::non_finite;
    }
  }
  return Status::ok;
}

}  // namespace sdpo::cuda
