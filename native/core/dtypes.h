// The element types of tensors: one row per type; the enum, the public names and the sizes all come from this table.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sdpo {

// name, bytes. The order is the numeric value that crosses the binding; append only.
// clang-format off
#define SDPO_DTYPES(X) \
  X(float64, 8)        \
  X(float32, 4)        \
  X(float16, 2)        \
  X(bfloat16, 2)
// clang-format on

enum class DType : uint8_t {
#define SDPO_DTYPE_ENUM(name, bytes) name,
  SDPO_DTYPES(SDPO_DTYPE_ENUM)
#undef SDPO_DTYPE_ENUM
};

constexpr size_t kDTypeSizes[] = {
#define SDPO_DTYPE_SIZE(name, bytes) bytes,
    SDPO_DTYPES(SDPO_DTYPE_SIZE)
#undef SDPO_DTYPE_SIZE
};

constexpr const char* kDTypeNames[] = {
#define SDPO_DTYPE_NAME(name, bytes) #name,
    SDPO_DTYPES(SDPO_DTYPE_NAME)
#undef SDPO_DTYPE_NAME
};

constexpr int kDTypeCount = sizeof(kDTypeSizes) / sizeof(kDTypeSizes[0]);

constexpr size_t dtype_size(DType type) { return kDTypeSizes[static_cast<int>(type)]; }

// Storage of the 16-bit types. They are distinct types so that templates can tell them apart.
struct Float16 {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

}  // namespace sdpo
