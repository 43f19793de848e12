/** Weights of the elements as operands: floating-point numbers or masks, for every row or one row for all, with axes of size 1 broadcast. */

import { isArray, typedArray } from '../native/arrays.js';
import { SdpoRangeError } from '../native/errors.js';
import { failType, failValue, readOptions } from '../native/validate.js';
import { dtypeOf, isLatentArray, type LatentArray, type Operand, operandOf, readOperand } from '../tensor/operand.js';
import { isContiguous, placeOf, Tensor } from '../tensor/tensor.js';
import { type Batch, type BranchElementWeights, EITHER_FIELDS, type ElementWeights } from './batch.js';

const ARGUMENT = 'batch.elementWeights';

/** The weights of a call: of both branches where `elementWeightsRejected` is undefined. */
export interface WeightOperands {
  readonly elementWeights: Operand | undefined;
  readonly elementWeightsRejected: Operand | undefined;
}

const NO_WEIGHTS: WeightOperands = { elementWeights: undefined, elementWeightsRejected: undefined };

/** Reads the weights of a batch of `rows` rows with `size` elements. */
export function readElementWeights(batch: Batch, rows: number, size: number): WeightOperands {
  const value = batch.elementWeights;
  if (value === undefined) return NO_WEIGHTS;
  const { policy } = batch.chosen;
  if (!isPerBranch(value)) {
    return { elementWeights: readWeights(ARGUMENT, value, policy, rows, size), elementWeightsRejected: undefined };
  }
  const { chosen, rejected } = readOptions(ARGUMENT, value, EITHER_FIELDS) as BranchElementWeights;
  const elementWeights = readWeights(`${ARGUMENT}.chosen`, chosen, policy, rows, size);
  if (rejected === chosen) return { elementWeights, elementWeightsRejected: undefined };
  return {
    elementWeights,
    elementWeightsRejected: readWeights(`${ARGUMENT}.rejected`, rejected, batch.rejected.policy, rows, size),
  };
}

function isPerBranch(value: ElementWeights | BranchElementWeights): value is BranchElementWeights {
  if (typeof value !== 'object' || value === null) return false;
  return !(value instanceof Tensor) && !ArrayBuffer.isView(value) && !isArray(value);
}

/** Throws where `asker` wants the mean of d_c d_r of a batch that weights the branches apart. */
export function refuseCross({ elementWeightsRejected }: WeightOperands, asker: string): void {
  if (elementWeightsRejected === undefined) return;
  throw new SdpoRangeError(
    'ERR_SDPO_INVALID_OPTION',
    `Expected ${ARGUMENT} to be one weighting of both branches where ${asker} is given, since the mean of d_c d_r that it needs pairs their elements, received { chosen, rejected }`,
  );
}

function readWeights(
  argument: string,
  given: ElementWeights,
  policy: LatentArray,
  rows: number,
  size: number,
): Operand {
  const value = typedArray(given) ?? given;
  const weights = isMask(value) ? Float32Array.from(value, Number) : value;
  if (!isLatentArray(weights)) {
    failType(
      argument,
      'a Float32Array, a Float64Array, a Tensor, or a mask (a Uint8Array or an array of booleans)',
      given,
    );
  }
  const length = weights instanceof Tensor ? weights.size : weights.length;
  if (weights instanceof Tensor && !(axesAgree(weights, policy) ?? (length === size || length === rows * size))) {
    const full = broadcast(argument, weights, policy, rows);
    return full.length === size ? oneRow(argument, full, size) : readOperand(argument, full, rows);
  }
  if (length === size) return oneRow(argument, weights, size);
  const operand = readOperand(argument, weights, rows);
  if (operand.size !== size) {
    failValue(argument, `of ${size} or ${rows} x ${size} elements`, value, 'ERR_SDPO_INVALID_LENGTH');
  }
  return operand;
}

/**
 * Whether weights with the axes of the policy are those of a row, or of every row, as they are; undefined where the axes are not those of the policy. Their
 * number alone does not tell: a mask [B, 1, H, W] has as many elements as a row [C, H, W] where B is C.
 */
function axesAgree(weights: Tensor, policy: LatentArray): boolean | undefined {
  if (!(policy instanceof Tensor) || policy.shape.length !== weights.shape.length) return undefined;
  return weights.shape.every((extent, axis) => extent === policy.shape[axis] || (axis === 0 && extent === 1));
}

function isMask(value: unknown): value is ArrayLike<number | boolean> {
  if (value instanceof Uint8Array || value instanceof Uint8ClampedArray) return true;
  return isArray(value) && value.length > 0 && value.every((entry) => typeof entry === 'boolean');
}

/** Weights of one row, which serve all rows. */
function oneRow(argument: string, value: LatentArray, size: number): Operand {
  if (!(value instanceof Tensor)) return { data: value, device: 'cpu', dtype: dtypeOf(value), rowStride: 0, size };
  if (!isContiguous(value, placeOf(value, argument))) {
    failValue(argument, 'contiguous where it serves all rows', value);
  }
  return operandOf(value, 0, size);
}

/** The weights with every axis but that of the rows as long as the policy's, as broadcasting in NumPy and PyTorch has it. */
function broadcast(argument: string, weights: Tensor, policy: LatentArray, rows: number): Float64Array | Float32Array {
  const shape = policy instanceof Tensor ? policy.shape : undefined;
  const fits =
    shape?.length === weights.shape.length &&
    weights.shape.every((extent, axis) => extent === 1 || extent === shape[axis]);
  if (shape === undefined || !fits) {
    failValue(
      argument,
      shape === undefined
        ? 'of as many elements as a row or the batch, since a flat policy has no axes to broadcast over'
        : `of shape [${shape.join(', ')}] or with 1 for axes that it serves whole`,
      `Tensor of shape [${weights.shape.join(', ')}]`,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  if (weights.device !== 'cpu') {
    failValue(
      argument,
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
