// The exports of the addon by file; binding.d.ts declares each of them.
#pragma once

#include <napi.h>

namespace sdpo {

void export_elementwise(Napi::Env env, Napi::Object exports);  // combine, noise
void export_tables(Napi::Env env, Napi::Object exports);       // tables
void export_devices(Napi::Env env, Napi::Object exports);      // devices, cuda
void export_memory(Napi::Env env, Napi::Object exports);       // memory and streams of devices, their errors
void export_results(Napi::Env env, Napi::Object exports);      // takeResult, keepResult, …

}  // namespace sdpo
