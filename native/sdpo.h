/* The C interface at the path that callers include with -I native. */
#include "c/sdpo.h"
