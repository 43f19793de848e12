// The exports of the addon by file; binding.d.ts declares each of them.
#pragma once

#include <napi.h>

#include <new>

#include "values.h"

namespace sdpo {

// What the body of an export throws as an error of JavaScript: node-addon-api takes its own ones only, and another
// would end the process.
template <class Body>
auto as_javascript(Napi::Env env, const Body& body) -> decltype(body()) {
  try {
    return body();
  } catch (const Napi::Error&) {
    throw;
  } catch (const std::bad_alloc&) {
    throw out_of_memory(env);
  } catch (const std::exception& error) {
    fail(env, error.what());
  }
}

template <Napi::Value (*kFunction)(const Napi::CallbackInfo&)>
Napi::Value called(const Napi::CallbackInfo& info) {
  return as_javascript(info.Env(), [&] { return kFunction(info); });
}

template <Napi::Value (*kFunction)(const Napi::CallbackInfo&)>
void add(Napi::Env env, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<called<kFunction>>(env, name));
}

void export_elementwise(Napi::Env env, Napi::Object exports);  // combine, noise
void export_tables(Napi::Env env, Napi::Object exports);       // tables
void export_devices(Napi::Env env, Napi::Object exports);      // devices, cuda
void export_memory(Napi::Env env, Napi::Object exports);       // memory and streams of devices, their errors
void export_results(Napi::Env env, Napi::Object exports);      // takeResult, keepResult, …

}  // namespace sdpo
