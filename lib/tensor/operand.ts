/** Typed arrays and tensors as operands of native calls: dtype, memory, row stride and elements per row, checked. */

import type { NativeMemory } from '../../binding.js';
import { isTypedArrayOf, typedArray } from '../native/arrays.js';
import { SdpoError } from '../native/errors.js';
import { failType, failValue } from '../native/validate.js';
import type { DeviceMemory } from './device-memory.js';
import type { DType } from './dtypes.js';
import { allocateResult } from './result-memory.js';
import { placeOf, rowLength, Tensor } from './tensor.js';

/** Latents or predictions [rows, …]: flat typed arrays of float32 or float64, or tensors of any dtype. */
export type LatentArray = Float32Array | Float64Array | Tensor;

export interface Operand {
  /** The elements on the host, or the address of the first one on a device. */
  readonly data: NativeMemory;
  readonly device: string;
  /** What `data` points into, on a device. */
  readonly memory?: DeviceMemory;
  readonly dtype: DType;
  /** Elements from one row to the next. */
  readonly rowStride: number;
  /** D, elements of a row. */
  readonly size: number;
}

export function isLatentArray(value: unknown): value is LatentArray {
  return isFlat(value) || value instanceof Tensor;
}

/** By what it is: a Proxy of one looks like one, and has no elements. */
export function isFlat(value: unknown): value is Float32Array | Float64Array {
  return isTypedArrayOf(Float32Array, value) || isTypedArrayOf(Float64Array, value);
}

/** Flat latents of another realm, or of a class of the caller's, as plain ones of this realm over the same memory; everything else as it is. */
export function plainLatents<T>(value: T): T {
  return (typedArray(value) as T | undefined) ?? value;
}

export function dtypeOf(value: LatentArray): DType {
  return value instanceof Tensor ? value.dtype : isTypedArrayOf(Float32Array, value) ? 'float32' : 'float64';
}

/** Reads an operand of `rows` rows, or throws an error that names it. */
export function readOperand(argument: string, given: unknown, rows: number): Operand {
  const value = plainLatents(given);
  if (isFlat(value)) {
    const size = rows === 0 ? 0 : value.length / rows;
    if (!Number.isInteger(size) || (rows > 0 && size === 0) || (rows === 0 && value.length > 0)) {
      failValue(argument, `[rows, ...] with ${rows} rows of one or more elements`, value, 'ERR_SDPO_INVALID_LENGTH');
    }
    return { data: value, device: 'cpu', dtype: dtypeOf(value), rowStride: size, size };
  }
  if (value instanceof Tensor) {
    const place = placeOf(value, argument);
    const size = rowLength(value.shape);
    if (value.shape[0] !== rows || size === 0) {
      failValue(
        argument,
        `of shape [${rows}, ...] with one or more elements a row`,
        `Tensor of shape [${value.shape.join(', ')}]`,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    return operandOf(value, place.rowStride, size);
  }
  failType(
    argument,
    'a Float32Array, a Float64Array or a Tensor (Tensor.from(bits, { shape, dtype }) for float16 and bfloat16)',
    given,
  );
}

/** The operand of a live tensor whose rows are read as `size` elements, `rowStride` apart. */
export function operandOf(tensor: Tensor, rowStride: number, size: number): Operand {
  const { dtype, device } = tensor;
  const place = placeOf(tensor);
  if ('memory' in place) return { data: tensor.pointer, device, memory: place.memory, dtype, rowStride, size };
  return { data: place.data, device, dtype, rowStride, size };
}

/** The device that all operands of a call lie on; they are named as in its arguments, and an error names the first that lies elsewhere. */
export function commonDevice(operands: readonly (readonly [argument: string, operand: Operand | undefined])[]): string {
  const present = operands.filter((entry): entry is readonly [string, Operand] => entry[1] !== undefined);
  if (present[0] === undefined) return 'cpu';
  const [first, { device }] = present[0];
  for (const [argument, operand] of present) {
    if (operand.device !== device) {
      throw new SdpoError(
        'ERR_SDPO_DEVICE',
        `Expected ${argument} to be on ${device} as ${first}, received one on ${operand.device}; move it with .to('${device}')`,
      );
    }
  }
  return device;
}

/** A new array or tensor of the same kind, dtype, shape and device, for a result that is written whole. */
export function sameKind<T extends LatentArray>(like: T): T {
  if (like instanceof Tensor) return Tensor.allocate(like.shape, like.dtype, like.device, false) as T;
  return allocateResult(dtypeOf(like), like.length) as unknown as T;
}
