// Which backend serves which memory: the table of the backends of this build.
#pragma once

#include "backend.h"

namespace sdpo {

// The backend for memory of this kind; nullptr where this build has none.
const Backend* backend_for(Location::Kind kind);

}  // namespace sdpo
