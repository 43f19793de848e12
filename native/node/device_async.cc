// Evaluations on a device that settle a promise later: from the completion thread to the thread of the environment that
// asked.
#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "device.h"

namespace sdpo {
namespace {

// Plain memory of one call. The completion thread writes here and never into JavaScript arrays: it may run after their
// environment has ended, or after their buffers were transferred.
struct Work {
  uint64_t ticket = 0;
  const DeviceBackend* device = nullptr;
  std::vector<double> lists, row_outputs, metrics;
  Status status = Status::ok;
  Failure failure;
  DeviceError error;
};

// Where finished calls wait for their environment. Completion threads hold it as well, so it outlives the environment.
struct Mailbox {
  std::mutex mutex;
  bool open = true;
  napi_threadsafe_function wake = nullptr;
  std::deque<std::shared_ptr<Work>> finished;

  // From any thread. Once the environment ends there is nobody to tell.
  void deliver(std::shared_ptr<Work> work) {
    std::lock_guard<std::mutex> lock(mutex);
    if (!open) return;
    finished.push_back(std::move(work));
    napi_call_threadsafe_function(wake, nullptr, napi_tsfn_nonblocking);
  }
};

// What belongs to JavaScript in a call; touched on the environment's thread only. The reference keeps all arguments
// alive. Without a destructor: when an environment ends it takes its references along.
struct Pending {
  napi_ref arguments;
  napi_deferred deferred;
};

void check_napi(Napi::Env env, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(env);
}

}  // namespace

class AsyncCalls {
 public:
  explicit AsyncCalls(Napi::Env env) {
    const Napi::String name = Napi::String::New(env, "sdpo:evaluate");
    check_napi(env, napi_create_threadsafe_function(env, nullptr, nullptr, name, 0, 1, nullptr, nullptr, this, on_wake,
                                                    &mailbox_->wake));
    // An environment stays alive for a call under way, not for the possibility of one.
    check_napi(env, napi_unref_threadsafe_function(env, mailbox_->wake));
    // Hooks run in reverse order: the mailbox is closed before Node takes the function away that wakes the environment.
    check_napi(env, napi_add_env_cleanup_hook(env, close, mailbox_.get()));
  }

  AsyncCalls(const AsyncCalls&) = delete;
  AsyncCalls& operator=(const AsyncCalls&) = delete;

  Napi::Value start(const Napi::CallbackInfo& info, Problem problem) {
    const Napi::Env env = info.Env();
    const auto work = std::make_shared<Work>();
    work->ticket = next_ticket_++;
    work->device = &device_of(problem.tensors);
    const size_t rows = static_cast<size_t>(problem.rows);
    keep_lists(work.get(), &problem.columns, rows);
    work->row_outputs.assign(problem.row_outputs, problem.row_outputs + RowOutput::count * rows);
    work->metrics.assign(problem.metrics, problem.metrics + Metric::count);
    problem.row_outputs = work->row_outputs.data();
    problem.metrics = work->metrics.data();
    problem.abort = nullptr;  // looked at when the call settles; the device cannot be called back

    Napi::Array arguments = Napi::Array::New(env, info.Length());
    for (size_t i = 0; i < info.Length(); ++i) arguments.Set(static_cast<uint32_t>(i), info[i]);
    Pending pending{};
    napi_value promise;
    check_napi(env, napi_create_promise(env, &pending.deferred, &promise));
    check_napi(env, napi_create_reference(env, arguments, 1, &pending.arguments));
    pending_.emplace(work->ticket, pending);
    if (pending_.size() == 1) napi_ref_threadsafe_function(env, mailbox_->wake);

    const std::shared_ptr<Mailbox> mailbox = mailbox_;
    Status status;
    try {
      status = work->device->evaluate_async(
          problem, [mailbox, work](Status ended, const Failure& failure, const DeviceError* error) {
            work->status = ended;
            work->failure = failure;
            if (error != nullptr) work->error = *error;
            mailbox->deliver(work);
          });
    } catch (...) {  // the caller gets this in place of the promise, which would keep the environment alive
      napi_delete_reference(env, take(env, work->ticket).arguments);
      throw;
    }
    if (status != Status::ok) {  // then nobody calls back, and nothing of the call is in use
      work->status = status;
      work->error = work->device->last_error();
      settle(env, *work);
    }
    return Napi::Value(env, promise);
  }

 private:
  // Lists of the host move into the work: their arrays may be written again once the call has returned.
  static void keep_lists(Work* work, RowColumns* columns, size_t rows) {
    work->lists.reserve(RowInput::count * rows);
    for (RowColumn& column : columns->fields) {
      if (column.data == nullptr || !column.on_host) continue;
      const auto* const list = static_cast<const double*>(column.data);
      column.data = work->lists.data() + work->lists.size();
      work->lists.insert(work->lists.end(), list, list + rows);
    }
  }

  static void close(void* data) {
    auto* const mailbox = static_cast<Mailbox*>(data);
    std::lock_guard<std::mutex> lock(mailbox->mutex);
    mailbox->open = false;
    mailbox->finished.clear();
  }

  // On the environment's thread; without an environment while Node takes the function away.
  static void on_wake(napi_env env, napi_value, void* context, void*) {
    if (env == nullptr) return;
    auto* const calls = static_cast<AsyncCalls*>(context);
    std::deque<std::shared_ptr<Work>> finished;
    {
      std::lock_guard<std::mutex> lock(calls->mailbox_->mutex);
      finished.swap(calls->mailbox_->finished);
    }
    for (const std::shared_ptr<Work>& work : finished) {
      try {
        calls->settle(Napi::Env(env), *work);
      } catch (...) {
        // A worker that is being terminated can run no JavaScript any more, and nobody waits for its promises.
      }
    }
  }

  Pending take(napi_env env, uint64_t ticket) {
    const auto found = pending_.find(ticket);
    const Pending pending = found->second;
    pending_.erase(found);
    if (pending_.empty()) napi_unref_threadsafe_function(env, mailbox_->wake);
    return pending;
  }

  void settle(Napi::Env env, const Work& work) {
    const Napi::HandleScope scope(env);
    const Pending pending = take(env, work.ticket);
    try {
      napi_value arguments;
      check_napi(env, napi_get_reference_value(env, pending.arguments, &arguments));
      napi_delete_reference(env, pending.arguments);
      if (work.status == Status::device || work.status == Status::out_of_memory) {
        napi_reject_deferred(env, pending.deferred, device_error(env, work.status, work.error));
      } else {
        napi_resolve_deferred(env, pending.deferred, Napi::Number::New(env, answer(Napi::Array(env, arguments), work)));
      }
    } catch (const Napi::Error& error) {
      napi_reject_deferred(env, pending.deferred, error.Value());
    } catch (const std::bad_alloc&) {
      napi_reject_deferred(env, pending.deferred, out_of_memory(env).Value());
    }
  }

  // Hands the results to the arrays of the call and answers its status.
  static int answer(const Napi::Array& arguments, const Work& work) {
    const ArrayMemory abort = array_memory(arguments[static_cast<uint32_t>(kAbort)]);
    if (abort.present && abort.length > 0 && static_cast<const int32_t*>(abort.data)[0] != 0)
      return static_cast<int>(Status::aborted);
    hand(work.row_outputs, arguments[static_cast<uint32_t>(kRowOutputs)]);
    const ArrayMemory metrics = hand(work.metrics, arguments[static_cast<uint32_t>(kMetrics)]);
    return report(work.status, work.failure, static_cast<double*>(metrics.data) + Metric::count);
  }

  static ArrayMemory hand(const std::vector<double>& from, const Napi::Value& to) {
    const ArrayMemory memory = array_memory(to);
    if (memory.length < from.size())
      fail(to.Env(), "the arrays of a result were transferred while a call was under way");
    if (!from.empty()) std::copy(from.begin(), from.end(), static_cast<double*>(memory.data));
    return memory;
  }

  const std::shared_ptr<Mailbox> mailbox_ = std::make_shared<Mailbox>();
  std::map<uint64_t, Pending> pending_;
  uint64_t next_ticket_ = 0;
};

AsyncCalls* make_async_calls(Napi::Env env) { return new AsyncCalls(env); }

void destroy(AsyncCalls* calls) { delete calls; }

Napi::Value evaluate_on_device(const Napi::CallbackInfo& info, const Problem& problem) {
  return async_calls(info.Env()).start(info, problem);
}

}  // namespace sdpo
