/** Batches of a preference loss and the options of a call, as a caller passes them. */

import { fieldsOf } from '../native/validate.js';
import type { LatentArray } from '../tensor/operand.js';
import type { Stream } from '../tensor/stream.js';
import type { Tensor } from '../tensor/tensor.js';

export type BranchName = 'chosen' | 'rejected';

/**
 * One number per row: a list or a Tensor [rows] or [rows, 1] on the host, or one number for all rows; in a call with `results: 'device'` also a Tensor
 * of float64 or float32 on the device of the batch. Nobody looks at the values of such a tensor before they are used: a row with a value that would
 * be an error in a list counts as not finite.
 */
export type RowNumbers = number | ArrayLike<number> | Tensor;

/** One number per row, for both branches alike or for each of its own. */
export type PerBranch<N extends RowNumbers = RowNumbers> = N | { chosen: N; rejected: N };

/** Weights of elements: numbers, or a mask. */
export type ElementWeights = LatentArray | Uint8Array | Uint8ClampedArray | readonly boolean[];

/** Weights of elements of each branch. */
export interface BranchElementWeights {
  chosen: ElementWeights;
  rejected: ElementWeights;
}

/** Tensors of one branch, each [rows, …] with the same number of elements. */
export interface BranchBatch<T extends LatentArray = LatentArray> {
  /** u_θ: prediction of the model being trained. */
  policy: T;
  /** u_ref: prediction of the frozen reference model. */
  reference?: LatentArray | undefined;
  /** In place of `reference` (with `mapo` both may be left out, and r counts as 0): its mean squared error r per row, where it was cached. Drift (q) does not exist then. */
  referenceError?: RowNumbers | undefined;
  /** u: what the model should predict, `schedule.target(x0, noise, timesteps)`. */
  target: LatentArray;
}

/** The numbers per row that the objective reads. */
export interface RowBatch {
  /**
   * One timestep per row; `{ chosen, rejected }` where the branches were noised to different ones. Needed where ω is looked up (weights, `elbo`
   * weighting, without `transition.omega`) and with a `timestepWindow`.
   */
  timesteps?: PerBranch | undefined;
  /** Weight >= 0 of each row in the batch loss, anchors included. Default 1. */
  rowWeights?: RowNumbers | undefined;
  /** s >= 0: multiplies ψ, per row or per row and branch; for weights by timestep, by sample, or β that changes during training. Default 1. */
  betaScale?: PerBranch | undefined;
  /** Subtracted from the logit before the link. Default 0. For objectives with a link. */
  margins?: RowNumbers | undefined;
  /** false or 0: the row is removed, as by the mask. Default all. */
  keep?: RowNumbers | readonly boolean[] | undefined;
  /** The caller's own transitions in place of the schedule's. */
  transition?:
    | {
        /** ω >= 0 per row; Infinity where the transition has no density ratio. */
        omega?: PerBranch | undefined;
        /** ½ mean z² per row, for stored transitions (docs/mathematics.md, section 2). Not with weightRatio 'policy/reference', where log q cancels. */
        offsetChosen?: RowNumbers | undefined;
        offsetRejected?: RowNumbers | undefined;
      }
    | undefined;
  /** ξ per row, one standard normal per branch: the sampled weight λ = κ(-ω m + √(2 ω m / D) ξ) in place of its expectation. For 'policy/data'. */
  weightNoise?: { chosen: RowNumbers; rejected: RowNumbers } | undefined;
}

/** A batch of rows; a row is one (pair, timestep). */
export interface Batch<C extends LatentArray = LatentArray, R extends LatentArray = LatentArray> extends RowBatch {
  chosen: BranchBatch<C>;
  rejected: BranchBatch<R>;
  /**
   * Weights e >= 0 of the elements: m = Σ e d² / Σ e. [D] or [rows, D]; a Tensor of the policy's axes may have 1 for those that it
   * serves whole ([rows, 1, H, W], [1, C, 1, 1]), which makes a copy of full size. Elements of weight 0 take no part, whatever they hold.
   * One weighting for both branches, or `{ chosen, rejected }`: then m, δ, q, Σ e and gradient of a branch are by its own, and a `safeguard` is
   * refused, since the mean of d_c d_r pairs the elements of both.
   */
  elementWeights?: ElementWeights | BranchElementWeights | undefined;
  /** How many rows flat arrays have; told by tensors, timesteps and other numbers per row otherwise. */
  rows?: number | undefined;
}

/** A batch of device tensors, whose numbers per row may lie on the device as well. */
export type DeviceBatch<C extends Tensor = Tensor, R extends Tensor = Tensor> = Batch<C, R>;

/** Options of one call. */
export interface EvaluateOptions {
  /** false: statistics only, no gradient is formed. Default true. */
  gradients?: boolean | undefined;
  /** Multiplies the gradients before they are rounded to the policy's dtype (loss scaling for float16). Default 1. */
  gradientScale?: number | undefined;
  /** What the sum over rows is divided by; default the number of rows. For gradient accumulation and ranks with different row counts. */
  denominator?: number | undefined;
  /** Overrides the option for this call, as one number or one per row. */
  maskThreshold?: RowNumbers | undefined;
  /** Of the device that holds the tensors; default: its default stream. */
  stream?: Stream | undefined;
}

export const BATCH_FIELDS = fieldsOf<Batch>({
  chosen: true,
  rejected: true,
  timesteps: true,
  rowWeights: true,
  betaScale: true,
  margins: true,
  keep: true,
  elementWeights: true,
  transition: true,
  weightNoise: true,
  rows: true,
});

export const BRANCH_FIELDS = fieldsOf<BranchBatch>({
  policy: true,
  reference: true,
  referenceError: true,
  target: true,
});

export const TRANSITION_FIELDS = fieldsOf<NonNullable<RowBatch['transition']>>({
  omega: true,
  offsetChosen: true,
  offsetRejected: true,
});

export const EITHER_FIELDS = fieldsOf<{ chosen: unknown; rejected: unknown }>({ chosen: true, rejected: true });
