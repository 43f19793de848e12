/** Batches of a preference loss: what a caller passes, and how it becomes operands and per-row scalars. */

import {
  DTYPE_OFFSET,
  HEADER_FIELD,
  HEADER_LENGTH,
  OPERAND,
  ROW_INPUT_COUNT,
  STRIDE_OFFSET,
} from '../native/contract.js';
import { SdpoRangeError, SdpoTypeError } from '../native/errors.js';
import { checkOptions, failType, failValue } from '../native/validate.js';
import { dtypeIndex } from '../tensor/dtypes.js';
import {
  commonDevice,
  dtypeOf,
  isLatentArray,
  type LatentArray,
  type Operand,
  operandOf,
  readOperand,
} from '../tensor/operand.js';
import { checkStream, type Stream } from '../tensor/stream.js';
import { isContiguous, placeOf, Tensor } from '../tensor/tensor.js';
import {
  isReferenceFree,
  LINKS,
  NON_FINITE_POLICIES,
  OBJECTIVES,
  PAIR_WEIGHTS,
  type ResolvedOptions,
  SCOPES,
  WEIGHT_RATIOS,
} from './options.js';
import { perBranch, writeRowInputs } from './row-inputs.js';

export { BRANCHES, type BranchName } from './row-inputs.js';

/**
 * One number per row: a list on the host, or, in a call with `results: 'device'`, a Tensor [rows] of float64 or float32 on the device of the batch. Nobody
 * looks at the values of such a tensor before they are used: a row with a value that would be an error in a list counts as not finite.
 */
export type RowNumbers = ArrayLike<number> | Tensor;

/** One number per row, for both branches alike or for each of its own. */
export type PerBranch<N extends RowNumbers = ArrayLike<number>> = N | { chosen: N; rejected: N };

/** Tensors of one branch, each [rows, …] with the same number of elements. */
export interface BranchBatch<T extends LatentArray = LatentArray, N extends RowNumbers = ArrayLike<number>> {
  /** u_θ: prediction of the model being trained. */
  policy: T;
  /** u_ref: prediction of the frozen reference model. */
  reference?: LatentArray;
  /** In place of `reference` (with `mapo` both may be left out, and r counts as 0): its mean squared error r per row, where it was cached. Drift (q) does not exist then. */
  referenceError?: N;
  /** u: what the model should predict, `schedule.target(x0, noise, timesteps)`. */
  target: LatentArray;
}

/** A batch of rows; a row is one (pair, timestep). */
export interface Batch<
  C extends LatentArray = LatentArray,
  R extends LatentArray = LatentArray,
  N extends RowNumbers = ArrayLike<number>,
> {
  /** One timestep per row; `{ chosen, rejected }` where the branches were noised to different ones. */
  timesteps: PerBranch<N>;
  chosen: BranchBatch<C, N>;
  rejected: BranchBatch<R, N>;
  /** Finite weight >= 0 of each row in the batch loss, anchors included. */
  rowWeights?: N;
  /** Weights e >= 0 of the elements, [D] or [rows, D], for both branches: m = Σ e d² / Σ e. Elements of weight 0 take no part, whatever they hold. */
  elementWeights?: LatentArray;
  /** The caller's own transitions in place of the schedule's. */
  transition?: {
    /** ω >= 0 per row; Infinity where the transition has no density ratio. */
    omega?: PerBranch<N>;
    /** ½ mean z² per row, for stored transitions (docs/mathematics.md, section 2). Not with weightRatio 'policy/reference', where log q cancels. */
    offsetChosen?: N;
    offsetRejected?: N;
  };
  /** ξ per row, one standard normal per branch: the sampled weight λ = κ(-ω m + √(2 ω m / D) ξ) in place of its expectation. For 'policy/data'. */
  weightNoise?: { chosen: N; rejected: N };
}

/** A batch of device tensors whose numbers per row may lie on the device as well. */
export type DeviceBatch<C extends Tensor = Tensor, R extends Tensor = Tensor> = Batch<C, R, RowNumbers>;

/** Options of one call. */
export interface EvaluateOptions {
  /** false: statistics only, no gradient is formed. Default true. */
  gradients?: boolean;
  /** Multiplies the gradients before they are rounded to the policy's dtype (loss scaling for float16). Default 1. */
  gradientScale?: number;
  /** What the sum over rows is divided by; default the number of rows. For gradient accumulation and ranks with different row counts. */
  denominator?: number;
  /** Overrides the option for this call, as one number or one per row. */
  maskThreshold?: number | ArrayLike<number>;
  /** Of the device that holds the tensors; default: its default stream. */
  stream?: Stream;
}

/** What the options of a loss alone decide, worked out once. */
export interface Fixed {
  /** A header with every field of the options filled in. */
  readonly header: Float64Array;
  readonly logMaskFloor: number;
  readonly logClipLow: number;
  readonly logClipHigh: number;
}

/** The scalars of a call, which a result keeps once the call is over, so that the next call `into` it makes none. */
export interface Scalars {
  readonly header: Float64Array;
  /** [ROW_INPUT_COUNT, rows] */
  readonly rowInputs: Float64Array;
}

/** A checked batch in the layout of the addon. */
export interface Prepared {
  readonly rows: number;
  readonly size: number;
  /** Where all tensors of the batch are, and the stream of the call, undefined for the default one. */
  readonly device: string;
  readonly stream: Stream | undefined;
  readonly scalars: Scalars;
  readonly operands: Inputs;
}

type InputName = Exclude<keyof typeof OPERAND, 'gradientChosen' | 'gradientRejected'>;
type Inputs = { readonly [K in InputName]: Operand | undefined };

/** What the operands are called in a batch. */
const ARGUMENTS: { readonly [K in InputName]: string } = {
  policyChosen: 'batch.chosen.policy',
  referenceChosen: 'batch.chosen.reference',
  targetChosen: 'batch.chosen.target',
  policyRejected: 'batch.rejected.policy',
  referenceRejected: 'batch.rejected.reference',
  targetRejected: 'batch.rejected.target',
  elementWeights: 'batch.elementWeights',
};
const INPUT_NAMES = Object.keys(ARGUMENTS) as readonly InputName[];

export const BATCH_FIELDS = [
  'timesteps',
  'chosen',
  'rejected',
  'rowWeights',
  'elementWeights',
  'transition',
  'weightNoise',
];
const BRANCH_FIELDS = ['policy', 'reference', 'referenceError', 'target'];

/**
 * Checks a batch against the options of the loss and lays it out for the addon.
 *
 * @param earlier scalars that no other call uses, written again where the rows are as many
 */
export function prepare(
  batch: Batch,
  call: EvaluateOptions,
  options: ResolvedOptions,
  fixed: Fixed,
  earlier?: Scalars,
): Prepared {
  checkOptions('batch', batch, BATCH_FIELDS);
  const timesteps = perBranch('batch.timesteps', batch.timesteps);
  const rows = timesteps.chosen.length;
  if (timesteps.rejected.length !== rows) {
    failValue('batch.timesteps.rejected', `of length ${rows} as chosen`, timesteps.rejected, 'ERR_SDPO_INVALID_LENGTH');
  }
  if (rows === 0 && call.denominator === undefined) {
    failValue(
      'batch.timesteps',
      'of at least one row (the mean over no rows does not exist; a rank without rows passes its denominator)',
      timesteps.chosen,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  const chosen = readBranch('batch.chosen', batch.chosen, rows, options);
  const rejected = readBranch('batch.rejected', batch.rejected, rows, options);
  const size = chosen.policy.size;
  const elementWeights = readElementWeights(batch.elementWeights, rows, size);
  const operands = {
    policyChosen: chosen.policy,
    referenceChosen: chosen.reference,
    targetChosen: chosen.target,
    policyRejected: rejected.policy,
    referenceRejected: rejected.reference,
    targetRejected: rejected.target,
    elementWeights,
  };
  const device = deviceOf(operands, chosen.policy.device);
  const stream = checkStream('call.stream', call.stream, device);
  for (const name of INPUT_NAMES) {
    const operand = operands[name];
    if (operand !== undefined && operand.size !== size) {
      failValue(
        ARGUMENTS[name],
        `of ${size} elements a row, as batch.chosen.policy`,
        `${operand.size} elements a row`,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
  }
  const scalars = earlier?.rowInputs.length === ROW_INPUT_COUNT * rows ? earlier : makeScalars(rows);
  writeHeader(scalars.header, fixed, rows, size, call, operands);
  writeRowInputs(scalars.rowInputs, batch, timesteps, rows, call, options, fixed);
  return { rows, size, device, stream, scalars, operands };
}

function makeScalars(rows: number): Scalars {
  const bytes = Float64Array.BYTES_PER_ELEMENT;
  // One block of memory for both: taking one is most of the cost.
  const buffer = new ArrayBuffer((HEADER_LENGTH + ROW_INPUT_COUNT * rows) * bytes);
  return {
    header: new Float64Array(buffer, 0, HEADER_LENGTH),
    rowInputs: new Float64Array(buffer, HEADER_LENGTH * bytes),
  };
}

/** The device of all operands; what an error says is put together only where one lies elsewhere. */
function deviceOf(operands: Inputs, device: string): string {
  for (const name of INPUT_NAMES) {
    const operand = operands[name];
    if (operand !== undefined && operand.device !== device) {
      return commonDevice(INPUT_NAMES.map((name) => [ARGUMENTS[name], operands[name]]));
    }
  }
  return device;
}

function readBranch(argument: string, branch: unknown, rows: number, options: ResolvedOptions) {
  checkOptions(argument, branch, BRANCH_FIELDS);
  const { policy, reference, referenceError, target } = branch as unknown as BranchBatch;
  const neither = reference === undefined && referenceError === undefined;
  const both = reference !== undefined && referenceError !== undefined;
  if (both || (neither && !isReferenceFree(options.objective))) {
    throw new SdpoTypeError(
      'ERR_SDPO_INVALID_ARG_TYPE',
      `Expected ${argument} to have either reference or referenceError, received ${neither ? 'neither' : 'both'}`,
    );
  }
  const user = options.klWeight !== 0 ? 'klWeight' : options.objective === 'dspo' ? "objective 'dspo'" : undefined;
  if (reference === undefined && user !== undefined) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected ${argument}.reference to be given, since ${user} needs the drift q, which only a reference tensor can give, received none`,
    );
  }
  return {
    policy: readOperand(`${argument}.policy`, policy, rows),
    reference: reference === undefined ? undefined : readOperand(`${argument}.reference`, reference, rows),
    target: readOperand(`${argument}.target`, target, rows),
  };
}

function readElementWeights(value: unknown, rows: number, size: number): Operand | undefined {
  if (value === undefined) return undefined;
  const argument = 'batch.elementWeights';
  if (!isLatentArray(value)) failType(argument, 'a Float32Array, a Float64Array or a Tensor', value);
  if ((value instanceof Tensor ? value.size : value.length) === size) {
    if (!(value instanceof Tensor)) return { data: value, device: 'cpu', dtype: dtypeOf(value), rowStride: 0, size };
    if (!isContiguous(value, placeOf(value, argument)))
      failValue(argument, 'contiguous where it serves all rows', value);
    return operandOf(value, 0, size);
  }
  const operand = readOperand(argument, value, rows);
  if (operand.size !== size) {
    failValue(argument, `of ${size} or ${rows} x ${size} elements`, value, 'ERR_SDPO_INVALID_LENGTH');
  }
  return operand;
}

/** Works out what does not depend on a batch. */
export function fix(options: ResolvedOptions): Fixed {
  const header = new Float64Array(HEADER_LENGTH);
  const sum = options.logRatioReduction === 'sum';
  header[HEADER_FIELD.objective] = OBJECTIVES.indexOf(options.objective);
  header[HEADER_FIELD.link] = LINKS.indexOf(options.link);
  header[HEADER_FIELD.pairWeight] = PAIR_WEIGHTS.indexOf(options.pairWeight);
  header[HEADER_FIELD.weightRatio] = WEIGHT_RATIOS.indexOf(options.weightRatio);
  header[HEADER_FIELD.sftScope] = SCOPES.indexOf(options.sftScope);
  header[HEADER_FIELD.klScope] = SCOPES.indexOf(options.klScope);
  header[HEADER_FIELD.weightGradient] = options.weightGradient ? 1 : 0;
  header[HEADER_FIELD.sumWeight] = sum ? 1 : 0;
  header[HEADER_FIELD.sumPsi] = sum && options.timestepWeighting === 'elbo' ? 1 : 0;
  header[HEADER_FIELD.beta] = options.beta;
  header[HEADER_FIELD.labelSmoothing] = options.labelSmoothing;
  header[HEADER_FIELD.sftWeight] = options.sftWeight;
  header[HEADER_FIELD.klWeight] = options.klWeight;
  header[HEADER_FIELD.nonFinite] = NON_FINITE_POLICIES.indexOf(options.nonFinite);
  header[HEADER_FIELD.threads] = options.threads;
  header[HEADER_FIELD.safeguard] = options.safeguard ?? -1;
  header[HEADER_FIELD.dmpoAlpha] = options.dmpoAlpha;
  header[HEADER_FIELD.mapoScale] = options.mapoScale;
  header[HEADER_FIELD.mapoSteps] = options.mapoSteps;
  return {
    header,
    logMaskFloor: Math.log(options.maskThreshold),
    logClipLow: Math.log(options.clipRange[0]),
    logClipHigh: Math.log(options.clipRange[1]),
  };
}

function writeHeader(
  header: Float64Array,
  fixed: Fixed,
  rows: number,
  size: number,
  call: EvaluateOptions,
  operands: Prepared['operands'],
): void {
  header.set(fixed.header);
  header[HEADER_FIELD.rows] = rows;
  header[HEADER_FIELD.size] = size;
  header[HEADER_FIELD.denominator] = call.denominator ?? rows;
  header[HEADER_FIELD.gradientScale] = call.gradientScale ?? 1;
  writeOperand(header, OPERAND.policyChosen, operands.policyChosen);
  writeOperand(header, OPERAND.referenceChosen, operands.referenceChosen);
  writeOperand(header, OPERAND.targetChosen, operands.targetChosen);
  writeOperand(header, OPERAND.policyRejected, operands.policyRejected);
  writeOperand(header, OPERAND.referenceRejected, operands.referenceRejected);
  writeOperand(header, OPERAND.targetRejected, operands.targetRejected);
  writeOperand(header, OPERAND.elementWeights, operands.elementWeights);
}

/** Writes the dtype and the row stride of an operand (a position in OPERAND) into a header. */
export function writeOperand(header: Float64Array, position: number, operand: Operand | undefined): void {
  if (operand === undefined) return;
  header[DTYPE_OFFSET + position] = dtypeIndex(operand.dtype);
  header[STRIDE_OFFSET + position] = operand.rowStride;
}
