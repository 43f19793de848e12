// One call of the loss on a device: workspace, transfer of row scalars, launch, and how the call ends.
#include <cmath>
#include <cstring>
#include <memory>
#include <mutex>
#include <vector>

#include "arguments.h"
#include "columns.h"
#include "completion.h"
#include "diagnose.h"
#include "launch.h"
#include "stream.h"

namespace sdpo::cuda {
namespace {

std::string shapes_of(const Problem& p) {
  return std::to_string(p.rows) + " rows of " + std::to_string(p.size) + " " +
         kDTypeNames[static_cast<int>(p.chosen.policy.dtype)];
}

// ---- The launch

struct Prepared {
  Launch how;
  LossArguments arguments;  // all but where row scalars lie
  int64_t grid;             // blocks
};

// Chooses the launch of a call and makes room for it in the workspace of its stream.
Status prepare(const Problem& p, StreamState& state, bool captured, Prepared* out) {
  const Status chosen = choose_launch(p, p.tensors.ordinal, &out->how);
  if (chosen != Status::ok) return chosen;
  const Launch& how = out->how;
  out->arguments = make_arguments(p, how.entry.pack);
  out->grid = grid_blocks(how.blocks, out->arguments.order.tickets());
  return state.workspace(p.rows, ring_of(out->arguments, out->grid), how.entry.sums, captured,
                         &out->arguments.workspace);
}

// One handle for a different stream in every thread: no workspace could belong to it.
Status refuse_per_thread_stream(int device) {
  return report(cudaErrorNotSupported, "using the per-thread default stream", device, "");
}

struct MetricValues {
  double v[Metric::count];
};

__global__ void write_metrics(const __grid_constant__ MetricValues values, double* metrics) {
  metrics[threadIdx.x] = values.v[threadIdx.x];
}

// ---- The call

class Call {
 public:
  explicit Call(const Problem& problem)
      : problem_(problem),
        columns_(problem.columns),
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
    if (stream_ == cudaStreamPerThread) return refuse_per_thread_stream(device_);
    bool captured = false;
    const Status asked = is_captured(device_, stream_, &captured);
    if (asked != Status::ok) return asked;
    if (captured && (on_host_ || result)) {
      return report(cudaErrorStreamCaptureUnsupported,
                    "capturing a call whose results the host reads (leave them on the device)", device_,
                    shapes_of(problem_));
    }
    if (problem_.rows == 0) return empty();
    state_ = stream_state(device_, stream_);
    result_ = result;
    if (on_host_ || result) {
      const Status status = state_->take_staging(problem_.rows, &staging_);
      if (status != Status::ok) return status;
    }
    // Nothing else may come between the parts of a call on this stream.
    std::lock_guard<std::mutex> lock(state_->mutex());
    begun_ = true;
    if (on_host_) {
      const Status status = upload();
      if (status != Status::ok) return status;
    }
    const Status status = launch(captured);
    if (status != Status::ok || staging_.host == nullptr) return status;
    const size_t bytes = (on_host_ ? Staging::lists(problem_.rows) : 1) * sizeof(double);
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
    if (code == 0) {
      const bool look = on_host_ && problem_.options.non_finite == NonFinite::fail && wants(Pass::objective);
      return look ? find_overflow(problem_, device_, stream_, scratch(), failure) : Status::ok;
    }
    const uint64_t number = kFailureBase - code;
    failure->row = static_cast<int64_t>(number / 2);
    if (number % 2 == RowFailure::element_weights) return Status::element_weights;
    return find_non_finite(problem_, device_, stream_, scratch(), failure);
  }

  // After a failure half-way: what was put on the stream before it still uses the call's buffers. Keeps the error.
  Status settle(Status status) const {
    if (!begun_) return status;
    const DeviceError error = last_error();
    static_cast<void>(synchronize(device_, problem_.stream));
    set_last_error(error);
    return status;
  }

 private:
  bool wants(int pass) const { return (problem_.passes & pass) != 0; }

  // No rows: the metrics of an empty batch. To a device they travel as arguments, which a graph keeps.
  Status empty() {
    if (!wants(Pass::objective)) return Status::ok;
    MetricValues metrics;
    for (int k = 0; k < Metric::count; ++k)
      metrics.v[k] = batch_metric(k, problem_.options, problem_.denominator, nullptr, 0);
    if (on_host_) {
      std::memcpy(problem_.metrics, metrics.v, sizeof metrics.v);
    } else {
      write_metrics<<<1, Metric::count, 0, stream_>>>(metrics, problem_.metrics);
      CUDA_TRY(cudaGetLastError(), "writing metrics", device_, shapes_of(problem_));
    }
    return Status::ok;
  }

  Status upload() {
    const int64_t rows = problem_.rows;
    // Without the moments or the objective, row outputs are input too: what the caller or an earlier pass left there.
    const bool outputs = !wants(Pass::moments) || !wants(Pass::objective);
    const size_t lists = Staging::lists(rows), begin = outputs ? Staging::outputs() : lists;
    const int64_t count = gather_lists(&columns_, rows, staging_.host + lists, staging_.device + lists);
    const size_t end = lists + static_cast<size_t>(count);
    if (begin == end) return Status::ok;
    if (outputs) {
      std::memcpy(staging_.host + Staging::outputs(), problem_.row_outputs,
                  static_cast<size_t>(RowOutput::count) * static_cast<size_t>(rows) * sizeof(double));
    }
    CUDA_TRY(cudaMemcpyAsync(staging_.device + begin, staging_.host + begin, (end - begin) * sizeof(double),
                             cudaMemcpyHostToDevice, stream_),
             "writing row scalars", device_, shapes_of(problem_));
    return Status::ok;
  }

  unsigned long long* scratch() const { return reinterpret_cast<unsigned long long*>(staging_.device); }

  // Room for all parts before the first of them is launched: a workspace that grows moves.
  Status launch(bool captured) {
    const Parts parts = parts_of(problem_);
    Problem part = problem_;
    Prepared prepared;
    for (int k = 0; k < parts.count; ++k) {
      part.passes = parts.passes[k];
      const Status room = prepare(part, *state_, captured, &prepared);
      if (room != Status::ok) return room;
    }
    if (!on_host_) {
      double* const room = prepared.arguments.workspace.lists;
      const Status sent = send_lists(&columns_, problem_.rows, room, device_, stream_);
      if (sent != Status::ok) return sent;
    }
    for (int k = 0; k < parts.count; ++k) {
      part.passes = parts.passes[k];
      Status status = prepare(part, *state_, captured, &prepared);
      if (status == Status::ok) status = launch(prepared);
      if (status != Status::ok) return status;
    }
    return Status::ok;
  }

  Status launch(Prepared& prepared) {
    auto& [how, a, grid] = prepared;
    a.columns = columns_;
    a.poison = !on_host_ && !result_;
    if (on_host_) {
      a.outputs = staging_.device + Staging::outputs();
      a.metrics = staging_.device + Staging::metrics();
    }
    // Without anybody to read it the failure stays behind the counters.
    a.failure = staging_.host != nullptr ? scratch() : reinterpret_cast<unsigned long long*>(a.workspace.control + 1);
    if (grid == 0) return nothing_to_launch(a.failure);
    void* arguments[] = {&a};
    CUDA_TRY(
        cudaLaunchKernel(how.entry.kernel, dim3(static_cast<unsigned>(grid)), dim3(kThreads), arguments, 0, stream_),
        "launching the loss", device_, shapes_of(problem_));
    return Status::ok;
  }

  // A gradient pass that nobody wants the result of.
  Status nothing_to_launch(unsigned long long* failure) {
    CUDA_TRY(cudaMemsetAsync(failure, 0, sizeof *failure, stream_), "launching the loss", device_, shapes_of(problem_));
    return Status::ok;
  }

  const Problem problem_;
  RowColumns columns_;  // those of the problem, in device memory from the upload on
  const int device_;
  const cudaStream_t stream_;
  const bool on_host_;  // row scalars and results
  bool result_ = false;
  bool begun_ = false;  // something may be on the stream
  std::shared_ptr<StreamState> state_;
  Staging staging_;
};

}  // namespace

Status reserve(const Problem& problem) {
  const int device = problem.tensors.ordinal;
  CUDA_ENTER(device);
  const auto stream = static_cast<cudaStream_t>(problem.stream);
  if (stream == cudaStreamPerThread) return refuse_per_thread_stream(device);
  bool captured = false;
  const Status asked = is_captured(device, stream, &captured);
  if (asked != Status::ok || problem.rows == 0) return asked;
  const std::shared_ptr<StreamState> state = stream_state(device, stream);
  std::lock_guard<std::mutex> lock(state->mutex());
  const int moments = Pass::moments | (problem.passes & Pass::cross);
  for (const int passes : {moments | Pass::objective | Pass::gradients, moments | Pass::objective, moments,
                           static_cast<int>(Pass::objective), static_cast<int>(Pass::gradients)}) {
    Problem whole = problem;
    whole.passes = passes;
    const Parts parts = parts_of(whole);
    for (int k = 0; k < parts.count; ++k) {
      Problem part = whole;
      part.passes = parts.passes[k];
      Prepared prepared;
      const Status room = prepare(part, *state, captured, &prepared);
      if (room != Status::ok) return room;
    }
  }
  return load_send_lists(device);
}

Status evaluate(const Problem& problem, Failure* failure) {
  Call call(problem);
  const bool on_host = problem.scalars.kind == Location::host;
  const Status status = call.enqueue(on_host);
  if (!on_host) return status;
  if (status != Status::ok) return call.settle(status);
  const Status waited = problem.rows == 0 ? Status::ok : synchronize(problem.tensors.ordinal, problem.stream);
  return waited != Status::ok ? waited : call.finish(failure);
}

Status evaluate_async(const Problem& problem, EvaluateCompletion done) {
  const auto call = std::make_shared<Call>(problem);
  const Status status = call->enqueue(true);
  if (status != Status::ok) return call->settle(status);
  const Status watched = when_done(problem.tensors.ordinal, problem.stream, [call, done](const DeviceError* error) {
    Failure failure;
    if (error != nullptr) return done(Status::device, failure, error);
    const Status finished = call->finish(&failure);
    const bool device = finished == Status::device || finished == Status::out_of_memory;
    done(finished, failure, device ? &last_error() : nullptr);
  });
  return watched == Status::ok ? watched : call->settle(watched);
}

}  // namespace sdpo::cuda
