// Row inputs formed in the memory of a device: factors that the host knows, omega from a table by timestep, and lists
// that lie there.
#pragma once

#include <cmath>

#include "objectives.h"
#include "problem.h"

namespace sdpo {

// What multiplies a field: nothing, the omega of its branch, or sqrt(2 omega) (of the sampled weight).
#define SDPO_ROW_FACTORS(X) X(none, "none") X(omega, "omega") X(root, "root")
// What a listed value has to be. Nobody looks at values on a device, so a row with another value gets the row weight
// NaN, which makes its loss NaN: it counts as a row that is not finite, whatever mask or objective would have made of
// the value.
#define SDPO_ROW_CHECKS(X) X(any, "any") X(finite, "finite") X(not_negative, "notNegative")
SDPO_NAMED_ENUM(RowFactor, SDPO_ROW_FACTORS)
SDPO_NAMED_ENUM(RowCheck, SDPO_ROW_CHECKS)

// One number per row, float64 or float32; data == nullptr: there is none.
struct RowList {
  const void* data = nullptr;
  DType dtype = DType::float64;
};

// A field of the row inputs: scale * factor * what the host gave * the list, multiplied from the left as
// lib/loss/row-inputs.ts does.
struct RowField {
  RowList list;
  double scale = 1;
  RowFactor factor = RowFactor::none;
  RowCheck check = RowCheck::any;
};

struct RowSources {
  RowField fields[RowInput::count];
  RowList omega[2];               // by branch: omega, or with a table the timestep; no data: no field has a factor
  const double* table = nullptr;  // omega by timestep
  int64_t table_size = 0;
};

struct RowInputsProblem {
  int64_t rows = 0;
  const double* given = nullptr;  // on the host, [RowInput::count][rows]; may go when the call returns
  RowSources sources;             // their addresses lie on the device
  double* out = nullptr;          // on the device, [RowInput::count][rows]
  Location location;
  void* stream = nullptr;
};

SDPO_HD inline double row_value(const RowList& list, int64_t row) {
  return list.dtype == DType::float32 ? static_cast<double>(static_cast<const float*>(list.data)[row])
                                      : static_cast<const double*>(list.data)[row];
}

SDPO_HD inline double row_omega(const RowSources& s, int branch, int64_t row) {
  const double value = row_value(s.omega[branch], row);
  if (s.table == nullptr) return value >= 0 ? value : NAN;
  if (!(value >= 0 && value < static_cast<double>(s.table_size))) return NAN;
  const int64_t step = static_cast<int64_t>(value);
  return static_cast<double>(step) == value ? s.table[step] : NAN;
}

// Writes all fields of a row. Field f of what the host gave is at given[f * stride].
SDPO_HD inline void fill_row(const RowSources& s, const double* given, int64_t stride, int64_t row, int64_t rows,
                             double* out) {
  double omega[2] = {1, 1};
  bool good = true;
  for (int branch = 0; branch < 2; ++branch) {
    if (s.omega[branch].data == nullptr) continue;
    omega[branch] = row_omega(s, branch, row);
    good = good && omega[branch] >= 0;
  }
  for (int f = 0; f < RowInput::count; ++f) {
    const RowField& field = s.fields[f];
    double value = field.scale;
    if (field.factor != RowFactor::none) {  // fields of the two branches alternate, chosen first
      const double w = omega[f % 2];
      value *= field.factor == RowFactor::omega ? w : sqrt(2 * w);
    }
    value *= given[f * stride];
    if (field.list.data != nullptr) {
      const double listed = row_value(field.list, row);
      good = good &&
             (field.check == RowCheck::any || (is_finite(listed) && (field.check == RowCheck::finite || listed >= 0)));
      value *= listed;
    }
    out[f * rows + row] = value;
  }
  if (!good) out[RowInput::rowWeight * rows + row] = NAN;
}

static_assert(RowInput::psiScaleChosen % 2 == 0 && RowInput::weightScaleChosen % 2 == 0 &&
                  RowInput::weightNoiseChosen % 2 == 0 && RowInput::psiScaleRejected % 2 == 1 &&
                  RowInput::weightScaleRejected % 2 == 1 && RowInput::weightNoiseRejected % 2 == 1,
              "fields with a factor alternate between the branches");

}  // namespace sdpo
