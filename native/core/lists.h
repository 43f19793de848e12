// Closed lists: macros that make an enum, its names and its size of one list, so that nothing is counted or spelt
// twice.
#pragma once

#include <cstddef>
#include <cstdint>

namespace sdpo {

// The names of an enumeration, in the order of its values; specialised by SDPO_NAMED_ENUM.
template <class Enum>
struct NamesOf;

#define SDPO_ENUM_ENTRY(id, ...) id,
#define SDPO_NAME_ENTRY(id, name, ...) name,
#define SDPO_ENUM_NAMES(Type, LIST)                                              \
  constexpr const char* k##Type##Names[] = {LIST(SDPO_NAME_ENTRY)};              \
  template <>                                                                    \
  struct NamesOf<Type> {                                                         \
    static constexpr const char* const* names = k##Type##Names;                  \
    static constexpr size_t count = sizeof k##Type##Names / sizeof(const char*); \
  };
// A list of X(identifier, "name", ...): the position in it is the number that crosses to other languages.
#define SDPO_NAMED_ENUM(Type, LIST)                    \
  enum class Type : uint8_t { LIST(SDPO_ENUM_ENTRY) }; \
  SDPO_ENUM_NAMES(Type, LIST)

#define SDPO_FIELD_ENTRY(id, ...) id,
#define SDPO_FIELD_NAME(id, ...) #id,
// A list of X(identifier, ...): positions in a flat array.
#define SDPO_FIELDS(Space, LIST)                       \
  struct Space {                                       \
    enum Index : int { LIST(SDPO_FIELD_ENTRY) count }; \
  };                                                   \
  constexpr const char* k##Space##Names[] = {LIST(SDPO_FIELD_NAME)};

}  // namespace sdpo
