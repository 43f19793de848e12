// The text of the last failure of each thread.
#include "failure.h"

#include <cstdarg>
#include <cstdio>

namespace sdpo {
namespace {

// A plain array, so that a thread ends without a destructor.
thread_local char g_error[512];

}  // namespace

sdpo_status fail(sdpo_status status, const char* format, ...) {
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(g_error, sizeof g_error, format, arguments);
  va_end(arguments);
  return status;
}

void clear_failure() { g_error[0] = '\0'; }

const char* failure_text() { return g_error; }

}  // namespace sdpo
