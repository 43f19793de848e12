// Moments, objective and gradient of a batch on the CPU: how rows and spans are shared by threads, and how a call ends.
#include <algorithm>
#include <cmath>
#include <condition_variable>
#include <limits>
#include <mutex>
#include <new>
#include <vector>

#include "../core/float_environment.h"
#include "../core/metrics.h"
#include "../core/row.h"
#include "cpu.h"
#include "processors.h"
#include "rows.h"
#include "threads.h"

namespace sdpo::cpu {
namespace {

constexpr int64_t kNoRow = std::numeric_limits<int64_t>::max();

// Below this many elements a call is done before a helper thread would have woken up.
constexpr int64_t kAloneBelow = 131072;

class Evaluation {
 public:
  Evaluation(const Problem& problem, const KernelTable& table)
      : problem_(problem),
        task_(make_row_task(problem)),
        kernels_(problem, table),
        table_(table),
        spans_(problem.size) {
    // The moments of every row are there by now: such a call comes in two parts.
    if (wants(Pass::objective) && needs_all_moments(problem.options)) {
      task_.batch_safeguard = batch_safeguard_factor(problem.options.safeguard, problem.row_outputs, problem.rows);
    }
  }

  Status run(Failure* failure) {
    const int threads = participants();
    CallScratch scratches(kernels_.stages() ? threads : 0);
    if (takes_whole_rows(problem_.rows, spans_, threads)) {
      share_rows(threads, scratches);
    } else {
      share_spans(threads, scratches);
    }
    const int64_t bad = first_bad_.load();
    if (bad != kNoRow) return diagnose(bad, failure);
    if (aborted()) return Status::aborted;
    if (!wants(Pass::objective)) return Status::ok;
    for (int metric = 0; metric < Metric::count; ++metric) {
      problem_.metrics[metric] =
          batch_metric(metric, problem_.options, problem_.denominator, problem_.row_outputs, problem_.rows);
    }
    return problem_.options.non_finite == NonFinite::fail ? find_overflow(failure) : Status::ok;
  }

 private:
  bool wants(int pass) const { return (problem_.passes & pass) != 0; }
  bool aborted() const { return problem_.abort != nullptr && problem_.abort->load(std::memory_order_relaxed) != 0; }
  bool stopped(int64_t row) const { return row > first_bad_.load(std::memory_order_relaxed) || aborted(); }

  int participants() const {
    const bool small = problem_.rows == 0 || problem_.size < (kAloneBelow + problem_.rows - 1) / problem_.rows;
    if (small) return 1;
    const int64_t pieces = problem_.rows * spans_.count();
    const int wanted = problem_.threads > 0 ? problem_.threads : default_threads().count;
    return static_cast<int>(std::min<int64_t>(wanted, pieces));
  }

  // ---- Two ways to hand out work; both go through the same sums in the same order.

  void share_rows(int threads, CallScratch& scratches) {
    std::atomic<int64_t> ticket{0};
    run_on_threads(threads, [&] {
      Scratch* const scratch = scratches.take();
      for (int64_t row; (row = ticket.fetch_add(1, std::memory_order_relaxed)) < problem_.rows;) {
        if (stopped(row)) continue;
        RowSums total;
        if (task_.wants_sums) {
          for (int64_t s = 0; s < spans_.count() && !aborted(); ++s) {
            add(total, kernels_.sums(row, spans_.begin(s), spans_.end(s), scratch));
          }
        }
        if (aborted()) continue;
        RowCoefficients coefficients;
        if (!finish(row, total, &coefficients) || !wants(Pass::gradients)) continue;
        // What was read last is still cached.
        for (int64_t s = spans_.count(); s-- > 0 && !aborted();) write_gradients(row, s, coefficients, scratch);
      }
    });
  }

  // Tickets in row order: the sums of a row's spans, then its gradients. A gradient waits for the row's last sum; that
  // sum was handed out earlier to a thread that is at work on it, so the wait is short and cannot form a circle.
  void share_spans(int threads, CallScratch& scratches) {
    struct RowState {
      std::vector<RowSums> sums;
      std::atomic<int64_t> remaining{0};
      std::atomic<bool> ready{false};
      RowCoefficients coefficients;
      bool valid = false;
    };
    const int64_t count = spans_.count();
    const int64_t sum_tickets = task_.wants_sums ? count : 1;  // one ticket at least runs the objective
    const int64_t tickets_per_row = sum_tickets + (wants(Pass::gradients) ? count : 0);
    std::vector<RowState> states(static_cast<size_t>(problem_.rows));
    for (RowState& state : states) {
      state.sums.resize(static_cast<size_t>(sum_tickets));
      state.remaining = sum_tickets;
    }
    std::mutex mutex;
    std::condition_variable rows_ready;
    std::atomic<int64_t> ticket{0};

    run_on_threads(threads, [&] {
      Scratch* const scratch = scratches.take();
      for (int64_t next; (next = ticket.fetch_add(1, std::memory_order_relaxed)) < problem_.rows * tickets_per_row;) {
        const int64_t row = next / tickets_per_row, step = next % tickets_per_row;
        RowState& state = states[static_cast<size_t>(row)];
        if (step < sum_tickets) {
          // A stopped ticket counts down all the same: somebody may be waiting for this row.
          if (task_.wants_sums && !stopped(row)) {
            state.sums[static_cast<size_t>(step)] = kernels_.sums(row, spans_.begin(step), spans_.end(step), scratch);
          }
          if (state.remaining.fetch_sub(1, std::memory_order_acq_rel) == 1) {
            if (!stopped(row)) {
              RowSums total;
              for (const RowSums& span : state.sums) add(total, span);
              state.valid = finish(row, total, &state.coefficients);
            }
            {
              std::lock_guard<std::mutex> lock(mutex);
              state.ready.store(true, std::memory_order_release);
            }
            rows_ready.notify_all();
          }
          continue;
        }
        if (!soon([&] { return state.ready.load(std::memory_order_acquire); })) {
          std::unique_lock<std::mutex> lock(mutex);
          rows_ready.wait(lock, [&] { return state.ready.load(std::memory_order_acquire); });
        }
        if (state.valid && !aborted()) {
          // The last span first, as above.
          write_gradients(row, tickets_per_row - 1 - step, state.coefficients, scratch);
        }
      }
    });
  }

  // ---- One row

  // False where the call has to fail.
  bool finish(int64_t row, const RowSums& sums, RowCoefficients* coefficients) {
    if (finish_row<false>(task_, row, sums, [&](const RowCoefficients& x) { *coefficients = x; }) == RowEnd::done)
      return true;
    // Rows are handed out in order, so every row before a bad one has been started and will be finished: the lowest bad
    // row is always the one reported.
    int64_t current = first_bad_.load(std::memory_order_relaxed);
    while (row < current && !first_bad_.compare_exchange_weak(current, row, std::memory_order_relaxed)) {
    }
    return false;
  }

  void write_gradients(int64_t row, int64_t span, const RowCoefficients& c, Scratch* scratch) const {
    const int64_t begin = spans_.begin(span), end = spans_.end(span);
    const Branch* const branches[] = {&problem_.chosen, &problem_.rejected};
    const double a[] = {c.a_chosen, c.a_rejected}, b[] = {c.b_chosen, c.b_rejected};
    bool numbers[2] = {};
    for (int i = 0; i < 2; ++i) {
      if (branches[i]->gradient.data == nullptr) continue;
      if (a[i] == 0 && b[i] == 0) {
        kernels_.zero_gradient(i, row, begin, end);
      } else if (std::isnan(a[i]) || (std::isnan(b[i]) && branches[i]->reference.data != nullptr)) {
        kernels_.nan_gradient(i, row, begin, end, scratch);
      } else {
        numbers[i] = true;
      }
    }
    kernels_.gradients(row, begin, end, c, numbers, scratch);
    // A row that is finite has finite elements, and NaN only where products of them overflow; if that fails the call,
    // nobody looks at the bits.
    for (int i = 0; i < 2; ++i) {
      if (numbers[i] && wants(Pass::objective) && problem_.options.non_finite != NonFinite::fail &&
          may_overflow(task_, row, i == 0, branches[i]->gradient.dtype)) {
        kernels_.make_nans_equal(i, row, begin, end);
      }
    }
  }

  // ---- Failures

  Status diagnose(int64_t row, Failure* failure) const {
    failure->row = row;
    RowSums total;
    CallScratch scratches(kernels_.stages() ? 1 : 0);
    Scratch* const scratch = scratches.take();
    for (int64_t s = 0; problem_.element_weights.data != nullptr && s < spans_.count(); ++s)
      add(total, kernels_.sums(row, spans_.begin(s), spans_.end(s), scratch));
    if (!acceptable_weights(task_, total, row)) return Status::element_weights;
    const Branch* branches[] = {&problem_.chosen, &problem_.rejected};
    for (failure->branch = 0; failure->branch < 2; ++failure->branch) {
      const Branch& branch = *branches[failure->branch];
      if (find_non_finite(branch.policy, row, FailureTensor::policy, failure) ||
          find_non_finite(branch.reference, row, FailureTensor::reference, failure) ||
          find_non_finite(branch.target, row, FailureTensor::target, failure)) {
        return Status::non_finite;
      }
      const int field = failure->branch == 0 ? RowInput::referenceErrorChosen : RowInput::referenceErrorRejected;
      if (branch.reference.data == nullptr && wants(Pass::moments) &&
          !std::isfinite(column_value(problem_.columns.fields[field], row))) {
        failure->tensor = FailureTensor::referenceError;
        return Status::non_finite;
      }
    }
    // Every input is finite: squares or the loss overflowed.
    const double error = problem_.row_outputs[RowOutput::errorChosen * problem_.rows + row] +
                         problem_.row_outputs[RowOutput::deltaChosen * problem_.rows + row];
    failure->branch = std::isfinite(error) ? 1 : 0;
    failure->tensor = FailureTensor::row;
    return Status::non_finite;
  }

  // Rows are finite, and yet their sum or a gradient may not be: only the values themselves tell.
  Status find_overflow(Failure* failure) const {
    if (!std::isfinite(problem_.metrics[Metric::batchLoss])) {
      failure->tensor = FailureTensor::batch;
      return Status::non_finite;
    }
    for (int64_t row = 0; wants(Pass::gradients) && row < problem_.rows; ++row) {
      const Branch* branches[] = {&problem_.chosen, &problem_.rejected};
      for (int branch = 0; branch < 2; ++branch) {
        const MutableTensorView& gradient = branches[branch]->gradient;
        if (gradient.data == nullptr || !may_overflow(task_, row, branch == 0, gradient.dtype)) continue;
        const TensorView view{gradient.data, gradient.row_stride, gradient.dtype};
        failure->branch = branch;
        if (!find_non_finite(view, row, FailureTensor::gradient, failure)) continue;
        failure->row = row;
        return Status::non_finite;
      }
    }
    return Status::ok;
  }

  bool find_non_finite(const TensorView& view, int64_t row, FailureTensor tensor, Failure* failure) const {
    if (view.data == nullptr) return false;
    const auto widen = [&](const TensorView& from, int64_t element, int64_t n, double* to) {
      table_.widen[static_cast<int>(from.dtype)][1](from.at(row, element), to, n);
    };
    std::vector<double> values(kTile), weights(kTile, 1.0);
    for (int64_t element = 0; element < problem_.size; element += kTile) {
      const int64_t n = std::min(kTile, problem_.size - element);
      widen(view, element, n, values.data());
      const TensorView& e = problem_.weights_of(failure->branch != 0);
      if (e.data != nullptr) widen(e, element, n, weights.data());
      for (int64_t i = 0; i < n; ++i) {
        if (!std::isfinite(values[static_cast<size_t>(i)]) && weights[static_cast<size_t>(i)] != 0) {
          failure->tensor = tensor;
          failure->element = element + i;
          return true;
        }
      }
    }
    return false;
  }

  const Problem& problem_;
  RowTask task_;
  const RowKernels kernels_;
  const KernelTable& table_;
  const Spans spans_;
  std::atomic<int64_t> first_bad_{kNoRow};
};

Status evaluate_passes(const Problem& problem, Failure* failure) {
  constexpr int kBoth = Pass::moments | Pass::objective;
  if ((problem.passes & kBoth) != kBoth || !needs_all_moments(problem.options)) {
    return Evaluation(problem, kernels()).run(failure);
  }
  Problem part = problem;
  part.passes = Pass::moments | Pass::cross;
  const Status status = Evaluation(part, kernels()).run(failure);
  if (status != Status::ok) return status;
  part.passes = problem.passes & ~part.passes;
  return Evaluation(part, kernels()).run(failure);
}

// Gives every NaN of the results the same bits: the sign of one that arithmetic makes depends on the processor.
void make_nans_equal(const Problem& problem) {
  const auto fix = [](double* values, int64_t count) {
    for (int64_t i = 0; i < count; ++i) {
      if (std::isnan(values[i])) values[i] = std::numeric_limits<double>::quiet_NaN();
    }
  };
  const bool objective = (problem.passes & Pass::objective) != 0;
  for (int field = 0; field < RowOutput::count; ++field) {
    if (objective || ((problem.passes & Pass::moments) && is_moment(field))) {
      fix(problem.row_outputs + field * problem.rows, problem.rows);
    }
  }
  if (objective) fix(problem.metrics, Metric::count);
}

}  // namespace

Status evaluate(const Problem& problem, Failure* failure) {
  const FloatEnvironment environment;
  try {
    const Status status = evaluate_passes(problem, failure);
    make_nans_equal(problem);
    return status;
  } catch (const std::bad_alloc&) {
    return Status::out_of_memory;
  }
}

}  // namespace sdpo::cpu
