// One call of the loss on a device: workspace, transfer of row scalars, launch, and how the call ends.
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "../core/objectives.h"
#include "arguments.h"
#include "completion.h"
#include "design.h"
#include "diagnose.h"
#include "stream.h"

namespace sdpo::cuda {
namespace {

std::string shapes_of(const Problem& p) {
  return std::to_string(p.rows) + " rows of " + std::to_string(p.size) + " " +
         kDTypeNames[static_cast<int>(p.chosen.policy.dtype)];
}

// ---- The call

class Call {
 public:
  explicit Call(const Problem& problem)
      : problem_(problem),
        device_(problem.tensors.ordinal),
        stream_(static_cast<cudaStream_t>(problem.stream)),
        on_host_(problem.scalars.kind == Location::host) {}

  ~Call() {
    if (staging_.host != nullptr) state_->give_staging(staging_);
  }
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;

  // Puts everything on the stream. `result`: whether finish() will be called, and so has to be given something to look
  // at.
  Status enqueue(bool result) {
    CUDA_ENTER(device_);
    if (problem_.abort != nullptr && problem_.abort->load(std::memory_order_relaxed) != 0) return Status::aborted;
    if (problem_.rows == 0) return empty();
    // One handle for a different stream in every thread: no workspace could belong to it.
    if (stream_ == cudaStreamPerThread)
      return report(cudaErrorNotSupported, "using the per-thread default stream", device_, "");
    state_ = stream_state(device_, stream_);
    result_ = result;
    if (on_host_ || result) {
      const Status status = state_->take_staging(problem_.rows, &staging_);
      if (status != Status::ok) return status;
    }
    // Nothing else may come between the parts of a call on this stream.
    std::lock_guard<std::mutex> lock(state_->mutex());
    if (on_host_) {
      const Status status = upload();
      if (status != Status::ok) return status;
    }
    const Status status = launch();
    if (status != Status::ok || staging_.host == nullptr) return status;
    const size_t bytes = (on_host_ ? Staging::inputs(problem_.rows) : 1) * sizeof(double);
    CUDA_TRY(cudaMemcpyAsync(staging_.host, staging_.device, bytes, cudaMemcpyDeviceToHost, stream_), "reading results",
             device_, shapes_of(problem_));
    return Status::ok;
  }

  // After the stream has come so far: results to where they belong, or what was wrong.
  Status finish(Failure* failure) {
    if (problem_.rows == 0 || staging_.host == nullptr) return Status::ok;
    const double* host = staging_.host;
    const size_t outputs = static_cast<size_t>(RowOutput::count) * static_cast<size_t>(problem_.rows);
    if (on_host_) {
      std::memcpy(problem_.row_outputs, host + Staging::outputs(), outputs * sizeof(double));
      if (problem_.passes & Pass::objective)
        std::memcpy(problem_.metrics, host + Staging::metrics(), Metric::count * sizeof(double));
    }
    unsigned long long code;
    std::memcpy(&code, host, sizeof code);
    if (code == 0) return Status::ok;
    const uint64_t number = kFailureBase - code;
    failure->row = static_cast<int64_t>(number / 2);
    if (number % 2 == RowFailure::element_weights) return Status::element_weights;
    std::vector<double> inputs, rows;
    const double *row_inputs = problem_.row_inputs, *row_outputs = problem_.row_outputs;
    if (!on_host_) {
      const Status status = download(&inputs, &rows);
      if (status != Status::ok) return status;
      row_inputs = inputs.data();
      row_outputs = rows.data();
    }
    return find_non_finite(problem_, device_, stream_, failure->row, row_inputs, row_outputs,
                           reinterpret_cast<unsigned long long*>(staging_.device), failure);
  }

 private:
  bool wants(int pass) const { return (problem_.passes & pass) != 0; }

  // No rows: the metrics of an empty batch, without a kernel.
  Status empty() {
    if (!wants(Pass::objective)) return Status::ok;
    double metrics[Metric::count];
    for (int k = 0; k < Metric::count; ++k)
      metrics[k] = batch_metric(k, problem_.options.objective, problem_.denominator, nullptr, 0);
    if (on_host_) {
      std::memcpy(problem_.metrics, metrics, sizeof metrics);
    } else {  // from pageable memory the copy has taken the values when it returns
      CUDA_TRY(cudaMemcpyAsync(problem_.metrics, metrics, sizeof metrics, cudaMemcpyHostToDevice, stream_),
               "writing metrics", device_, shapes_of(problem_));
    }
    return Status::ok;
  }

  Status upload() {
    const int64_t rows = problem_.rows;
    // Without the moments or the objective, row outputs are input too: what the caller or an earlier pass left there.
    const bool outputs = !wants(Pass::moments) || !wants(Pass::objective);
    const size_t begin = outputs ? Staging::outputs() : Staging::inputs(rows), end = Staging::doubles(rows);
    if (outputs) {
      std::memcpy(staging_.host + Staging::outputs(), problem_.row_outputs,
                  static_cast<size_t>(RowOutput::count) * static_cast<size_t>(rows) * sizeof(double));
    }
    if (problem_.row_inputs != nullptr) {
      std::memcpy(staging_.host + Staging::inputs(rows), problem_.row_inputs,
                  static_cast<size_t>(RowInput::count) * static_cast<size_t>(rows) * sizeof(double));
    }
    CUDA_TRY(cudaMemcpyAsync(staging_.device + begin, staging_.host + begin, (end - begin) * sizeof(double),
                             cudaMemcpyHostToDevice, stream_),
             "writing row scalars", device_, shapes_of(problem_));
    return Status::ok;
  }

  Status download(std::vector<double>* inputs, std::vector<double>* outputs) {
    CUDA_ENTER(device_);
    const size_t rows = static_cast<size_t>(problem_.rows);
    inputs->resize(RowInput::count * rows);
    outputs->resize(RowOutput::count * rows);
    if (problem_.row_inputs != nullptr) {
      CUDA_TRY(cudaMemcpyAsync(inputs->data(), problem_.row_inputs, inputs->size() * sizeof(double),
                               cudaMemcpyDeviceToHost, stream_),
               "diagnosing a row", device_, shapes_of(problem_));
    }
    CUDA_TRY(cudaMemcpyAsync(outputs->data(), problem_.row_outputs, outputs->size() * sizeof(double),
                             cudaMemcpyDeviceToHost, stream_),
             "diagnosing a row", device_, shapes_of(problem_));
    CUDA_TRY(cudaStreamSynchronize(stream_), "diagnosing a row", device_, shapes_of(problem_));
    return Status::ok;
  }

  Status launch() {
    const Problem& p = problem_;
    Launch how;
    const Status chosen = choose_launch(p, device_, &how);
    if (chosen != Status::ok) return chosen;
    const bool cluster = how.cluster.blocks > 0;
    LossArguments a = make_arguments(p, how.entry.pack, how.blocks);
    a.poison = !on_host_ && !result_;
    if (on_host_) {
      a.row_inputs = staging_.device + Staging::inputs(p.rows);
      a.row_outputs = staging_.device + Staging::outputs();
      a.metrics = staging_.device + Staging::metrics();
    }
    const int64_t grid = grid_blocks(how.blocks, a.order.tickets());
    const int64_t ring = cluster ? 0 : ring_of(a, grid);
    const Status room = state_->workspace(p.rows, ring, how.plain ? kPlainSums : Sum::count, &a.workspace);
    if (room != Status::ok) return room;
    // Without anybody to read it the failure stays behind the counters.
    a.failure = staging_.host != nullptr ? reinterpret_cast<unsigned long long*>(staging_.device)
                                         : reinterpret_cast<unsigned long long*>(a.workspace.control + 1);
    if (grid == 0) return nothing_to_launch(a.failure);
    if (cluster) {
      void* arguments[] = {&a, &how.cluster};
      cudaLaunchAttribute attribute;
      const cudaLaunchConfig_t config = cluster_launch(how.cluster, p.rows, stream_, &attribute);
      CUDA_TRY(cudaLaunchKernelExC(&config, how.entry.cluster_kernel, arguments), "launching the loss", device_,
               shapes_of(p));
      return Status::ok;
    }
    void* arguments[] = {&a};
    CUDA_TRY(
        cudaLaunchKernel(how.entry.kernel, dim3(static_cast<unsigned>(grid)), dim3(kThreads), arguments, 0, stream_),
        "launching the loss", device_, shapes_of(p));
    return Status::ok;
  }

  // A gradient pass that nobody wants the result of.
  Status nothing_to_launch(unsigned long long* failure) {
    CUDA_TRY(cudaMemsetAsync(failure, 0, sizeof *failure, stream_), "launching the loss", device_, shapes_of(problem_));
    return Status::ok;
  }

  const Problem problem_;
  const int device_;
  const cudaStream_t stream_;
  const bool on_host_;  // row scalars and results
  bool result_ = false;
  std::shared_ptr<StreamState> state_;
  Staging staging_;
};

// After a failure half-way: what was put on the stream before it still uses the call's buffers. Keeps the first error.
Status settle(const Problem& problem, Status status) {
  const Error error = last_error();
  if (problem.rows != 0 && status != Status::aborted)
    static_cast<void>(synchronize(problem.tensors.ordinal, problem.stream));
  set_last_error(error);
  return status;
}

}  // namespace

Status evaluate(const Problem& problem, Failure* failure) {
  Call call(problem);
  const bool on_host = problem.scalars.kind == Location::host;
  const Status status = call.enqueue(on_host);
  if (!on_host) return status;
  if (status != Status::ok) return settle(problem, status);
  const Status waited = problem.rows == 0 ? Status::ok : synchronize(problem.tensors.ordinal, problem.stream);
  return waited != Status::ok ? waited : call.finish(failure);
}

Status evaluate_async(const Problem& problem, EvaluateCompletion done) {
  const auto call = std::make_shared<Call>(problem);
  const Status status = call->enqueue(true);
  if (status != Status::ok) return settle(problem, status);
  const Status watched = when_done(problem.tensors.ordinal, problem.stream, [call, done](const Error* error) {
    Failure failure;
    if (error != nullptr) return done(Status::device, failure, error);
    const Status finished = call->finish(&failure);
    const bool device = finished == Status::device || finished == Status::out_of_memory;
    done(finished, failure, device ? &last_error() : nullptr);
  });
  return watched == Status::ok ? watched : settle(problem, watched);
}

}  // namespace sdpo::cuda
