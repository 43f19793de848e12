// What JavaScript owns of a device, and the arguments that all exports about devices share.
#pragma once

#include <napi.h>

#include "device_addon.h"

#if defined(SDPO_WITH_CUDA)

namespace sdpo {

// Memory, a stream or a graph of a device, freed by an explicit call or by the garbage collector, whichever comes
// first.
struct Owned {
  enum Kind { memory, stream, graph } kind;
  int device;
  void* handle;
  int64_t bytes;
};

Napi::Value owner(Napi::Env env, Owned::Kind kind, int device, void* handle, int64_t bytes);

Owned& owned_at(const Napi::CallbackInfo& info, size_t index);

// Gives back what is owned. It never throws: it runs in finalizers, and what fails here is a device whose context is
// lost and has nothing to give back any more; later calls report that.
void give_back(napi_env env, Owned* owned) noexcept;

// A device that is not the host.
int ordinal_at(const Napi::CallbackInfo& info, size_t index);

size_t size_at(const Napi::CallbackInfo& info, size_t index);

// Throws the error of a call on a device that failed.
void check(Napi::Env env, int device, Status status);

}  // namespace sdpo

#endif
