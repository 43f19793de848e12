/** Batches of tensors in any mixture of dtypes, large ones made quickly, and results as digests of their bits. */

import { createHash } from 'node:crypto';
import { type Batch, type Evaluation, type LatentArray, type Statistics, Tensor } from '../../lib/index.js';
import { uniformNumbers } from './cases.js';
import { type DType, encode, type TypedArray } from './dtypes.js';

export const branches = ['chosen', 'rejected'] as const;
export const tensors = ['policy', 'reference', 'target'] as const;
export type BranchName = (typeof branches)[number];
export type TensorName = (typeof tensors)[number];

/** A dtype for all tensors, or for each of its own. */
export type DTypes = DType | ((branch: BranchName, tensor: TensorName) => DType);

/** Plain typed arrays where the dtype has one, tensors of bits where it has not. */
export function latents(stored: TypedArray, dtype: DType, rows: number): LatentArray {
  if (!(stored instanceof Uint16Array)) return stored;
  return Tensor.from(stored, { shape: [rows, stored.length / rows], dtype });
}

/** Longer than any tile and prime, so that no two tiles or spans of a repeated pattern hold the same numbers. */
const period = 4099;

/** `count` numbers in [-1, 1) in the storage of a dtype; a repeated pattern, so that millions take no time. */
export function repeated(count: number, seed: number, dtype: DType): TypedArray {
  const uniform = uniformNumbers(seed);
  const pattern = encode(
    dtype,
    Float64Array.from({ length: Math.min(count, period) }, () => 2 * uniform() - 1),
  );
  const Stored = pattern.constructor as new (length: number) => TypedArray;
  const all = new Stored(count);
  for (let start = 0; start < count; start += period) all.set(pattern.subarray(0, count - start), start);
  return all;
}

export interface FullBatch extends Batch {
  chosen: Required<Pick<Batch['chosen'], TensorName>>;
  rejected: Required<Pick<Batch['rejected'], TensorName>>;
}

/** A batch of repeated patterns with its own ω, some rows of which the default mask removes. `place` decides where the storage lies. */
export function largeBatch(
  rows: number,
  size: number,
  dtypes: DTypes,
  place: (stored: TypedArray) => TypedArray = (stored) => stored,
): FullBatch {
  const make = (branch: BranchName, tensor: TensorName, seed: number) => {
    const dtype = typeof dtypes === 'string' ? dtypes : dtypes(branch, tensor);
    return latents(place(repeated(rows * size, seed, dtype)), dtype, rows);
  };
  const side = (branch: BranchName, seed: number) => ({
    policy: make(branch, 'policy', seed),
    reference: make(branch, 'reference', seed + 1),
    target: make(branch, 'target', seed + 2),
  });
  return {
    timesteps: Float64Array.from({ length: rows }, (_, i) => i),
    chosen: side('chosen', 10),
    rejected: side('rejected', 20),
    transition: { omega: Float64Array.from({ length: rows }, (_, i) => (i % 3 === 2 ? 0.3 : 0.05)) },
  };
}

/** The stored elements of an operand. */
export function storedOf(value: LatentArray): TypedArray {
  return value instanceof Tensor ? value.toHost() : value;
}

/** SHA-256 of the bits of arrays, in order. */
export function digestOf(...arrays: ArrayBufferView[]): string {
  const hash = createHash('sha256');
  for (const { buffer, byteOffset, byteLength } of arrays) hash.update(new Uint8Array(buffer, byteOffset, byteLength));
  return hash.digest('hex');
}

/** Digests of every part of a result, so that a difference says where it is. */
export function digests(result: Statistics | Evaluation): Record<string, string> {
  const { gradients } = result as Partial<Evaluation>;
  return {
    loss: digestOf(Float64Array.of(result.loss)),
    ...Object.fromEntries(Object.entries(result.rows).map(([name, column]) => [name, digestOf(column)])),
    metrics: digestOf(Float64Array.from(Object.values(result.metrics))),
    ...(gradients && {
      chosen: digestOf(storedOf(gradients.chosen)),
      rejected: digestOf(storedOf(gradients.rejected)),
    }),
  };
}
