/** From a batch to the arguments of the native call: operands of one size on one device, and the numbers per row in the header. */

import { binding } from '../native/binding.js';
import {
  DTYPE_OFFSET,
  HEADER,
  HEADER_LENGTH,
  NUMBER_OFFSET,
  OPERAND,
  OPTION_OFFSET,
  STRIDE_OFFSET,
} from '../native/contract.js';
import { SdpoError, SdpoRangeError, SdpoTypeError } from '../native/errors.js';
import { checkInteger, checkNumberList, failType, failValue, isNumberList, readOptions } from '../native/validate.js';
import { locationOf } from '../tensor/device.js';
import type { DeviceMemory } from '../tensor/device-memory.js';
import { dtypeIndex } from '../tensor/dtypes.js';
import { commonDevice, type Operand, plainLatents, readOperand } from '../tensor/operand.js';
import { checkStream, type Stream } from '../tensor/stream.js';
import { Tensor } from '../tensor/tensor.js';
import {
  BATCH_FIELDS,
  type Batch,
  BRANCH_FIELDS,
  type BranchBatch,
  type EvaluateOptions,
  type RowBatch,
} from './batch.js';
import { BRANCHES, COLUMN, ColumnWriter, countOf, fitsRows, makeScalars, perBranch, type Scalars } from './columns.js';
import { readElementWeights } from './element-weights.js';
import { hasMask, type ResolvedOptions, TRAITS, writeOptions } from './options.js';
import { writeRowNumbers } from './row-numbers.js';

/** A checked batch in the layout of the addon. */
export interface Prepared {
  readonly rows: number;
  readonly size: number;
  /** Where all tensors of the batch are, and the stream of the call, undefined for the default one. */
  readonly device: string;
  readonly stream: Stream | undefined;
  readonly scalars: Scalars;
  readonly operands: Inputs;
  /** The batch as it was read. */
  readonly batch: Batch;
  /** Memory of the device that numbers per row are read from. */
  readonly memories: readonly DeviceMemory[];
}

type InputName = Exclude<keyof typeof OPERAND, 'gradientChosen' | 'gradientRejected'>;
export type Inputs = { readonly [K in InputName]: Operand | undefined };

/** What the operands are called in a batch. */
const ARGUMENTS: { readonly [K in InputName]: string } = {
  policyChosen: 'batch.chosen.policy',
  referenceChosen: 'batch.chosen.reference',
  targetChosen: 'batch.chosen.target',
  policyRejected: 'batch.rejected.policy',
  referenceRejected: 'batch.rejected.reference',
  targetRejected: 'batch.rejected.target',
  elementWeights: 'batch.elementWeights',
  elementWeightsRejected: 'batch.elementWeights.rejected',
};
const INPUT_NAMES = Object.keys(ARGUMENTS) as readonly InputName[];

/**
 * Checks a batch against the options of the loss and lays it out for the addon.
 *
 * @param results where the results go: on a device, numbers per row may lie there too
 * @param fixed the header with the options, by `fix`
 * @param complete whether the objective is evaluated, so that every number per row that it reads has to be there
 * @param earlier scalars that no other call uses, written again where the rows are as many
 */
export function prepare(
  given: Batch,
  call: EvaluateOptions,
  options: ResolvedOptions,
  fixed: Float64Array,
  results: 'host' | 'device' = 'host',
  complete = true,
  earlier?: Scalars,
): Prepared {
  const batch = readBatch(given);
  const rows = countRows(batch);
  if (rows === 0 && call.denominator === undefined) {
    failValue(
      batch.timesteps === undefined ? 'batch.chosen.policy' : 'batch.timesteps',
      'of at least one row (the mean over no rows does not exist; a rank without rows passes its denominator)',
      batch.timesteps ?? batch.chosen.policy,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
  const chosen = readBranch('batch.chosen', batch.chosen, rows, options);
  const rejected = readBranch('batch.rejected', batch.rejected, rows, options);
  const size = chosen.policy.size;
  const operands = {
    policyChosen: chosen.policy,
    referenceChosen: chosen.reference,
    targetChosen: chosen.target,
    policyRejected: rejected.policy,
    referenceRejected: rejected.reference,
    targetRejected: rejected.target,
    ...readElementWeights(batch, rows, size),
  };
  const device = deviceOf(operands, chosen.policy.device);
  if (results === 'device' && device === 'cpu') {
    throw new SdpoError(
      'ERR_SDPO_DEVICE',
      'Expected call.results to be \'host\' where the tensors of the batch are on the cpu, received "device"',
    );
  }
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
  const scalars = fitsRows(earlier, rows) ? earlier : makeScalars(rows);
  writeHeader(scalars.header, fixed, rows, size, device, call, operands);
  const columns = new ColumnWriter(scalars, rows, device, results);
  writeRowNumbers(columns, batch, rows, device, call, options, complete, 'batch');
  for (const branch of BRANCHES) {
    const { referenceError: value } = batch[branch];
    if (value !== undefined) {
      columns.write(COLUMN.referenceError[branch], { name: `batch.${branch}.referenceError`, value });
    }
  }
  return { rows, size, device, stream, scalars, operands, batch, memories: columns.memories };
}

function readBatch(given: Batch): Batch {
  const batch = readOptions('batch', given, BATCH_FIELDS);
  for (const branch of BRANCHES) {
    const read = readOptions(`batch.${branch}`, batch[branch], BRANCH_FIELDS);
    read.policy = plainLatents(read.policy);
    batch[branch] = read;
  }
  return batch;
}

/** A call that evaluates the objective of given moments: numbers per row, and no tensor. */
export function prepareObjective(
  rows: number,
  numbers: RowBatch,
  call: EvaluateOptions,
  options: ResolvedOptions,
  fixed: Float64Array,
): Prepared {
  const scalars = makeScalars(rows);
  writeHeader(scalars.header, fixed, rows, 0, 'cpu', call, NO_OPERANDS);
  const columns = new ColumnWriter(scalars, rows, 'cpu', 'host');
  writeRowNumbers(columns, numbers, rows, 'cpu', call, options, true, 'numbers');
  return {
    rows,
    size: 0,
    device: 'cpu',
    stream: undefined,
    scalars,
    operands: NO_OPERANDS,
    batch: NO_BATCH,
    memories: [],
  };
}

const NO_BATCH = {} as Batch;
const NO_OPERANDS = Object.fromEntries(INPUT_NAMES.map((name) => [name, undefined])) as Inputs;

/** Rows are counted from the policies; a flat array has as many as the numbers per row, or as `rows` says. */
function countRows(batch: Batch): number {
  const { timesteps, rowWeights, betaScale, margins, keep, transition, weightNoise } = batch;
  const { policy } = batch.chosen;
  const given = batch.rows === undefined ? undefined : checkInteger('batch.rows', batch.rows, 0);
  if (policy instanceof Tensor) return agree(given, policy.shape[0]!);
  // The common case, without looking at the others.
  if (timesteps !== undefined && isNumberList(timesteps)) {
    return agree(given, checkNumberList('batch.timesteps', timesteps).length);
  }
  const steps = perBranch('batch.timesteps', timesteps);
  const omega = perBranch('batch.transition.omega', transition?.omega);
  const scales = perBranch('batch.betaScale', betaScale);
  const lists = [
    steps.chosen,
    omega.chosen,
    { name: 'batch.rowWeights', value: rowWeights },
    scales.chosen,
    { name: 'batch.margins', value: margins },
    { name: 'batch.keep', value: keep as ArrayLike<number> | undefined },
    { name: 'batch.chosen.referenceError', value: batch.chosen.referenceError },
    { name: 'batch.weightNoise.chosen', value: weightNoise?.chosen },
    { name: 'batch.transition.offsetChosen', value: transition?.offsetChosen },
  ];
  for (const list of lists) {
    const count = countOf(list);
    if (count !== undefined) return agree(given, count);
  }
  return (
    given ??
    failType(
      'batch.timesteps',
      'a list, one per row, where flat arrays do not tell their rows (batch.rows can, and a Tensor does by its shape)',
      timesteps,
    )
  );
}

function agree(given: number | undefined, found: number): number {
  if (given !== undefined && given !== found) {
    failValue('batch.rows', `${found}, the rows of the batch`, given, 'ERR_SDPO_INVALID_LENGTH');
  }
  return found;
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

function readBranch(argument: string, branch: BranchBatch, rows: number, { objective, klWeight }: ResolvedOptions) {
  const { policy, reference, referenceError, target } = branch;
  const neither = reference === undefined && referenceError === undefined;
  const both = reference !== undefined && referenceError !== undefined;
  const traits = TRAITS[objective];
  if (both || (neither && traits.reference)) {
    throw new SdpoTypeError(
      'ERR_SDPO_INVALID_ARG_TYPE',
      `Expected ${argument} to have either reference or referenceError, received ${neither ? 'neither' : 'both'}`,
    );
  }
  const user = klWeight !== 0 ? 'klWeight' : traits.drift ? `objective '${objective}'` : undefined;
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

const DEFAULTS = binding.rowDefaults;

/** A header with what the options alone decide: every call starts from a copy. */
export function fix(options: ResolvedOptions): Float64Array {
  const header = new Float64Array(HEADER_LENGTH);
  header[HEADER.threads] = options.threads;
  writeOptions(header, OPTION_OFFSET, options);
  header.set(DEFAULTS, NUMBER_OFFSET);
  if (hasMask(options.objective)) header[NUMBER_OFFSET + COLUMN.maskThreshold] = options.maskThreshold;
  return header;
}

function writeHeader(
  header: Float64Array,
  fixed: Float64Array,
  rows: number,
  size: number,
  device: string,
  call: EvaluateOptions,
  operands: Inputs,
): void {
  header.set(fixed);
  header[HEADER.rows] = rows;
  header[HEADER.size] = size;
  header[HEADER.denominator] = call.denominator ?? rows;
  header[HEADER.gradientScale] = call.gradientScale ?? 1;
  header[HEADER.device] = locationOf(device);
  writeOperand(header, OPERAND.policyChosen, operands.policyChosen);
  writeOperand(header, OPERAND.referenceChosen, operands.referenceChosen);
  writeOperand(header, OPERAND.targetChosen, operands.targetChosen);
  writeOperand(header, OPERAND.policyRejected, operands.policyRejected);
  writeOperand(header, OPERAND.referenceRejected, operands.referenceRejected);
  writeOperand(header, OPERAND.targetRejected, operands.targetRejected);
  writeOperand(header, OPERAND.elementWeights, operands.elementWeights);
  writeOperand(header, OPERAND.elementWeightsRejected, operands.elementWeightsRejected);
}

/** Writes the dtype and the row stride of an operand (a position in OPERAND) into a header. */
export function writeOperand(header: Float64Array, position: number, operand: Operand | undefined): void {
  if (operand === undefined) return;
  header[DTYPE_OFFSET + position] = dtypeIndex(operand.dtype);
  header[STRIDE_OFFSET + position] = operand.rowStride;
}
