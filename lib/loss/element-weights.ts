/** Weights of the elements as an operand: floating-point numbers or masks, for every row or one row for all, with axes of size 1 broadcast. */

import { isArray, typedArray } from '../native/arrays.js';
import { failType, failValue } from '../native/validate.js';
import { dtypeOf, isLatentArray, type LatentArray, type Operand, operandOf, readOperand } from '../tensor/operand.js';
import { isContiguous, placeOf, Tensor } from '../tensor/tensor.js';
import type { ElementWeights } from './batch.js';

const ARGUMENT = 'batch.elementWeights';

/** Reads the weights of a batch whose policy is `policy`, of `rows` rows with `size` elements. */
export function readElementWeights(
  given: ElementWeights | undefined,
  policy: LatentArray,
  rows: number,
  size: number,
): Operand | undefined {
  if (given === undefined) return undefined;
  const value = typedArray(given) ?? given;
  const weights = isMask(value) ? Float32Array.from(value, Number) : value;
  if (!isLatentArray(weights)) {
    failType(
      ARGUMENT,
      'a Float32Array, a Float64Array, a Tensor, or a mask (a Uint8Array or an array of booleans)',
      given,
    );
  }
  const length = weights instanceof Tensor ? weights.size : weights.length;
  if (length !== size && length !== rows * size && weights instanceof Tensor) {
    const full = broadcast(weights, policy, rows);
    return full.length === size ? oneRow(full, size) : readOperand(ARGUMENT, full, rows);
  }
  if (length === size) return oneRow(weights, size);
  const operand = readOperand(ARGUMENT, weights, rows);
  if (operand.size !== size) {
    failValue(ARGUMENT, `of ${size} or ${rows} x ${size} elements`, value, 'ERR_SDPO_INVALID_LENGTH');
  }
  return operand;
}

function isMask(value: unknown): value is ArrayLike<number | boolean> {
  if (value instanceof Uint8Array || value instanceof Uint8ClampedArray) return true;
  return isArray(value) && value.length > 0 && value.every((entry) => typeof entry === 'boolean');
}

/** Weights of one row, which serve all rows. */
function oneRow(value: LatentArray, size: number): Operand {
  if (!(value instanceof Tensor)) return { data: value, device: 'cpu', dtype: dtypeOf(value), rowStride: 0, size };
  if (!isContiguous(value, placeOf(value, ARGUMENT))) {
    failValue(ARGUMENT, 'contiguous where it serves all rows', value);
  }
  return operandOf(value, 0, size);
}

/** The weights with every axis but that of the rows as long as the policy's, as broadcasting in NumPy and PyTorch has it. */
function broadcast(weights: Tensor, policy: LatentArray, rows: number): Float64Array | Float32Array {
  const shape = policy instanceof Tensor ? policy.shape : undefined;
  const fits =
    shape?.length === weights.shape.length &&
    weights.shape.every((extent, axis) => extent === 1 || extent === shape[axis]);
  if (shape === undefined || !fits) {
    failValue(
      ARGUMENT,
      shape === undefined
        ? 'of as many elements as a row or the batch, since a flat policy has no axes to broadcast over'
        : `of shape [${shape.join(', ')}] or with 1 for axes that it serves whole`,
      `Tensor of shape [${weights.shape.join(', ')}]`,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  if (weights.device !== 'cpu') {
    failValue(
      ARGUMENT,
      'as large as a row on a device (broadcast it on the host once, and move it with .to())',
      weights,
    );
  }
  const from = weights.dtype === 'float64' ? weights.toFloat64() : weights.toFloat32();
  const extents = [weights.shape[0] === rows ? rows : 1, ...shape.slice(1)];
  const out = from instanceof Float64Array ? new Float64Array(product(extents)) : new Float32Array(product(extents));
  // Position in `weights` of the element at `index`, counted up axis by axis.
  const strides = weights.shape.map((extent, axis) => (extent === 1 ? 0 : product(weights.shape.slice(axis + 1))));
  const index = extents.map(() => 0);
  for (let i = 0, at = 0; i < out.length; i++) {
    out[i] = from[at]!;
    for (let axis = extents.length - 1; axis >= 0; axis--) {
      index[axis]!++;
      at += strides[axis]!;
      if (index[axis]! < extents[axis]!) break;
      at -= strides[axis]! * extents[axis]!;
      index[axis] = 0;
    }
  }
  return out;
}

function product(extents: readonly number[]): number {
  return extents.reduce((total, extent) => total * extent, 1);
}
