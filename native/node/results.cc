// Array buffers for results, over memory that is kept between calls (cpu/blocks.h) and comes back with the garbage
// collector.
#include <atomic>
#include <memory>
#include <unordered_set>
#include <vector>

#include "../cpu/blocks.h"
#include "exports.h"
#include "values.h"

namespace sdpo {
namespace {

struct Lease;

// Array buffers of one environment whose finalizers have not run; touched on its thread only. Leases hold it as well,
// since finalizers may run after the environment's data is gone.
struct Leases {
  std::unordered_set<Lease*> out;  // whose blocks have not come back
  size_t unfinished = 0;           // finalizers that have not run
  napi_ref canary = nullptr;       // a weak reference to garbage: alive as long as nothing was collected
};

struct Lease {
  std::shared_ptr<Leases> leases;
  void* block;
  size_t bytes;
  napi_ref buffer;  // weak
};

// Finalizers run in turns of the event loop. What a loop without turns leaves for them is bounded: their number here, a
// few hundred bytes each, and where blocks have to wait for them, the memory.
constexpr size_t kMostUnfinished = 16384;
constexpr size_t kMostWaiting = size_t{256} << 20;

bool collected(napi_env env, napi_ref weak) {
  napi_value value = nullptr;
  return napi_get_reference_value(env, weak, &value) == napi_ok && value == nullptr;
}

void come_back(napi_env env, Lease* lease) noexcept {
  if (lease->block == nullptr) return;
  cpu::give_block(lease->block, lease->bytes);
  lease->block = nullptr;
  lease->leases->out.erase(lease);
  napi_delete_reference(env, lease->buffer);
}

// Nothing can reach the memory any more; or the environment ends, and Node has detached the buffer.
void finalize(napi_env env, void*, void* hint) noexcept {
  auto* const lease = static_cast<Lease*>(hint);
  --lease->leases->unfinished;
  come_back(env, lease);
  delete lease;
}

// A collection since the last look, told by one weak reference in place of all.
bool was_collected(napi_env env, Leases* leases) {
  if (leases->canary != nullptr) {
    if (!collected(env, leases->canary)) return false;
    napi_delete_reference(env, leases->canary);
    leases->canary = nullptr;
  }
  napi_value garbage;
  if (napi_create_object(env, &garbage) == napi_ok) napi_create_reference(env, garbage, 0, &leases->canary);
  return true;
}

// The blocks of buffers that the collector has taken, before their finalizers run.
void fetch(napi_env env, Leases* leases) {
  if (leases->out.empty() || !was_collected(env, leases)) return;
  std::vector<Lease*> gone;
  for (Lease* lease : leases->out) {
    if (collected(env, lease->buffer)) gone.push_back(lease);
  }
  for (Lease* lease : gone) come_back(env, lease);
}

size_t waiting_bytes(napi_env env, const Leases& leases) {
  size_t bytes = 0;
  for (const Lease* lease : leases.out) {
    if (collected(env, lease->buffer)) bytes += lease->bytes;
  }
  return bytes;
}

// resultBuffer(bytes, movable): an array buffer, or undefined where there is none to be had. `movable`: the memory may
// outlive its buffer, in another one (ArrayBuffer.prototype.transfer), so that the finalizer alone tells its end.
Napi::Value result_buffer(const Napi::CallbackInfo& info, const std::shared_ptr<Leases>& leases) {
  const Napi::Env env = info.Env();
  const auto bytes = static_cast<size_t>(whole(info[0]));
  static std::atomic<bool> allowed{true};
  if (!allowed || bytes == 0 || leases->unfinished >= kMostUnfinished) return env.Undefined();
  if (info[1].As<Napi::Boolean>()) {
    // Looked at in full, as there are few: each is a megabyte at least.
    if (waiting_bytes(env, *leases) > kMostWaiting) return env.Undefined();
  } else {
    fetch(env, leases.get());
  }
  void* const block = cpu::take_block(bytes);
  if (block == nullptr) return env.Undefined();
  auto lease = std::make_unique<Lease>(Lease{leases, block, bytes, nullptr});
  napi_value buffer = nullptr;
  const napi_status status = napi_create_external_arraybuffer(env, block, bytes, finalize, lease.get(), &buffer);
  if (status != napi_ok) {
    cpu::give_block(block, bytes);
    if (status == napi_no_external_buffers_allowed) allowed = false;
    return env.Undefined();
  }
  ++leases->unfinished;
  Lease* const own = lease.release();  // the finalizer's from here on
  if (napi_create_reference(env, buffer, 0, &own->buffer) != napi_ok) throw Napi::Error::New(env);
  leases->out.insert(own);
  return Napi::Value(env, buffer);
}

// resultPool(): [bytes in use, bytes idle, bound].
Napi::Value result_pool(const Napi::CallbackInfo& info) {
  const cpu::BlockUse use = cpu::block_use();
  Napi::Array out = Napi::Array::New(info.Env());
  for (const size_t bytes : {use.out, use.idle, use.bound}) out.Set(out.Length(), static_cast<double>(bytes));
  return out;
}

}  // namespace

void export_results(Napi::Env env, Napi::Object exports) {
  const auto leases = std::make_shared<Leases>();
  exports.Set("resultBuffer", Napi::Function::New(
                                  env, [leases](const Napi::CallbackInfo& info) { return result_buffer(info, leases); },
                                  "resultBuffer"));
  exports.Set("resultPool", Napi::Function::New<result_pool>(env, "resultPool"));
}

}  // namespace sdpo
