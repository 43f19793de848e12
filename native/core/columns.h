// The numbers per row of a call, as the caller means them: each a list on the host, a tensor on the device, or one
// number for all rows.
#pragma once

#include <cmath>
#include <cstdint>

#include "dtypes.h"
#include "host_device.h"
#include "lists.h"

namespace sdpo {

// What a value has to be. A row with another value counts as a row that is not finite.
#define SDPO_ROW_CHECKS(X) X(any, "any") X(finite, "finite") X(not_negative, "notNegative")
SDPO_NAMED_ENUM(RowCheck, SDPO_ROW_CHECKS)

// X(name, default, check), symbols as in docs/mathematics.md. omega: >= 0 where the objective
// reads it, infinite where the transition has no density ratio; with a table it is looked up by the timestep, which the
// window of the options looks at too. offset: 1/2 mean z^2.
// noise: xi. referenceError: r, read only without a reference tensor. keep: 0 removes the row. maskThreshold: tau.
// clang-format off
#define SDPO_ROW_INPUTS(X)                             \
  X(omegaChosen, NAN, any)                             \
  X(omegaRejected, NAN, any)                           \
  X(timestepChosen, 0, finite)                         \
  X(timestepRejected, 0, finite)                       \
  X(offsetChosen, 0, finite)                           \
  X(offsetRejected, 0, finite)                         \
  X(noiseChosen, 0, finite)                            \
  X(noiseRejected, 0, finite)                          \
  X(referenceErrorChosen, 0, any)                      \
  X(referenceErrorRejected, 0, any)                    \
  X(betaScaleChosen, 1, not_negative)           \
  X(betaScaleRejected, 1, not_negative)         \
  X(margin, 0, finite)                                 \
  X(keep, 1, finite)                                   \
  X(maskThreshold, 0.9, not_negative)           \
  X(rowWeight, 1, not_negative)
// clang-format on
SDPO_FIELDS(RowInput, SDPO_ROW_INPUTS)

constexpr double kRowInputDefaults[] = {
#define SDPO_ROW_DEFAULT(id, value, check) value,
    SDPO_ROW_INPUTS(SDPO_ROW_DEFAULT)
#undef SDPO_ROW_DEFAULT
};

constexpr RowCheck kRowInputChecks[] = {
#define SDPO_ROW_CHECK(id, value, check) RowCheck::check,
    SDPO_ROW_INPUTS(SDPO_ROW_CHECK)
#undef SDPO_ROW_CHECK
};

SDPO_HD inline bool accepts(RowCheck check, double x) {
  return check == RowCheck::any || (is_finite(x) && (check == RowCheck::finite || x >= 0));
}

struct RowColumn {
  const void* data = nullptr;  // [rows], float64 or float32; nullptr: `value` serves all rows
  double value = 0;
  DType dtype = DType::float64;
  bool on_host = true;  // where `data` lies
};

struct RowColumns {
  RowColumn fields[RowInput::count];
  const double* omega_table = nullptr;  // omega of timestep 0, 1, ...; lies with the tensors of the call
  int64_t omega_count = 0;

  RowColumns() {
    for (int field = 0; field < RowInput::count; ++field) fields[field].value = kRowInputDefaults[field];
  }
};

SDPO_HD inline double column_value(const RowColumn& column, int64_t row) {
  if (column.data == nullptr) return column.value;
  return column.dtype == DType::float32 ? static_cast<double>(static_cast<const float*>(column.data)[row])
                                        : static_cast<const double*>(column.data)[row];
}

// Whether a branch's omega comes from the table: no list and no number says it.
SDPO_HD inline bool looks_up(const RowColumns& columns, int omega_field) {
  const RowColumn& column = columns.fields[omega_field];
  return columns.omega_table != nullptr && column.data == nullptr && !(column.value >= 0);
}

// The omega of a timestep that indexes a table, NaN where it does not.
SDPO_HD inline double table_omega(const RowColumns& columns, double timestep) {
  if (!(timestep >= 0 && timestep < static_cast<double>(columns.omega_count))) return NAN;
  const int64_t step = static_cast<int64_t>(timestep);
  return static_cast<double>(step) == timestep ? columns.omega_table[step] : NAN;
}

}  // namespace sdpo
