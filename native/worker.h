// An evaluation on the CPU off the event loop: plain data in, a promise out; JavaScript values are touched on the main thread only.
#pragma once

#include <napi.h>

#include "call.h"

namespace sdpo {

// Life: constructed and queued on the main thread -> Execute on a pool thread -> OnOK or OnError on the main thread -> deleted. The
// reference keeps every array of the call alive and in place until then.
class EvaluateWorker : public Napi::AsyncWorker {
 public:
  static Napi::Value start(const Napi::CallbackInfo& info, const Problem& problem, double* failure) {
    auto* worker = new EvaluateWorker(info.Env(), problem, failure);
    Napi::Array kept = Napi::Array::New(info.Env(), info.Length());
    for (size_t i = 0; i < info.Length(); ++i) kept.Set(static_cast<uint32_t>(i), info[i]);
    worker->kept_ = Napi::Persistent(static_cast<Napi::Object>(kept));
    const Napi::Promise promise = worker->deferred_.Promise();
    worker->Queue();
    return promise;
  }

 protected:
  void Execute() override { status_ = cpu_backend().evaluate(problem_, &failure_); }

  void OnOK() override {
    Napi::HandleScope scope(Env());
    deferred_.Resolve(Napi::Number::New(Env(), report(status_, failure_, failure_out_)));
  }

  void OnError(const Napi::Error& error) override { deferred_.Reject(error.Value()); }

 private:
  EvaluateWorker(Napi::Env env, const Problem& problem, double* failure)
      : Napi::AsyncWorker(env, "sdpo:evaluate"), problem_(problem), failure_out_(failure), deferred_(env) {}

  const Problem problem_;
  double* const failure_out_;
  Napi::Promise::Deferred deferred_;
  Napi::ObjectReference kept_;
  Status status_ = Status::ok;
  Failure failure_;
};

}  // namespace sdpo
