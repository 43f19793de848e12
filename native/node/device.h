// Devices, as JavaScript sees them: how their failures become errors, and evaluations that settle a promise later.
#pragma once

#include <napi.h>

#include "call.h"

namespace sdpo {

// The device half of the backend for a location that is not the host.
inline const DeviceBackend& device_of(const Location& where) { return *backend_for(where.kind)->device; }

// The error object of a failure, made by the function that lib/ registered.
Napi::Value device_error(Napi::Env env, Status status, const DeviceError& error);

// Throws the error of a device call that failed; for the host it does nothing, its statuses are answers.
void check_device(Napi::Env env, const Location& where, Status status);

// evaluateAsync on a device: enqueues, and settles the promise when the device is done or has failed. No thread of the
// pool waits.
Napi::Value evaluate_on_device(const Napi::CallbackInfo& info, const Problem& problem);

// Evaluations under way in one environment (a main thread or a worker); created with the addon, gone with the
// environment.
class AsyncCalls;
AsyncCalls* make_async_calls(Napi::Env env);
void destroy(AsyncCalls* calls);
AsyncCalls& async_calls(Napi::Env env);

}  // namespace sdpo
