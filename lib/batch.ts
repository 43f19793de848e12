/** Batches of a preference loss: what a caller passes, and how it becomes operands and per-row scalars. */

import {
  DTYPE_OFFSET,
  HEADER_FIELD,
  HEADER_LENGTH,
  OPERAND,
  ROW_INPUT,
  ROW_INPUT_COUNT,
  STRIDE_OFFSET,
} from './contract.js';
import { dtypeIndex } from './dtypes.js';
import { SdpoRangeError, SdpoTypeError } from './errors.js';
import {
  commonDevice,
  dtypeOf,
  isLatentArray,
  type LatentArray,
  type Operand,
  operandOf,
  readOperand,
} from './operand.js';
import {
  hasMask,
  isReferenceFree,
  LINKS,
  NON_FINITE_POLICIES,
  OBJECTIVES,
  PAIR_WEIGHTS,
  type ResolvedOptions,
  SCOPES,
  WEIGHT_RATIOS,
} from './options.js';
import { checkStream, type Stream } from './stream.js';
import { isContiguous, placeOf, Tensor } from './tensor.js';
import { checkNumber, checkNumberList, checkOptions, failType, failValue, isNumberList } from './validate.js';

/** One number per row, for both branches alike or for each of its own. */
export type PerBranch = ArrayLike<number> | { chosen: ArrayLike<number>; rejected: ArrayLike<number> };

/** Tensors of one branch, each [rows, …] with the same number of elements. */
export interface BranchBatch<T extends LatentArray = LatentArray> {
  /** u_θ: prediction of the model being trained. */
  policy: T;
  /** u_ref: prediction of the frozen reference model. */
  reference?: LatentArray;
  /** In place of `reference` (with `mapo` both may be left out, and r counts as 0): its mean squared error r per row, where it was cached. Drift (q) does not exist then. */
  referenceError?: ArrayLike<number>;
  /** u: what the model should predict, `schedule.target(x0, noise, timesteps)`. */
  target: LatentArray;
}

/** A batch of rows; a row is one (pair, timestep). */
export interface Batch<C extends LatentArray = LatentArray, R extends LatentArray = LatentArray> {
  /** One timestep per row; `{ chosen, rejected }` where the branches were noised to different ones. */
  timesteps: PerBranch;
  chosen: BranchBatch<C>;
  rejected: BranchBatch<R>;
  /** Finite weight >= 0 of each row in the batch loss, anchors included. */
  rowWeights?: ArrayLike<number>;
  /** Weights e >= 0 of the elements, [D] or [rows, D], for both branches: m = Σ e d² / Σ e. Elements of weight 0 take no part, whatever they hold. */
  elementWeights?: LatentArray;
  /** The caller's own transitions in place of the schedule's. */
  transition?: {
    /** ω >= 0 per row; Infinity where the transition has no density ratio. */
    omega?: PerBranch;
    /** ½ mean z² per row, for stored transitions (docs/mathematics.md, section 2). Not with weightRatio 'policy/reference', where log q cancels. */
    offsetChosen?: ArrayLike<number>;
    offsetRejected?: ArrayLike<number>;
  };
  /** ξ per row, one standard normal per branch: the sampled weight λ = κ(-ω m + √(2 ω m / D) ξ) in place of its expectation. For 'policy/data'. */
  weightNoise?: { chosen: ArrayLike<number>; rejected: ArrayLike<number> };
}

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

export type BranchName = 'chosen' | 'rejected';
export const BRANCHES: readonly BranchName[] = ['chosen', 'rejected'];

/** A checked batch in the layout of the addon. */
export interface Prepared {
  readonly rows: number;
  readonly size: number;
  /** Where all tensors of the batch are, and the stream of the call, undefined for the default one. */
  readonly device: string;
  readonly stream: Stream | undefined;
  readonly header: Float64Array;
  readonly rowInputs: Float64Array;
  readonly operands: { readonly [K in keyof typeof OPERAND]?: Operand };
}

const BATCH_FIELDS = ['timesteps', 'chosen', 'rejected', 'rowWeights', 'elementWeights', 'transition', 'weightNoise'];
const BRANCH_FIELDS = ['policy', 'reference', 'referenceError', 'target'];

/** Checks a batch against the options of the loss and lays it out for the addon. */
export function prepare(batch: Batch, call: EvaluateOptions, options: ResolvedOptions): Prepared {
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
  const named = Object.entries(operands).map(([name, operand]) => [argumentOf(name), operand] as const);
  const device = commonDevice(named);
  const stream = checkStream('call.stream', call.stream, device);
  for (const [name, operand] of Object.entries(operands)) {
    if (operand !== undefined && name !== 'elementWeights' && operand.size !== size) {
      failValue(
        argumentOf(name),
        `of ${size} elements a row, as batch.chosen.policy`,
        `${operand.size} elements a row`,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
  }
  return {
    rows,
    size,
    device,
    stream,
    header: writeHeader(rows, size, call, options, operands),
    rowInputs: writeRowInputs(batch, timesteps, rows, call, options),
    operands,
  };
}

/** What an operand is called in a batch. */
function argumentOf(operand: string): string {
  const [, tensor, branch] = /^(.*?)(Chosen|Rejected)?$/.exec(operand)!;
  return branch === undefined ? `batch.${tensor}` : `batch.${branch.toLowerCase()}.${tensor}`;
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

function writeHeader(
  rows: number,
  size: number,
  call: EvaluateOptions,
  options: ResolvedOptions,
  operands: Prepared['operands'],
): Float64Array {
  const header = new Float64Array(HEADER_LENGTH);
  const sum = options.logRatioReduction === 'sum';
  header[HEADER_FIELD.rows] = rows;
  header[HEADER_FIELD.size] = size;
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
  header[HEADER_FIELD.denominator] = call.denominator ?? rows;
  header[HEADER_FIELD.gradientScale] = call.gradientScale ?? 1;
  header[HEADER_FIELD.threads] = options.threads;
  header[HEADER_FIELD.safeguard] = options.safeguard ?? -1;
  header[HEADER_FIELD.dmpoAlpha] = options.dmpoAlpha;
  header[HEADER_FIELD.mapoScale] = options.mapoScale;
  header[HEADER_FIELD.mapoSteps] = options.mapoSteps;
  for (const name of Object.keys(operands) as (keyof typeof OPERAND)[]) writeOperand(header, name, operands[name]);
  return header;
}

/** Writes the dtype and the row stride of an operand into a header. */
export function writeOperand(header: Float64Array, name: keyof typeof OPERAND, operand: Operand | undefined): void {
  if (operand === undefined) return;
  header[DTYPE_OFFSET + OPERAND[name]] = dtypeIndex(operand.dtype);
  header[STRIDE_OFFSET + OPERAND[name]] = operand.rowStride;
}

function perBranch(argument: string, value: unknown): { chosen: ArrayLike<number>; rejected: ArrayLike<number> } {
  if (isNumberList(value)) return { chosen: value, rejected: value };
  if (typeof value !== 'object' || value === null) {
    failType(argument, 'an array or typed array of numbers, or { chosen, rejected } of such', value);
  }
  checkOptions(argument, value, BRANCHES);
  return {
    chosen: checkNumberList(`${argument}.chosen`, value.chosen),
    rejected: checkNumberList(`${argument}.rejected`, value.rejected),
  };
}

/** Per-row scalars of both branches: math.md's ψ scale (β/2 or βω), weight scale κω and offset κ·offset, then floor, bounds and row weight. */
function writeRowInputs(
  batch: Batch,
  timesteps: { chosen: ArrayLike<number>; rejected: ArrayLike<number> },
  rows: number,
  call: EvaluateOptions,
  options: ResolvedOptions,
): Float64Array {
  const inputs = new Float64Array(ROW_INPUT_COUNT * rows);
  const column = (field: number) => inputs.subarray(field * rows, (field + 1) * rows);
  const omega = readOmega(batch, timesteps, rows, options);
  const kappa = options.weightSharpness;
  const { offsetChosen, offsetRejected } = batch.transition ?? {};
  refuseOffsets(batch, options);
  const noise = readWeightNoise(batch, rows, options);
  const branches = [
    {
      omega: omega.chosen,
      offset: optionalList('batch.transition.offsetChosen', offsetChosen, rows),
      noise: noise?.chosen,
      error: optionalList('batch.chosen.referenceError', batch.chosen.referenceError, rows, true),
      at: [
        ROW_INPUT.psiScaleChosen,
        ROW_INPUT.weightScaleChosen,
        ROW_INPUT.weightOffsetChosen,
        ROW_INPUT.weightNoiseChosen,
        ROW_INPUT.referenceErrorChosen,
      ],
    },
    {
      omega: omega.rejected,
      offset: optionalList('batch.transition.offsetRejected', offsetRejected, rows),
      noise: noise?.rejected,
      error: optionalList('batch.rejected.referenceError', batch.rejected.referenceError, rows, true),
      at: [
        ROW_INPUT.psiScaleRejected,
        ROW_INPUT.weightScaleRejected,
        ROW_INPUT.weightOffsetRejected,
        ROW_INPUT.weightNoiseRejected,
        ROW_INPUT.referenceErrorRejected,
      ],
    },
  ];
  const elbo = options.timestepWeighting === 'elbo';
  for (const branch of branches) {
    const [psiScale, weightScale, weightOffset, weightNoise, referenceError] = branch.at.map((field) => field * rows);
    for (let i = 0; i < rows; i++) {
      const w = branch.omega[i];
      inputs[psiScale + i] = elbo ? options.beta * w : options.beta / 2;
      inputs[weightScale + i] = kappa * w;
      if (branch.offset !== undefined) inputs[weightOffset + i] = kappa * branch.offset[i];
      if (branch.noise !== undefined) inputs[weightNoise + i] = kappa * Math.sqrt(2 * w) * branch.noise[i];
      if (branch.error !== undefined) inputs[referenceError + i] = branch.error[i];
    }
  }
  writeMaskFloor(column(ROW_INPUT.logMaskFloor), call, rows, options);
  column(ROW_INPUT.logClipLow).fill(Math.log(options.clipRange[0]));
  column(ROW_INPUT.logClipHigh).fill(Math.log(options.clipRange[1]));
  const weights = optionalList('batch.rowWeights', batch.rowWeights, rows);
  const rowWeight = column(ROW_INPUT.rowWeight);
  for (let i = 0; i < rows; i++) {
    rowWeight[i] = weights === undefined ? 1 : checkNumber(`batch.rowWeights[${i}]`, weights[i], 0);
  }
  return inputs;
}

function readOmega(
  batch: Batch,
  timesteps: { chosen: ArrayLike<number>; rejected: ArrayLike<number> },
  rows: number,
  options: ResolvedOptions,
): { chosen: ArrayLike<number>; rejected: ArrayLike<number> } {
  const transition = batch.transition;
  if (transition !== undefined)
    checkOptions('batch.transition', transition, ['omega', 'offsetChosen', 'offsetRejected']);
  if (transition?.omega !== undefined) {
    const omega = perBranch('batch.transition.omega', transition.omega);
    for (const branch of BRANCHES) {
      checkNumberList('batch.transition.omega', omega[branch], rows);
      for (let i = 0; i < rows; i++) {
        const value = omega[branch][i];
        if (typeof value !== 'number') failType(`batch.transition.omega[${i}]`, 'a number >= 0 or Infinity', value);
        if (!(value >= 0)) failValue(`batch.transition.omega[${i}]`, 'a number >= 0 or Infinity', value);
      }
    }
    return omega;
  }
  const schedule = options.schedule;
  if (schedule === undefined) {
    failType('batch.transition.omega', 'given where the loss has no schedule', undefined);
  }
  if (timesteps.rejected === timesteps.chosen) {
    const both = schedule.omegas(timesteps.chosen, 'batch.timesteps');
    return { chosen: both, rejected: both };
  }
  return {
    chosen: schedule.omegas(timesteps.chosen, 'batch.timesteps.chosen'),
    rejected: schedule.omegas(timesteps.rejected, 'batch.timesteps.rejected'),
  };
}

/** An offset belongs to log q, which cancels where the weight is a ratio of the two models. */
function refuseOffsets({ transition }: Batch, { weightRatio }: ResolvedOptions): void {
  if (weightRatio !== 'policy/reference') return;
  for (const name of ['offsetChosen', 'offsetRejected'] as const) {
    if (transition?.[name] !== undefined) {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        `Expected batch.transition.${name} to be left out, since weightRatio '${weightRatio}' does not use it (log q cancels), received it`,
      );
    }
  }
}

function readWeightNoise(batch: Batch, rows: number, options: ResolvedOptions) {
  if (batch.weightNoise === undefined) return undefined;
  checkOptions('batch.weightNoise', batch.weightNoise, BRANCHES);
  if (options.weightRatio !== 'policy/data') {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected batch.weightNoise to be left out, since weightRatio '${options.weightRatio}' has no sampled form, received it`,
    );
  }
  return {
    chosen:
      optionalList('batch.weightNoise.chosen', batch.weightNoise.chosen, rows) ??
      failType('batch.weightNoise.chosen', 'a list of numbers', undefined),
    rejected:
      optionalList('batch.weightNoise.rejected', batch.weightNoise.rejected, rows) ??
      failType('batch.weightNoise.rejected', 'a list of numbers', undefined),
  };
}

/** A list of finite numbers per row; `data` lists may hold non-finite values, which the nonFinite policy is about. */
function optionalList(argument: string, value: unknown, rows: number, data = false): ArrayLike<number> | undefined {
  if (value === undefined) return undefined;
  const list = checkNumberList(argument, value, rows);
  for (let i = 0; i < rows; i++) {
    if (typeof list[i] !== 'number') failType(`${argument}[${i}]`, 'a number', list[i]);
    if (!data) checkNumber(`${argument}[${i}]`, list[i]);
  }
  return list;
}

function writeMaskFloor(floor: Float64Array, call: EvaluateOptions, rows: number, options: ResolvedOptions): void {
  const given = call.maskThreshold;
  if (given === undefined) {
    floor.fill(Math.log(options.maskThreshold));
    return;
  }
  if (!hasMask(options.objective)) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected call.maskThreshold to be left out, since objective '${options.objective}' does not use it, received it`,
    );
  }
  if (typeof given === 'number') {
    floor.fill(Math.log(checkNumber('call.maskThreshold', given, 0, 1)));
    return;
  }
  const list = checkNumberList('call.maskThreshold', given, rows);
  for (let i = 0; i < rows; i++) floor[i] = Math.log(checkNumber(`call.maskThreshold[${i}]`, list[i], 0, 1));
}
