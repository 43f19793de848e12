/** The numbers per row of a batch: which of them the loss reads, where ω comes from, and what may not be given. */

import { SdpoRangeError } from '../native/errors.js';
import { failType, failValue, readOptions } from '../native/validate.js';
import type { NoiseSchedule } from '../schedule/schedule.js';
import { Tensor } from '../tensor/tensor.js';
import {
  type BranchName,
  EITHER_FIELDS,
  type EvaluateOptions,
  type RowBatch,
  type RowNumbers,
  TRANSITION_FIELDS,
} from './batch.js';
import {
  BRANCHES,
  COLUMN,
  type ColumnWriter,
  checkOmega,
  checkThreshold,
  hostList,
  isOnDevice,
  type NamedNumbers,
  perBranch,
} from './columns.js';
import { hasMask, type ResolvedOptions, readsOmega, TRAITS } from './options.js';

/** The argument that holds the numbers: of a call with tensors, or of the objective alone. */
type Given = 'batch' | 'numbers';

/**
 * Checks the numbers per row and writes those that differ from their defaults.
 *
 * @param complete whether the objective is evaluated, so that what it reads has to be there
 */
export function writeRowNumbers(
  out: ColumnWriter,
  batch: RowBatch,
  rows: number,
  device: string,
  call: EvaluateOptions,
  options: ResolvedOptions,
  complete: boolean,
  of: Given,
): void {
  writeTransition(out, batch, rows, device, options, complete, of);
  writeWeightNoise(out, batch, options, of);
  if (batch.betaScale !== undefined) {
    refuseUnread(`${of}.betaScale`, 'betaScaleChosen', options);
    const scales = perBranch(`${of}.betaScale`, batch.betaScale);
    for (const branch of BRANCHES) out.write(COLUMN.betaScale[branch], scales[branch]);
  }
  if (batch.margins !== undefined) {
    refuseUnread(`${of}.margins`, 'margin', options);
    out.write(COLUMN.margin, { name: `${of}.margins`, value: batch.margins });
  }
  if (batch.keep !== undefined) out.write(COLUMN.keep, { name: `${of}.keep`, value: batch.keep as RowNumbers });
  if (batch.rowWeights !== undefined) {
    out.write(COLUMN.rowWeight, { name: `${of}.rowWeights`, value: batch.rowWeights });
  }
  if (call.maskThreshold !== undefined) {
    const name = of === 'batch' ? 'call.maskThreshold' : `${of}.maskThreshold`;
    if (!hasMask(options.objective)) refuse(name, `objective '${options.objective}' does not use it`);
    out.write(COLUMN.maskThreshold, { name, value: call.maskThreshold }, checkThreshold);
  }
}

function refuse(argument: string, reason: string): never {
  throw new SdpoRangeError(
    'ERR_SDPO_INVALID_OPTION',
    `Expected ${argument} to be left out, since ${reason}, received it`,
  );
}

function refuseUnread(argument: string, input: string, { objective }: ResolvedOptions): void {
  if (!TRAITS[objective].rowInputs.includes(input)) refuse(argument, `objective '${objective}' does not use it`);
}

function writeTransition(
  out: ColumnWriter,
  batch: RowBatch,
  rows: number,
  device: string,
  options: ResolvedOptions,
  complete: boolean,
  of: Given,
): void {
  const transition = readTransition(`${of}.transition`, batch.transition);
  const timesteps = perBranch(`${of}.timesteps`, batch.timesteps);
  const omega = perBranch(`${of}.transition.omega`, transition.omega);
  const source = new OmegaSource(out, options, rows, device, complete);
  if (timesteps.chosen.value === timesteps.rejected.value && omega.chosen.value === omega.rejected.value) {
    source.write(BRANCHES, timesteps.chosen, omega.chosen);
  } else {
    for (const branch of BRANCHES) source.write([branch], timesteps[branch], omega[branch]);
  }
  for (const branch of BRANCHES) {
    const field = branch === 'chosen' ? 'offsetChosen' : 'offsetRejected';
    const value = transition[field];
    if (value === undefined) continue;
    const name = `${of}.transition.${field}`;
    // An offset belongs to log q, which cancels where the weight is a ratio of the two models.
    if (options.weightRatio === 'policy/reference') {
      refuse(name, `weightRatio '${options.weightRatio}' does not use it (log q cancels)`);
    }
    out.write(COLUMN.offset[branch], { name, value });
  }
}

type Transition = NonNullable<RowBatch['transition']>;
const NO_TRANSITION: Transition = {};

function readTransition(argument: string, given: Transition | undefined): Transition {
  return given === undefined ? NO_TRANSITION : readOptions(argument, given, TRANSITION_FIELDS);
}

function writeWeightNoise(out: ColumnWriter, batch: RowBatch, { weightRatio }: ResolvedOptions, of: Given): void {
  if (batch.weightNoise === undefined) return;
  const weightNoise = readOptions(`${of}.weightNoise`, batch.weightNoise, EITHER_FIELDS) as typeof batch.weightNoise;
  if (weightRatio !== 'policy/data') {
    refuse(`${of}.weightNoise`, `weightRatio '${weightRatio}' has no sampled form`);
  }
  for (const branch of BRANCHES) {
    const name = `${of}.weightNoise.${branch}`;
    out.write(COLUMN.noise[branch], {
      name,
      value: weightNoise[branch] ?? failType(name, 'a list of numbers', undefined),
    });
  }
}

/** ω of each row: the caller's, or that of the schedule at the row's timestep, looked up here or on the device. */
class OmegaSource {
  readonly #out: ColumnWriter;
  readonly #options: ResolvedOptions;
  readonly #rows: number;
  readonly #device: string;
  readonly #complete: boolean;

  constructor(out: ColumnWriter, options: ResolvedOptions, rows: number, device: string, complete: boolean) {
    this.#complete = complete;
    this.#out = out;
    this.#options = options;
    this.#rows = rows;
    this.#device = device;
  }

  write(branches: readonly BranchName[], timesteps: NamedNumbers, omega: NamedNumbers): void {
    const { schedule, timestepWindow } = this.#options;
    const reads = readsOmega(this.#options);
    const needed = timestepWindow !== undefined || (reads && omega.value === undefined && schedule !== undefined);
    if (timesteps.value === undefined) {
      if (needed && this.#complete)
        failType(timesteps.name, 'an array or typed array of numbers, one per row', undefined);
    } else if (isOnDevice(timesteps.value)) {
      for (const branch of branches) this.#out.write(COLUMN.timestep[branch], timesteps);
    }
    for (const branch of branches) this.#out.write(COLUMN.omega[branch], omega, checkOmega);
    if (timesteps.value === undefined || isOnDevice(timesteps.value)) {
      if (omega.value === undefined) this.#fromTable(timesteps, omega.name, reads);
      return;
    }
    const list = hostList(timesteps.name, timesteps.value, this.#rows);
    const steps = typeof list === 'number' ? [list] : list;
    const checked = this.#check(timesteps.name, steps);
    if (timestepWindow !== undefined) {
      for (const branch of branches) this.#numbers(COLUMN.timestep[branch], list, checked);
    }
    if (omega.value !== undefined) return;
    if (schedule === undefined) {
      if (reads && this.#complete) failType(omega.name, 'given where the loss has no schedule', undefined);
      return;
    }
    const found = reads ? schedule.omegas(checked, timesteps.name) : omegasOfStatistics(schedule, checked);
    for (const branch of branches) this.#numbers(COLUMN.omega[branch], list, found);
  }

  /** One number for all rows where the caller gave one, else a list. */
  #numbers(field: number, given: ArrayLike<number> | number, list: ArrayLike<number>): void {
    if (typeof given === 'number') this.#out.constant(field, list[0]!);
    else this.#out.list(field, list);
  }

  /** A copy of timesteps that are numbers, each read once. */
  #check(name: string, list: ArrayLike<number>): Float64Array {
    const at = (i: number) => (list.length === 1 && this.#rows !== 1 ? name : `${name}[${i}]`);
    const out = new Float64Array(list.length);
    for (let i = 0; i < out.length; i++) {
      const step: unknown = list[i];
      if (typeof step !== 'number') failType(at(i), 'a number', step);
      if (!Number.isFinite(step)) failValue(at(i), 'a finite number', step);
      out[i] = step;
    }
    const { schedule } = this.#options;
    if (schedule !== undefined && (readsOmega(this.#options) || this.#options.timestepWindow !== undefined)) {
      refuseSigmas(schedule, name, out);
    }
    return out;
  }

  #fromTable(timesteps: NamedNumbers, omega: string, reads: boolean): void {
    const { schedule } = this.#options;
    const indexed = schedule?.family === 'variance-preserving' && timesteps.value !== undefined;
    if (schedule !== undefined && indexed) {
      this.#out.table(tableOf(schedule, this.#device));
      return;
    }
    if (!reads || !this.#complete) return;
    if (schedule === undefined) failType(omega, 'given where the loss has no schedule', undefined);
    throw new SdpoRangeError(
      'ERR_SDPO_INVALID_OPTION',
      `Expected ${timesteps.name} to be a list of numbers, since the timesteps of a flow schedule are real numbers and index no table, received a Tensor (schedule.omegas gives what ${omega} takes as a Tensor)`,
    );
  }
}

/** ω for the statistic logWeight of an objective that does not read it; NaN where the schedule has none. */
function omegasOfStatistics(schedule: NoiseSchedule, timesteps: Float64Array): Float64Array {
  try {
    return schedule.omegas(timesteps);
  } catch {
    if (timesteps.length === 1) return Float64Array.of(Number.NaN);
    return timesteps.map((timestep) => omegasOfStatistics(schedule, Float64Array.of(timestep))[0]!);
  }
}

/** σ in place of t = Tσ would remove every row without a word: its ω is close to that of clean data. */
function refuseSigmas({ family, trainSteps }: NoiseSchedule, name: string, timesteps: Float64Array): void {
  if (family !== 'flow' || trainSteps <= 1 || timesteps.length === 0) return;
  for (const t of timesteps) if (!(t > 0 && t <= 1)) return;
  failValue(
    name,
    `timesteps in (0, ${trainSteps}] of a flow schedule; these look like noise levels σ, so multiply them by ${trainSteps}`,
    `only numbers in (0, 1], the first ${timesteps[0]}`,
  );
}

/** ω of every timestep of a schedule, in the memory of each device that asked for it; it goes with the schedule. */
const tables = new WeakMap<NoiseSchedule, Map<string, Tensor>>();

function tableOf(schedule: NoiseSchedule, device: string): Tensor {
  const known = tables.get(schedule) ?? new Map<string, Tensor>();
  tables.set(schedule, known);
  const found = known.get(device);
  if (found !== undefined) return found;
  const omegas = schedule.omegas(Float64Array.from({ length: schedule.trainSteps }, (_, timestep) => timestep));
  const made = Tensor.from(omegas).to(device);
  known.set(device, made);
  return made;
}
