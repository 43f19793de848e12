/** The scalars of each row that the addon is given: checked lists of a batch and of a call, brought into the terms of docs/mathematics.md. */

import { ROW_INPUT } from '../native/contract.js';
import { SdpoRangeError } from '../native/errors.js';
import { checkNumber, checkNumberList, checkOptions, failType, failValue, isNumberList } from '../native/validate.js';
import { Tensor } from '../tensor/tensor.js';
import type { Batch, EvaluateOptions, Fixed } from './batch.js';
import { hasMask, type ResolvedOptions } from './options.js';

export type BranchName = 'chosen' | 'rejected';
export const BRANCHES: readonly BranchName[] = ['chosen', 'rejected'];

/** A list for both branches, or one for each. */
export function perBranch(
  argument: string,
  value: unknown,
): { chosen: ArrayLike<number>; rejected: ArrayLike<number> } {
  if (isNumberList(value)) return { chosen: value, rejected: value };
  if (typeof value !== 'object' || value === null || value instanceof Tensor) {
    failType(argument, 'an array or typed array of numbers, or { chosen, rejected } of such', value);
  }
  checkOptions(argument, value, BRANCHES);
  return {
    chosen: checkNumberList(`${argument}.chosen`, value.chosen),
    rejected: checkNumberList(`${argument}.rejected`, value.rejected),
  };
}

/** Per-row scalars of both branches: math.md's ψ scale (β/2 or βω), weight scale κω and offset κ·offset, then floor, bounds and row weight. */
export function writeRowInputs(
  inputs: Float64Array,
  batch: Batch,
  timesteps: { chosen: ArrayLike<number>; rejected: ArrayLike<number> },
  rows: number,
  call: EvaluateOptions,
  options: ResolvedOptions,
  fixed: Fixed,
): void {
  const omega = readOmega(batch, timesteps, rows, options);
  const { offsetChosen, offsetRejected } = batch.transition ?? {};
  refuseOffsets(batch, options);
  const noise = readWeightNoise(batch, rows, options);
  const chosen = {
    omega: omega.chosen,
    offset: optionalList('batch.transition.offsetChosen', offsetChosen, rows),
    noise: noise?.chosen,
    error: optionalList('batch.chosen.referenceError', batch.chosen.referenceError, rows, true),
  };
  const rejected = {
    omega: omega.rejected,
    offset: optionalList('batch.transition.offsetRejected', offsetRejected, rows),
    noise: noise?.rejected,
    error: optionalList('batch.rejected.referenceError', batch.rejected.referenceError, rows, true),
  };
  inputs.fill(0);
  writeBranchInputs(inputs, CHOSEN_INPUTS, chosen, rows, options);
  writeBranchInputs(inputs, REJECTED_INPUTS, rejected, rows, options);
  writeMaskFloor(inputs, call, rows, options, fixed);
  fillColumn(inputs, ROW_INPUT.logClipLow, rows, fixed.logClipLow);
  fillColumn(inputs, ROW_INPUT.logClipHigh, rows, fixed.logClipHigh);
  const weights = optionalList('batch.rowWeights', batch.rowWeights, rows, false, 0);
  const rowWeight = ROW_INPUT.rowWeight * rows;
  for (let i = 0; i < rows; i++) inputs[rowWeight + i] = weights === undefined ? 1 : weights[i];
}

const CHOSEN_INPUTS = {
  psiScale: ROW_INPUT.psiScaleChosen,
  weightScale: ROW_INPUT.weightScaleChosen,
  weightOffset: ROW_INPUT.weightOffsetChosen,
  weightNoise: ROW_INPUT.weightNoiseChosen,
  referenceError: ROW_INPUT.referenceErrorChosen,
};

const REJECTED_INPUTS: typeof CHOSEN_INPUTS = {
  psiScale: ROW_INPUT.psiScaleRejected,
  weightScale: ROW_INPUT.weightScaleRejected,
  weightOffset: ROW_INPUT.weightOffsetRejected,
  weightNoise: ROW_INPUT.weightNoiseRejected,
  referenceError: ROW_INPUT.referenceErrorRejected,
};

interface BranchLists {
  omega: ArrayLike<number>;
  offset: ArrayLike<number> | undefined;
  noise: ArrayLike<number> | undefined;
  error: ArrayLike<number> | undefined;
}

function writeBranchInputs(
  inputs: Float64Array,
  at: typeof CHOSEN_INPUTS,
  { omega, offset, noise, error }: BranchLists,
  rows: number,
  { timestepWeighting, beta, weightSharpness: kappa }: ResolvedOptions,
): void {
  const elbo = timestepWeighting === 'elbo';
  for (let i = 0; i < rows; i++) {
    const w = omega[i];
    inputs[at.psiScale * rows + i] = elbo ? beta * w : beta / 2;
    inputs[at.weightScale * rows + i] = kappa * w;
    if (offset !== undefined) inputs[at.weightOffset * rows + i] = kappa * offset[i];
    if (noise !== undefined) inputs[at.weightNoise * rows + i] = kappa * Math.sqrt(2 * w) * noise[i];
    if (error !== undefined) inputs[at.referenceError * rows + i] = error[i];
  }
}

function fillColumn(inputs: Float64Array, field: number, rows: number, value: number): void {
  inputs.fill(value, field * rows, (field + 1) * rows);
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

/** A list of finite numbers >= `min` per row; `data` lists may hold non-finite values, which the nonFinite policy is about. */
function optionalList(
  argument: string,
  value: unknown,
  rows: number,
  data = false,
  min = -Infinity,
): ArrayLike<number> | undefined {
  if (value === undefined) return undefined;
  const list = checkNumberList(argument, value, rows);
  for (let i = 0; i < rows; i++) {
    const entry = list[i];
    // Names of entries are put together only where one is needed.
    if (typeof entry === 'number' && (data || (Number.isFinite(entry) && entry >= min))) continue;
    if (typeof entry !== 'number') failType(`${argument}[${i}]`, 'a number', entry);
    checkNumber(`${argument}[${i}]`, entry);
    checkNumber(`${argument}[${i}]`, entry, min);
  }
  return list;
}

function writeMaskFloor(
  inputs: Float64Array,
  call: EvaluateOptions,
  rows: number,
  options: ResolvedOptions,
  fixed: Fixed,
): void {
  const given = call.maskThreshold;
  if (given === undefined) {
    fillColumn(inputs, ROW_INPUT.logMaskFloor, rows, fixed.logMaskFloor);
    return;
  }
  if (!hasMask(options.objective)) {
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected call.maskThreshold to be left out, since objective '${options.objective}' does not use it, received it`,
    );
  }
  if (typeof given === 'number') {
    fillColumn(inputs, ROW_INPUT.logMaskFloor, rows, Math.log(checkNumber('call.maskThreshold', given, 0, 1)));
    return;
  }
  const list = checkNumberList('call.maskThreshold', given, rows);
  const floor = ROW_INPUT.logMaskFloor * rows;
  for (let i = 0; i < rows; i++) inputs[floor + i] = Math.log(checkNumber(`call.maskThreshold[${i}]`, list[i], 0, 1));
}
