/** The scalars of each row of a call whose results stay on the device: which of them the host knows, and which lie in device memory. */

import { binding } from '../native/binding.js';
import { ROW_CHECK, ROW_FACTOR, ROW_INPUT, ROW_INPUT_COUNT } from '../native/contract.js';
import { SdpoError, SdpoRangeError } from '../native/errors.js';
import { checkNumberList, checkOptions, failType, failValue, isNumberList } from '../native/validate.js';
import type { NoiseSchedule } from '../schedule/schedule.js';
import { locationOf } from '../tensor/device.js';
import type { DeviceMemory, Lane } from '../tensor/device-memory.js';
import { dtypeIndex } from '../tensor/dtypes.js';
import { isContiguous, placeOf, Tensor } from '../tensor/tensor.js';
import {
  BATCH_FIELDS,
  type Batch,
  type DeviceBatch,
  type EvaluateOptions,
  type Fixed,
  type Prepared,
  prepare,
} from './batch.js';
import type { ResolvedOptions } from './options.js';
import { BRANCHES, type BranchName } from './row-inputs.js';

/** Fields of `sources` per row input, in order (binding.d.ts, deviceRowInputs). */
const SCALE = 0;
const FACTOR = 1;
const CHECK = 2;
const DTYPE = 3;
const EACH = 4;
const OMEGA_DTYPES = EACH * ROW_INPUT_COUNT;
const TABLE_SIZE = OMEGA_DTYPES + 2;
const OMEGA_ADDRESSES = ROW_INPUT_COUNT;
const TABLE_ADDRESS = OMEGA_ADDRESSES + 2;

type Field = keyof typeof ROW_INPUT;

const FIELDS: { readonly [K in BranchName]: { readonly [name: string]: Field } } = {
  chosen: {
    psi: 'psiScaleChosen',
    weight: 'weightScaleChosen',
    offset: 'weightOffsetChosen',
    noise: 'weightNoiseChosen',
    error: 'referenceErrorChosen',
  },
  rejected: {
    psi: 'psiScaleRejected',
    weight: 'weightScaleRejected',
    offset: 'weightOffsetRejected',
    noise: 'weightNoiseRejected',
    error: 'referenceErrorRejected',
  },
};

/** A checked batch whose row inputs are formed on its device. */
export interface PreparedOnDevice extends Prepared {
  readonly sources: RowSources;
}

/** What forms the row inputs of a call on the device; `given` of the native call are the row inputs of `Prepared.scalars`. */
export class RowSources {
  readonly #sources = new Float64Array(TABLE_SIZE + 1);
  readonly #addresses = new BigUint64Array(TABLE_ADDRESS + 1);
  readonly #given: Float64Array;
  readonly #rows: number;
  readonly #device: string;
  /** Memory that is read. */
  readonly memories: DeviceMemory[] = [];

  constructor(given: Float64Array, rows: number, device: string) {
    this.#given = given;
    this.#rows = rows;
    this.#device = device;
    for (let field = 0; field < ROW_INPUT_COUNT; field++) this.#sources[EACH * field + SCALE] = 1;
  }

  /** The field becomes scale · factor · (what the host gives, else 1) · list. */
  set(field: Field, scale: number, factor: keyof typeof ROW_FACTOR, host?: ArrayLike<number>): void {
    const at = ROW_INPUT[field];
    this.#sources[EACH * at + SCALE] = scale;
    this.#sources[EACH * at + FACTOR] = ROW_FACTOR[factor];
    const column = this.#given.subarray(at * this.#rows, (at + 1) * this.#rows);
    if (host === undefined) column.fill(1);
    else column.set(host);
  }

  list(field: Field, argument: string, tensor: Tensor, check: keyof typeof ROW_CHECK): void {
    const at = ROW_INPUT[field];
    this.#sources[EACH * at + CHECK] = ROW_CHECK[check];
    this.#sources[EACH * at + DTYPE] = this.#place(argument, tensor, at);
  }

  omega(branch: BranchName, argument: string, tensor: Tensor): void {
    const index = BRANCHES.indexOf(branch);
    this.#sources[OMEGA_DTYPES + index] = this.#place(argument, tensor, OMEGA_ADDRESSES + index);
  }

  table(table: Tensor): void {
    this.#sources[TABLE_SIZE] = table.size;
    this.#addresses[TABLE_ADDRESS] = table.pointer;
    const place = placeOf(table);
    if ('memory' in place) this.memories.push(place.memory);
  }

  /** Puts the forming of the row inputs on a lane, and returns. */
  enqueue(out: bigint, lane: Lane): void {
    binding.deviceRowInputs(
      locationOf(this.#device),
      this.#rows,
      this.#given,
      this.#sources,
      this.#addresses,
      out,
      lane.handle,
    );
  }

  #place(argument: string, tensor: Tensor, address: number): number {
    const place = placeOf(tensor, argument);
    if (tensor.device !== this.#device || !('memory' in place)) {
      throw new SdpoError(
        'ERR_SDPO_DEVICE',
        `Expected ${argument} to be on ${this.#device} as batch.chosen.policy, or a list of numbers, received a Tensor on ${tensor.device}`,
      );
    }
    if (tensor.dtype !== 'float64' && tensor.dtype !== 'float32') {
      failType(
        argument,
        'a Tensor of float64 or float32 (16 bits round timestep 750 to 752)',
        `Tensor of ${tensor.dtype}`,
      );
    }
    if (tensor.size !== this.#rows || tensor.shape[0] !== this.#rows || !isContiguous(tensor, place)) {
      failValue(
        argument,
        `a contiguous Tensor of shape [${this.#rows}], one number per row`,
        `Tensor of shape [${tensor.shape.join(', ')}]`,
        'ERR_SDPO_INVALID_LENGTH',
      );
    }
    this.#addresses[address] = tensor.pointer;
    this.memories.push(place.memory);
    return dtypeIndex(tensor.dtype);
  }
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

type Given = Tensor | ArrayLike<number> | undefined;

/** One value of a batch for each branch, with the name an error calls it. */
function perBranchGiven(
  argument: string,
  value: unknown,
): { readonly [K in BranchName]: { name: string; value: Given } } {
  if (value === undefined || value instanceof Tensor || isNumberList(value)) {
    return { chosen: { name: argument, value }, rejected: { name: argument, value } };
  }
  if (typeof value !== 'object' || value === null) {
    failType(argument, 'an array or typed array of numbers, a Tensor, or { chosen, rejected } of such', value);
  }
  checkOptions(argument, value, BRANCHES);
  const branch = (branch: BranchName) => {
    const name = `${argument}.${branch}`;
    const given = value[branch];
    if (!(given instanceof Tensor)) checkNumberList(name, given);
    return { name, value: given as Given };
  };
  return { chosen: branch('chosen'), rejected: branch('rejected') };
}

function countOf(argument: string, value: Given): number {
  if (value instanceof Tensor) return value.shape[0];
  if (!isNumberList(value)) failType(argument, 'an array or typed array of numbers, or a Tensor', value);
  return value.length;
}

/** Checks a batch as `prepare` does; what lies on the device is put into the sources of the row inputs, and the host's part is as if it were 1. */
export function prepareOnDevice(
  batch: DeviceBatch,
  call: EvaluateOptions,
  options: ResolvedOptions,
  fixed: Fixed,
): PreparedOnDevice {
  checkOptions('batch', batch, BATCH_FIELDS);
  const timesteps = perBranchGiven('batch.timesteps', batch.timesteps);
  const rows = countOf(timesteps.chosen.name, timesteps.chosen.value);
  const ones = new Float64Array(rows).fill(1);
  const host = <T>(value: T | Tensor): T | Float64Array => (value instanceof Tensor ? ones : value);

  const transition = batch.transition === undefined ? {} : batch.transition;
  checkOptions('batch.transition', transition, ['omega', 'offsetChosen', 'offsetRejected']);
  const omega = perBranchGiven('batch.transition.omega', transition.omega);
  // Where ω lies on the device, itself or by the timestep.
  const sourceOf = (branch: BranchName) => {
    const given = omega[branch];
    const { name, value } = given.value === undefined ? timesteps[branch] : given;
    return value instanceof Tensor ? { name, value, byTimestep: given.value === undefined } : undefined;
  };
  const onDevice = { chosen: sourceOf('chosen'), rejected: sourceOf('rejected') };
  const schedule = checkTable(options, onDevice);
  const hostOmega = (branch: BranchName): ArrayLike<number> => {
    if (onDevice[branch] !== undefined) return ones;
    const given = omega[branch].value as ArrayLike<number> | undefined;
    return given ?? schedule!.omegas(timesteps[branch].value as ArrayLike<number>, timesteps[branch].name);
  };
  const some = onDevice.chosen !== undefined || onDevice.rejected !== undefined;
  const stepsOnDevice = BRANCHES.some((branch) => timesteps[branch].value instanceof Tensor);
  const { chosen, rejected, weightNoise } = batch;
  const hostBatch = {
    ...batch,
    timesteps: stepsOnDevice
      ? { chosen: host(timesteps.chosen.value), rejected: host(timesteps.rejected.value) }
      : batch.timesteps,
    chosen:
      typeof chosen === 'object' && chosen !== null
        ? { ...chosen, referenceError: host(chosen.referenceError) }
        : chosen,
    rejected:
      typeof rejected === 'object' && rejected !== null
        ? { ...rejected, referenceError: host(rejected.referenceError) }
        : rejected,
    rowWeights: host(batch.rowWeights),
    ...(batch.transition === undefined && !some
      ? {}
      : {
          transition: {
            omega: some ? { chosen: hostOmega('chosen'), rejected: hostOmega('rejected') } : transition.omega,
            offsetChosen: host(transition.offsetChosen as Given),
            offsetRejected: host(transition.offsetRejected as Given),
          },
        }),
    ...(weightNoise === undefined || typeof weightNoise !== 'object' || weightNoise === null
      ? { weightNoise }
      : { weightNoise: { ...weightNoise, chosen: host(weightNoise.chosen), rejected: host(weightNoise.rejected) } }),
  } as Batch;
  const prepared = prepare(hostBatch, call, options, fixed);
  if (prepared.device === 'cpu') {
    throw new SdpoError(
      'ERR_SDPO_DEVICE',
      'Expected call.results to be \'host\' where the tensors of the batch are on the cpu, received "device"',
    );
  }

  const sources = new RowSources(prepared.scalars.rowInputs, rows, prepared.device);
  const { beta, weightSharpness: kappa, timestepWeighting } = options;
  for (const branch of BRANCHES) {
    const fields = FIELDS[branch];
    const from = onDevice[branch];
    if (from !== undefined) {
      sources.omega(branch, from.name, from.value);
      if (timestepWeighting === 'elbo') sources.set(fields.psi, beta, 'omega');
      sources.set(fields.weight, kappa, 'omega');
    }
    const offset = branch === 'chosen' ? transition.offsetChosen : transition.offsetRejected;
    if (offset instanceof Tensor) {
      sources.set(fields.offset, kappa, 'none');
      sources.list(
        fields.offset,
        `batch.transition.offset${branch === 'chosen' ? 'Chosen' : 'Rejected'}`,
        offset,
        'finite',
      );
    }
    const xi = weightNoise?.[branch];
    // With ω on the host its root is in what the host gives, times 1 for a list on the device.
    if (xi !== undefined && from !== undefined) sources.set(fields.noise, kappa, 'root', host(xi) as ArrayLike<number>);
    if (xi instanceof Tensor) sources.list(fields.noise, `batch.weightNoise.${branch}`, xi, 'finite');
    const error = batch[branch].referenceError;
    if (error instanceof Tensor) sources.list(fields.error, `batch.${branch}.referenceError`, error, 'any');
  }
  if (batch.rowWeights instanceof Tensor)
    sources.list('rowWeight', 'batch.rowWeights', batch.rowWeights, 'notNegative');
  if (schedule !== undefined && (onDevice.chosen?.byTimestep || onDevice.rejected?.byTimestep)) {
    sources.table(tableOf(schedule, prepared.device));
  }
  return { ...prepared, sources };
}

type DeviceOmega = { readonly name: string; readonly byTimestep: boolean } | undefined;

/** The schedule, where one is needed: a table by timestep serves both branches or none, and flow timesteps are no indices. */
function checkTable(
  { schedule }: ResolvedOptions,
  { chosen, rejected }: { chosen: DeviceOmega; rejected: DeviceOmega },
): NoiseSchedule | undefined {
  const first = chosen?.byTimestep ? chosen : rejected?.byTimestep ? rejected : undefined;
  if (first !== undefined) {
    if (schedule === undefined) failType('batch.transition.omega', 'given where the loss has no schedule', undefined);
    if (schedule.family === 'flow') {
      throw new SdpoRangeError(
        'ERR_SDPO_INVALID_OPTION',
        `Expected ${first.name} to be a list of numbers, since the timesteps of a flow schedule are real numbers and index no table, received a Tensor (schedule.omegas gives what batch.transition.omega takes as a Tensor)`,
      );
    }
  }
  return schedule;
}
