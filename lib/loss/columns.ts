/** Numbers per row on their way to the addon: each a list, a tensor of the device or one number for all rows, checked and put into the header. */

import { isArray } from '../native/arrays.js';
import { binding } from '../native/binding.js';
import {
  HEADER,
  HEADER_LENGTH,
  NUMBER_OFFSET,
  ROW_INPUT_COUNT,
  ROW_SOURCE,
  rowInput,
  SOURCE_OFFSET,
} from '../native/contract.js';
import { SdpoError } from '../native/errors.js';
import { checkNumber, checkNumberList, failType, failValue, isNumberList, readOptions } from '../native/validate.js';
import type { DeviceMemory } from '../tensor/device-memory.js';
import { isContiguous, placeOf, Tensor } from '../tensor/tensor.js';
import { type BranchName, EITHER_FIELDS, type PerBranch, type RowNumbers } from './batch.js';

export const BRANCHES: readonly BranchName[] = ['chosen', 'rejected'];

/** The header and the lists of a call. */
export interface Scalars {
  readonly header: Float64Array;
  /** [ROW_INPUT_COUNT, rows]; only what the header calls a list is read. */
  readonly lists: Float64Array;
}

/** A value of a batch with the name that an error gives it. */
export interface Named<T> {
  readonly name: string;
  readonly value: T;
}

export type NamedNumbers = Named<RowNumbers | undefined>;

/** One value for both branches, or one for each. */
export function perBranch(
  argument: string,
  value: PerBranch<RowNumbers> | undefined,
): { readonly [K in BranchName]: NamedNumbers } {
  if (value === undefined || typeof value === 'number' || value instanceof Tensor || isNumberList(value)) {
    const both = { name: argument, value };
    return { chosen: both, rejected: both };
  }
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value)) {
    failType(argument, 'a number, a list of numbers, a Tensor, or { chosen, rejected } of such', value);
  }
  const { chosen, rejected } = readOptions(argument, value, EITHER_FIELDS) as {
    chosen: RowNumbers;
    rejected: RowNumbers;
  };
  return {
    chosen: { name: `${argument}.chosen`, value: chosen ?? failType(`${argument}.chosen`, EXPECTED, chosen) },
    rejected: { name: `${argument}.rejected`, value: rejected ?? failType(`${argument}.rejected`, EXPECTED, rejected) },
  };
}

const EXPECTED = 'an array or typed array of numbers, a number, or a Tensor';

/** Whether the numbers lie on a device. */
export function isOnDevice(value: RowNumbers | undefined): value is Tensor {
  return value instanceof Tensor && value.device !== 'cpu';
}

/** A list of the host as it can be read by index: a tensor [rows] or [rows, 1] of the host is one. */
export function hostList(name: string, value: RowNumbers, rows: number): ArrayLike<number> | number {
  if (typeof value === 'number') return value;
  if (!(value instanceof Tensor)) return checkNumberList(name, value, rows);
  checkShape(name, value, rows);
  return value.toHost() as Float64Array | Float32Array;
}

function checkShape(name: string, tensor: Tensor, rows: number): void {
  if (tensor.dtype !== 'float64' && tensor.dtype !== 'float32') {
    failType(name, 'a Tensor of float64 or float32 (16 bits round timestep 750 to 752)', `Tensor of ${tensor.dtype}`);
  }
  if (tensor.size !== rows || tensor.shape[0] !== rows || !isContiguous(tensor, placeOf(tensor, name))) {
    failValue(
      name,
      `a contiguous Tensor of shape [${rows}] or [${rows}, 1], one number per row`,
      `Tensor of shape [${tensor.shape.join(', ')}]`,
      'ERR_SDPO_INVALID_LENGTH',
    );
  }
}

/** How many rows a value has; undefined where it is one number for all of them. */
export function countOf({ name, value }: NamedNumbers): number | undefined {
  if (value === undefined || typeof value === 'number') return undefined;
  return value instanceof Tensor ? value.shape[0] : checkNumberList(name, value).length;
}

type Check = (name: string, entry: unknown) => void;

/** Writes the numbers per row of one call. */
export class ColumnWriter {
  readonly #scalars: Scalars;
  readonly #rows: number;
  readonly #device: string;
  readonly #results: 'host' | 'device';
  /** Memory of the device that is read. */
  readonly memories: DeviceMemory[] = [];

  constructor(scalars: Scalars, rows: number, device: string, results: 'host' | 'device') {
    this.#scalars = scalars;
    this.#rows = rows;
    this.#device = device;
    this.#results = results;
  }

  constant(field: number, value: number): void {
    this.#scalars.header[SOURCE_OFFSET + field] = ROW_SOURCE.constant;
    this.#scalars.header[NUMBER_OFFSET + field] = value;
  }

  /** Copies a list of numbers, of which `true` and `false` count as 1 and 0. */
  list(field: number, list: ArrayLike<number>, name = ''): Float64Array {
    const { header, lists } = this.#scalars;
    const first = field * this.#rows;
    header[SOURCE_OFFSET + field] = ROW_SOURCE.list;
    header[NUMBER_OFFSET + field] = first;
    const copy = lists.subarray(first, first + this.#rows);
    if (!isArray(list)) {
      copy.set(list);
      return copy;
    }
    for (let i = 0; i < this.#rows; i++) {
      const entry = (list as readonly unknown[])[i];
      if (typeof entry !== 'number' && typeof entry !== 'boolean') failType(`${name}[${i}]`, 'a number', entry);
      copy[i] = Number(entry);
    }
    return copy;
  }

  /** Checks a value of the caller and writes it; `check` in place of what the addon's table says of the field. Nothing is written for undefined. */
  write(field: number, { name, value }: NamedNumbers, check: Check = CHECKS[field]!): void {
    if (value === undefined) return;
    if (value instanceof Tensor && (this.#results === 'device' || value.device !== 'cpu')) {
      this.#tensor(field, name, value);
      return;
    }
    const list = hostList(name, value, this.#rows);
    if (typeof list === 'number') {
      check(name, list);
      this.constant(field, list);
      return;
    }
    // Each entry is read once: what is checked is what is used.
    const copy = this.list(field, list, name);
    for (let i = 0; i < copy.length; i++) if (!isPlain(copy[i]!)) check(`${name}[${i}]`, copy[i]);
  }

  /** Numbers that index a table of ω on the device. */
  table(table: Tensor): void {
    this.#address(HEADER.omegaTable, table);
    this.#scalars.header[HEADER.omegaCount] = table.size;
  }

  #tensor(field: number, name: string, tensor: Tensor): void {
    if (this.#results === 'host') {
      failType(name, "a list of numbers where call.results is not 'device'", tensor);
    }
    if (tensor.device !== this.#device) {
      throw new SdpoError(
        'ERR_SDPO_DEVICE',
        `Expected ${name} to be on ${this.#device} as batch.chosen.policy, or a list of numbers, received a Tensor on ${tensor.device}`,
      );
    }
    checkShape(name, tensor, this.#rows);
    this.#scalars.header[SOURCE_OFFSET + field] = ROW_SOURCE[tensor.dtype as 'float64' | 'float32'];
    this.#address(NUMBER_OFFSET + field, tensor);
  }

  /** An address crosses as its 64 bits. */
  #address(position: number, tensor: Tensor): void {
    const { header } = this.#scalars;
    new BigUint64Array(header.buffer, header.byteOffset, header.length)[position] = tensor.pointer;
    const place = placeOf(tensor);
    if ('memory' in place) this.memories.push(place.memory);
  }
}

/** Fulfils every check: finite and not negative. */
function isPlain(value: number): boolean {
  return value >= 0 && value < Infinity;
}

const CHECKS: readonly Check[] = binding.tables.rowChecks.map((check): Check => {
  switch (check) {
    case 'notNegative':
      return (name, entry) => {
        checkNumber(name, entry);
        checkNumber(name, entry, 0);
      };
    case 'finite':
      return (name, entry) => void checkNumber(name, entry);
    default:
      return (name, entry) => {
        if (typeof entry !== 'number') failType(name, 'a number', entry);
      };
  }
});

export const checkOmega: Check = (name, entry) => {
  if (typeof entry !== 'number') failType(name, 'a number >= 0 or Infinity', entry);
  if (!(entry >= 0)) failValue(name, 'a number >= 0 or Infinity', entry);
};

export const checkThreshold: Check = (name, entry) => void checkNumber(name, entry, 0, 1);

const branchInputs = (name: string) => ({
  chosen: rowInput(`${name}Chosen`),
  rejected: rowInput(`${name}Rejected`),
});

/** Positions of the numbers per row. */
export const COLUMN = {
  omega: branchInputs('omega'),
  timestep: branchInputs('timestep'),
  offset: branchInputs('offset'),
  noise: branchInputs('noise'),
  referenceError: branchInputs('referenceError'),
  betaScale: branchInputs('betaScale'),
  margin: rowInput('margin'),
  keep: rowInput('keep'),
  maskThreshold: rowInput('maskThreshold'),
  rowWeight: rowInput('rowWeight'),
} as const;

/** Room for the scalars of `rows` rows, in one block: taking memory is most of the cost. */
export function makeScalars(rows: number): Scalars {
  const bytes = Float64Array.BYTES_PER_ELEMENT;
  const buffer = new ArrayBuffer((HEADER_LENGTH + ROW_INPUT_COUNT * rows) * bytes);
  return {
    header: new Float64Array(buffer, 0, HEADER_LENGTH),
    lists: new Float64Array(buffer, HEADER_LENGTH * bytes),
  };
}

/** Whether scalars have room for exactly so many rows. */
export function fitsRows(scalars: Scalars | undefined, rows: number): scalars is Scalars {
  return scalars?.lists.length === ROW_INPUT_COUNT * rows;
}
