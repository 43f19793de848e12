/* A malloc that fails once for the addon, when the process has asked for it by a umask that nobody has: for tests of
 * what a call does then. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

static __thread int armed = 0;

mode_t umask(mode_t mask) {
  mode_t (*next)(mode_t) = (mode_t (*)(mode_t))dlsym(RTLD_NEXT, "umask");
  if (mask == 0123) armed = 1;
  return next(mask);
}

void* malloc(size_t size) {
  static void* (*next)(size_t);
  Dl_info caller;
  if (next == NULL) next = (void* (*)(size_t))dlsym(RTLD_NEXT, "malloc");
  if (armed && dladdr(__builtin_return_address(0), &caller) && strstr(caller.dli_fname, "sdpo.node") != NULL) {
    armed = 0;
    return NULL;
  }
  return next(size);
}
