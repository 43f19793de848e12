/** Batches of the self-test: random, the same numbers in every dtype, on any device, and the float64 numbers behind them. */

import type { Batch, BranchBatch } from '../loss/batch.js';
import { type DType, encode } from '../tensor/dtypes.js';
import { createRandom } from '../tensor/noise.js';
import { type Layout, split, Tensor } from '../tensor/tensor.js';
import type { ReferenceBatch, ReferenceBranch } from './reference.js';

const TENSORS = ['policy', 'reference', 'target'] as const;

export interface CaseShape {
  rows: number;
  size: number;
  /** Of all tensors, or of policy, reference and target. */
  dtype: DType | readonly [DType, DType, DType];
  /** Branches as views of stacked tensors. */
  layout?: Layout;
  /** One weighting of the elements for both branches, or one for each. */
  elementWeights?: boolean | 'of each branch';
  rowWeights?: boolean;
  /** r per row in place of the reference tensors. */
  referenceError?: boolean;
}

export interface Made {
  batch: Batch<Tensor, Tensor>;
  /** The numbers as they are stored, in float64. */
  numbers: ReferenceBatch;
  /** All tensors that were made, to be disposed. */
  owned: Tensor[];
}

/** A random batch on a device. Errors are of the order of 1, and ω such that some rows are masked and some weights clipped. */
export function makeBatch(shape: CaseShape, seed: number, device: string): Made {
  const { rows, size, layout } = shape;
  const random = createRandom(seed);
  const dtypes: readonly DType[] =
    typeof shape.dtype === 'string' ? [shape.dtype, shape.dtype, shape.dtype] : shape.dtype;
  const owned: Tensor[] = [];
  const place = (values: Float64Array, dtype: DType, axes: number[]): { tensor: Tensor; stored: Float64Array } => {
    const host = Tensor.from(encode(dtype, values), { shape: axes, dtype });
    const tensor = host.to(device);
    owned.push(tensor);
    return { tensor, stored: host.toFloat64() };
  };
  const uniform = (count: number, low: number, high: number) =>
    Float64Array.from({ length: count }, () => low + (high - low) * random());
  const chosen = {} as Partial<BranchBatch<Tensor>> & { policy: Tensor; target: Tensor };
  const rejected = {} as typeof chosen;
  const numbers = { chosen: {} as ReferenceBranch, rejected: {} as ReferenceBranch };
  const base = { chosen: uniform(rows * size, -1, 1), rejected: uniform(rows * size, -1, 1) };
  for (const [k, name] of TENSORS.entries()) {
    const width = name === 'policy' ? 0.3 : name === 'reference' ? 0.35 : 0.9;
    const values = (branch: 'chosen' | 'rejected') => base[branch].map((value) => value + width * (2 * random() - 1));
    const pair = { chosen: values('chosen'), rejected: values('rejected') };
    if (layout === undefined) {
      for (const branch of ['chosen', 'rejected'] as const) {
        const { tensor, stored } = place(pair[branch], dtypes[k]!, [rows, size]);
        (branch === 'chosen' ? chosen : rejected)[name] = tensor;
        numbers[branch][name] = stored;
      }
      continue;
    }
    const stacked = new Float64Array(2 * rows * size);
    const at = (row: number, half: number) => (layout === 'halves' ? half * rows + row : 2 * row + half);
    for (let row = 0; row < rows; row++) {
      stacked.set(pair.chosen.subarray(row * size, (row + 1) * size), at(row, 0) * size);
      stacked.set(pair.rejected.subarray(row * size, (row + 1) * size), at(row, 1) * size);
    }
    const { tensor, stored } = place(stacked, dtypes[k]!, [2 * rows, size]);
    const views = split(tensor, layout);
    chosen[name] = views.chosen;
    rejected[name] = views.rejected;
    for (const [half, branch] of (['chosen', 'rejected'] as const).entries()) {
      const flat = new Float64Array(rows * size);
      for (let row = 0; row < rows; row++) {
        flat.set(stored.subarray(at(row, half) * size, (at(row, half) + 1) * size), row * size);
      }
      numbers[branch][name] = flat;
    }
  }
  const omega = uniform(rows, 0.05, 1.5);
  const batch: Batch<Tensor, Tensor> = {
    timesteps: new Float64Array(rows),
    transition: { omega },
    chosen,
    rejected,
  };
  const made: Made = { batch, numbers: { rows, size, omega, ...numbers }, owned };
  if (shape.elementWeights) {
    // A quarter of the elements has weight 0 and takes no part.
    const weights = () => {
      const values = Float64Array.from({ length: size }, (_, j) => (j > 0 && random() < 0.25 ? 0 : 0.5 + random()));
      return place(values, dtypes[0] === 'float64' ? 'float64' : 'float32', [size]);
    };
    const first = weights();
    const other = shape.elementWeights === 'of each branch' ? weights() : first;
    batch.elementWeights = { chosen: first.tensor, rejected: other.tensor };
    made.numbers.elementWeights = { chosen: first.stored, rejected: other.stored };
  }
  if (shape.rowWeights) batch.rowWeights = made.numbers.rowWeights = uniform(rows, 0.5, 2);
  if (shape.referenceError) {
    for (const branch of [chosen, rejected]) {
      branch.reference = undefined;
      branch.referenceError = uniform(rows, 0.2, 0.4);
    }
  }
  return made;
}
