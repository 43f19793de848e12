/** Typed arrays and tensors as operands of native calls: dtype, memory, row stride and elements per row, checked. */

import { allocate, type DType, type HostArray } from './dtypes.js';
import { rowLength, storageOf, Tensor } from './tensor.js';
import { failType, failValue } from './validate.js';

/** Latents or predictions [rows, …]: flat typed arrays of float32 or float64, or tensors of any dtype. */
export type LatentArray = Float32Array | Float64Array | Tensor;

export interface Operand {
  readonly data: HostArray;
  readonly dtype: DType;
  /** Elements from one row to the next. */
  readonly rowStride: number;
  /** D, elements of a row. */
  readonly size: number;
}

export function isLatentArray(value: unknown): value is LatentArray {
  return value instanceof Float32Array || value instanceof Float64Array || value instanceof Tensor;
}

export function dtypeOf(value: LatentArray): DType {
  return value instanceof Tensor ? value.dtype : value instanceof Float32Array ? 'float32' : 'float64';
}

/** Reads an operand of `rows` rows, or throws an error that names it. */
export function readOperand(argument: string, value: unknown, rows: number): Operand {
  if (value instanceof Float32Array || value instanceof Float64Array) {
    const size = rows === 0 ? 0 : value.length / rows;
    if (!Number.isInteger(size) || (rows > 0 && size === 0) || (rows === 0 && value.length > 0)) {
      failValue(argument, `[rows, ...] with ${rows} rows of one or more elements`, value, 'ERR_SDPO_INVALID_LENGTH');
    }
    return { data: value, dtype: dtypeOf(value), rowStride: size, size };
  }
  if (value instanceof Tensor) {
    const { data, rowStride } = storageOf(value, argument);
    const size = rowLength(value.shape);
    if (value.shape[0] !== rows || size === 0) {
      failValue(
        argument,
        `of shape [${rows}, ...] with one or more elements a row`,
        `Tensor of shape [${value.shape.join(', ')}]`,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    return { data, dtype: value.dtype, rowStride, size };
  }
  failType(
    argument,
    'a Float32Array, a Float64Array or a Tensor (Tensor.from(bits, { shape, dtype }) for float16 and bfloat16)',
    value,
  );
}

/** A new array or tensor of the same kind, dtype and shape, and its (contiguous) storage. */
export function sameKind<T extends LatentArray>(like: T): { value: T; data: HostArray } {
  if (like instanceof Tensor) {
    const value = Tensor.empty(like.shape, { dtype: like.dtype });
    return { value: value as T, data: storageOf(value).data };
  }
  const data = allocate(dtypeOf(like), like.length);
  return { value: data as unknown as T, data };
}
