// Devices, as JavaScript sees them: what there is, memory, streams, copies, errors, and evaluations that settle a
// promise later.
#pragma once

#include <napi.h>

#include "call.h"

#if defined(SDPO_WITH_CUDA)
#include "../cuda/cuda.h"
#endif

namespace sdpo {

// Adds the exports that concern devices.
void export_device(Napi::Env env, Napi::Object exports);

// Throws the error of a device call that failed; for the host it does nothing, its statuses are answers.
void check_device(Napi::Env env, const Location& location, Status status);

// evaluateAsync on a device: enqueues, and settles the promise when the device is done or has failed. No thread of the
// pool waits.
Napi::Value evaluate_on_device(const Napi::CallbackInfo& info, const Problem& problem);

#if defined(SDPO_WITH_CUDA)

// The error object of a failure, made by the function that lib/ registered.
Napi::Value device_error(Napi::Env env, Status status, const cuda::Error& error);

// Evaluations under way in one environment (a main thread or a worker); created with the addon, gone with the
// environment.
class AsyncCalls;
void destroy(AsyncCalls* calls);
AsyncCalls& async_calls(Napi::Env env);
AsyncCalls* make_async_calls(Napi::Env env);

#endif

}  // namespace sdpo
