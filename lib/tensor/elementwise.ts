/** Elementwise operations of schedules: a x + b y with one pair of factors per row. */

import { binding } from '../native/binding.js';
import { checkOptions, failType, failValue } from '../native/validate.js';
import { locationOf } from './device.js';
import { type Access, enlist } from './device-memory.js';
import { dtypeIndex } from './dtypes.js';
import { commonDevice, type LatentArray, readOperand, sameKind } from './operand.js';
import { checkStream, laneOf, type Stream } from './stream.js';
import { Tensor } from './tensor.js';

/** Options of an elementwise operation. */
export interface ElementwiseOptions {
  /** Of the device that holds the tensors; default: its default stream. */
  stream?: Stream | undefined;
}

/**
 * out[row, :] = a[row] · x[row, :] + b[row] · y[row, :], computed in float64 and rounded once. `out` has the kind, dtype, shape and device of
 * `x`. On a device the work is put on the stream and not waited for.
 * @param names the arguments' names for error messages.
 * @throws TypeError where x and y differ in kind or dtype, RangeError where they differ in length or are not `a.length` rows.
 */
export function combine<T extends LatentArray>(
  a: Float64Array,
  x: T,
  b: Float64Array,
  y: LatentArray,
  names: readonly [string, string] = ['x', 'y'],
  options: ElementwiseOptions = {},
): T {
  options = checkOptions('options', options, ['stream']);
  const rows = a.length;
  const left = readOperand(names[0], x, rows);
  const right = readOperand(names[1], y, rows);
  if (left.dtype !== right.dtype) failType(names[1], `of dtype ${left.dtype} as ${names[0]}`, y);
  if (left.size !== right.size) {
    failValue(names[1], `of ${left.size} elements a row as ${names[0]}`, y, 'ERR_SDPO_INVALID_LENGTH');
  }
  const device = commonDevice([
    [names[0], left],
    [names[1], right],
  ]);
  const lane = laneOf(checkStream('options.stream', options.stream, device));
  const value = sameKind(x);
  const out = readOperand('out', value, rows);
  const accesses: Access[] = [left, right, out].flatMap(({ memory }) =>
    memory === undefined ? [] : [{ memory, writes: memory === out.memory }],
  );
  try {
    enlist(lane, accesses);
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
      locationOf(device),
      lane.handle,
    );
  } catch (error) {
    if (value instanceof Tensor) value.dispose();
    throw error;
  }
  return value;
}
