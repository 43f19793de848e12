// An evaluation on the CPU off the event loop: plain data in, a promise out; JavaScript values are touched on the main
// thread only.
#pragma once

#include <napi.h>

#include <memory>

#include "call.h"
#include "shared_memory.h"

namespace sdpo {

// Life: constructed and queued on the main thread -> Execute on a pool thread -> OnOK or OnError on the main thread ->
// deleted. The reference keeps every array of the call alive until then, and the shares its memory, whoever takes it
// from the array meanwhile.
class EvaluateWorker : public Napi::AsyncWorker {
 public:
  static Napi::Value start(const Napi::CallbackInfo& info, const Problem& problem, double* failure) {
    std::unique_ptr<EvaluateWorker> worker(new EvaluateWorker(info.Env(), problem, failure));
    Napi::Array kept = Napi::Array::New(info.Env(), info.Length());
    for (size_t i = 0; i < info.Length(); ++i) {
      kept.Set(static_cast<uint32_t>(i), info[i]);
      if (info[i].IsTypedArray()) worker->memory_.add(info.Env(), info[i]);
    }
    worker->kept_ = Napi::Persistent(static_cast<Napi::Object>(kept));
    napi_value promise = nullptr;
    if (napi_create_promise(info.Env(), &worker->deferred_, &promise) != napi_ok) {
      throw Napi::Error::New(info.Env());
    }
    worker->Queue();
    static_cast<void>(worker.release());  // from here on it deletes itself
    return Napi::Value(info.Env(), promise);
  }

 protected:
  void Execute() override { status_ = backend_for(Location::host)->evaluate(problem_, &failure_); }

  // Plain Node-API calls whose failure is ignored: they fail where a worker thread is being terminated, which can run
  // no JavaScript any more. Nobody waits for the promise then, and a C++ exception could not be turned into a
  // JavaScript one.
  void OnOK() override {
    napi_value status = nullptr;
    if (napi_create_int32(Env(), report(status_, failure_, failure_out_), &status) == napi_ok) {
      napi_resolve_deferred(Env(), deferred_, status);
    }
  }

  void OnError(const Napi::Error& error) override { napi_reject_deferred(Env(), deferred_, error.Value()); }

 private:
  EvaluateWorker(Napi::Env env, const Problem& problem, double* failure)
      : Napi::AsyncWorker(env, "sdpo:evaluate"), problem_(problem), failure_out_(failure) {}

  const Problem problem_;
  double* const failure_out_;
  napi_deferred deferred_ = nullptr;
  Napi::ObjectReference kept_;
  SharedMemory memory_;
  Status status_ = Status::ok;
  Failure failure_;
};

}  // namespace sdpo
