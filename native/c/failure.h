// How a call of the C interface fails: a status, and a text that sdpo_last_error gives.
#pragma once

#include <exception>
#include <new>

#include "../core/float_environment.h"
#include "sdpo.h"

namespace sdpo {

// Keeps the text of a failure for the calling thread and gives the status back.
#if defined(__GNUC__)
__attribute__((format(printf, 2, 3)))
#endif
sdpo_status fail(sdpo_status status, const char* format, ...);

void clear_failure();
const char* failure_text();

// Thrown by checks and caught by `guarded`, which is the only way out of the library.
struct Refused {
  sdpo_status status;
};

#define SDPO_REFUSE(...) \
  throw Refused { fail(SDPO_INVALID_ARGUMENT, __VA_ARGS__) }

template <class Body>
sdpo_status guarded(const Body& body) noexcept {
  const FloatEnvironment environment;
  clear_failure();
  try {
    return body();
  } catch (const Refused& refused) {
    return refused.status;
  } catch (const std::bad_alloc&) {
    return fail(SDPO_OUT_OF_MEMORY, "Expected enough memory for the scratch space of a call, received none");
  } catch (const std::exception& error) {
    return fail(SDPO_INTERNAL, "%s", error.what());
  } catch (...) {
    return fail(SDPO_INTERNAL, "an unknown exception");
  }
}

}  // namespace sdpo
