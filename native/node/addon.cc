// The addon: evaluations of the loss, and the exports of the other files.
#include <napi.h>

#include "call.h"
#include "device.h"
#include "exports.h"
#include "worker.h"

namespace sdpo {
namespace {

Napi::Value evaluate(const Napi::CallbackInfo& info) {
  double* out = nullptr;
  const Problem problem = read_problem(info, &out);
  Failure failure;
  const Status status = backend_for(problem.tensors.kind)->evaluate(problem, &failure);
  check_device(info.Env(), problem.tensors, status);
  return Napi::Number::New(info.Env(), report(status, failure, out));
}

// reserve(...): as evaluate, whose calls then find room.
Napi::Value reserve(const Napi::CallbackInfo& info) {
  double* out = nullptr;
  const Problem problem = read_problem(info, &out);
  check_device(info.Env(), problem.tensors, backend_for(problem.tensors.kind)->reserve(problem));
  return info.Env().Undefined();
}

Napi::Value evaluate_async(const Napi::CallbackInfo& info) {
  double* out = nullptr;
  const Problem problem = read_problem(info, &out);
  if (out == nullptr) fail(info.Env(), "a call with results on a device is evaluate's");  // it returns without waiting
  if (problem.tensors.kind != Location::host) return evaluate_on_device(info, problem);
  return EvaluateWorker::start(info, problem, out);
}

Napi::Object init(Napi::Env env, Napi::Object exports) {
  add<evaluate>(env, exports, "evaluate");
  add<reserve>(env, exports, "reserve");
  exports.Set("sharesMemory", SharedMemory::available(env));
  add<evaluate_async>(env, exports, "evaluateAsync");
  export_elementwise(env, exports);
  export_memory(env, exports);
  export_results(env, exports);
  export_devices(env, exports);
  export_tables(env, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(sdpo, init)

}  // namespace sdpo
