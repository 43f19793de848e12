// The ceilings of the CPU benchmarks: the memory traffic of a call without its arithmetic, on the very arrays and
// threads of the call.
//
// A Node-API module of one function, built by benchmarks/providers/probe.ts and not part of the package:
//   run(kind, inputs, outputs, rows, rowElements, elementBytes, threads)
// inputs: policy, reference and target of the chosen branch, then of the rejected one; outputs: the two gradients, or
// an empty array.
#include <node_api.h>

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "../../native/cpu/rows.h"
#include "../../native/cpu/threads.h"

namespace {

#if defined(__AVX512F__)
constexpr int kVectorBytes = 64;
#elif defined(__AVX__)
constexpr int kVectorBytes = 32;
#else
constexpr int kVectorBytes = 16;
#endif
typedef unsigned char Vector __attribute__((vector_size(kVectorBytes)));

// Loads in groups, so that as many are under way as the processor can hold.
constexpr int kUnroll = 4;
constexpr int64_t kStep = kUnroll * kVectorBytes;

inline Vector load(const char* p) {
  Vector v;
  std::memcpy(&v, p, sizeof v);
  return v;
}

// The value has to be in a register here, and nothing is computed from it.
inline void consume(const Vector& v) {
#if defined(__x86_64__)
  asm volatile("" ::"x"(v));
#else
  asm volatile("" ::"w"(v));
#endif
}

// Calls `step` for the vectors of [begin, end), in groups from the first line of `p` on: loads and stores that cross
// lines would be no ceiling. What is left at both ends is covered by a vector that overlaps its neighbour.
template <class Step>
inline void each_vector(const char* p, int64_t begin, int64_t end, const Step& step) {
  if (end - begin < kVectorBytes) return;
  step(begin);
  int64_t i = begin + static_cast<int64_t>(-reinterpret_cast<uintptr_t>(p + begin) % kVectorBytes);
  for (; i + kStep <= end; i += kStep) {
    for (int k = 0; k < kUnroll; ++k) step(i + k * kVectorBytes);
  }
  for (; i + kVectorBytes <= end; i += kVectorBytes) step(i);
  step(end - kVectorBytes);
}

inline void read(const char* const* in, int count, int64_t begin, int64_t end) {
  each_vector(in[0], begin, end, [&](int64_t at) {
    for (int tensor = 0; tensor < count; ++tensor) consume(load(in[tensor] + at));
  });
}

// Reads `count` tensors and writes the first of them.
inline void copy(const char* const* in, int count, char* out, int64_t begin, int64_t end) {
  each_vector(out, begin, end, [&](int64_t at) {
    const Vector v = load(in[0] + at);
    for (int tensor = 1; tensor < count; ++tensor) consume(load(in[tensor] + at));
    std::memcpy(out + at, &v, sizeof v);
  });
}

// traffic: what evaluate moves, three reads per branch, and then (with outputs) two reads and a write, row by row, the
// second pass from the end. floor: each tensor once, three reads and a write.
enum Kind : int { traffic = 0, floor_of_four = 1 };

struct Call {
  Kind kind = traffic;
  const char* in[2][3] = {};
  char* out[2] = {};
  int64_t rows = 0, element_bytes = 0;
  sdpo::cpu::Spans spans{0};
};

void first_pass(const Call& call, int64_t row, int64_t span) {
  const int64_t start = row * call.spans.size;
  for (int64_t e = call.spans.begin(span); e < call.spans.end(span); e += sdpo::cpu::kTile) {
    const int64_t end = std::min(e + sdpo::cpu::kTile, call.spans.end(span));
    for (int branch = 0; branch < 2; ++branch) {
      const int64_t from = (start + e) * call.element_bytes, to = (start + end) * call.element_bytes;
      if (call.kind == floor_of_four && call.out[branch] != nullptr) {
        copy(call.in[branch], 3, call.out[branch], from, to);
      } else {
        read(call.in[branch], 3, from, to);
      }
    }
  }
}

void second_pass(const Call& call, int64_t row, int64_t span) {
  const int64_t start = row * call.spans.size;
  for (int branch = 0; branch < 2; ++branch) {
    const char* const in[] = {call.in[branch][0], call.in[branch][2]};
    copy(in, 2, call.out[branch], (start + call.spans.begin(span)) * call.element_bytes,
         (start + call.spans.end(span)) * call.element_bytes);
  }
}

// Rows or spans are shared as evaluate shares them, except that a thread that has to wait for a row spins: waking up
// costs a ceiling nothing.
void run(const Call& call, int threads) {
  const bool twice = call.kind == traffic && call.out[0] != nullptr;
  const int64_t count = call.spans.count();
  if (threads > call.rows * count) threads = static_cast<int>(call.rows * count);
  std::atomic<int64_t> ticket{0};
  if (sdpo::cpu::takes_whole_rows(call.rows, call.spans, threads)) {
    sdpo::cpu::run_on_threads(threads, [&] {
      for (int64_t row; (row = ticket.fetch_add(1, std::memory_order_relaxed)) < call.rows;) {
        for (int64_t s = 0; s < count; ++s) first_pass(call, row, s);
        if (!twice) continue;
        for (int64_t s = count; s-- > 0;) second_pass(call, row, s);
      }
    });
    return;
  }
  std::vector<std::atomic<int64_t>> remaining(static_cast<size_t>(call.rows));
  for (auto& left : remaining) left = count;
  const int64_t per_row = twice ? 2 * count : count;
  sdpo::cpu::run_on_threads(threads, [&] {
    for (int64_t next; (next = ticket.fetch_add(1, std::memory_order_relaxed)) < call.rows * per_row;) {
      const int64_t row = next / per_row, step = next % per_row;
      std::atomic<int64_t>& left = remaining[static_cast<size_t>(row)];
      if (step < count) {
        first_pass(call, row, step);
        left.fetch_sub(1, std::memory_order_release);
      } else {
        while (left.load(std::memory_order_acquire) != 0) std::this_thread::yield();
        second_pass(call, row, per_row - 1 - step);
      }
    }
  });
}

// ---- Node-API

int64_t number(napi_env env, napi_value value) {
  int64_t out = 0;
  napi_get_value_int64(env, value, &out);
  return out;
}

// The memory of entry `index` of a list of typed arrays, or null where it is missing or shorter than `bytes`.
char* memory(napi_env env, napi_value list, uint32_t index, int64_t bytes) {
  napi_value array;
  napi_typedarray_type type;
  size_t length = 0;
  void* data = nullptr;
  if (napi_get_element(env, list, index, &array) != napi_ok) return nullptr;
  if (napi_get_typedarray_info(env, array, &type, &length, &data, nullptr, nullptr) != napi_ok) return nullptr;
  const int64_t width = type == napi_uint16_array ? 2 : type == napi_float32_array ? 4 : 0;
  return static_cast<int64_t>(length) * width >= bytes ? static_cast<char*>(data) : nullptr;
}

napi_value run_call(napi_env env, napi_callback_info info) {
  size_t count = 7;
  napi_value args[7];
  napi_get_cb_info(env, info, &count, args, nullptr, nullptr);
  Call call;
  call.kind = static_cast<Kind>(number(env, args[0]));
  call.rows = number(env, args[3]);
  call.spans = sdpo::cpu::Spans(number(env, args[4]));
  call.element_bytes = number(env, args[5]);
  const int64_t bytes = call.rows * call.spans.size * call.element_bytes;
  uint32_t outputs = 0;
  napi_get_array_length(env, args[2], &outputs);
  bool complete = count == 7 && bytes > 0 && (outputs == 0 || outputs == 2);
  for (uint32_t i = 0; i < 6 && complete; ++i) {
    const char* const in = memory(env, args[1], i, bytes);
    call.in[i / 3][i % 3] = in;
    complete = in != nullptr;
  }
  for (uint32_t i = 0; i < outputs && complete; ++i) {
    call.out[i] = memory(env, args[2], i, bytes);
    complete = call.out[i] != nullptr;
  }
  if (!complete) {
    napi_throw_type_error(env, nullptr, "probe: expected six inputs and no or two outputs of rows x elements x bytes");
    return nullptr;
  }
  run(call, static_cast<int>(number(env, args[6])));
  return nullptr;
}

}  // namespace

NAPI_MODULE_INIT() {
  napi_value function;
  napi_create_function(env, "run", NAPI_AUTO_LENGTH, run_call, nullptr, &function);
  napi_set_named_property(env, exports, "run", function);
  return exports;
}
