/** Elementwise operations of schedules: a x + b y with one pair of factors per row. */

import { binding } from './binding.js';
import { dtypeIndex } from './dtypes.js';
import { type LatentArray, readOperand, sameKind } from './operand.js';
import { failType, failValue } from './validate.js';

/**
 * out[row, :] = a[row] · x[row, :] + b[row] · y[row, :], computed in float64 and rounded once. `out` has the kind, dtype and shape of `x`.
 * @param names the arguments' names for error messages.
 * @throws TypeError where x and y differ in kind or dtype, RangeError where they differ in length or are not `a.length` rows.
 */
export function combine<T extends LatentArray>(
  a: Float64Array,
  x: T,
  b: Float64Array,
  y: LatentArray,
  names: readonly [string, string] = ['x', 'y'],
): T {
  const rows = a.length;
  const left = readOperand(names[0], x, rows);
  const right = readOperand(names[1], y, rows);
  if (left.dtype !== right.dtype) failType(names[1], `of dtype ${left.dtype} as ${names[0]}`, y);
  if (left.size !== right.size) {
    failValue(names[1], `of ${left.size} elements a row as ${names[0]}`, y, 'ERR_SDPO_INVALID_LENGTH');
  }
  const out = sameKind(x);
  binding.combine(
    rows,
    left.size,
    dtypeIndex(left.dtype),
    a,
    b,
    left.data,
    left.rowStride,
    right.data,
    right.rowStride,
    out.data,
    0,
  );
  return out.value;
}
