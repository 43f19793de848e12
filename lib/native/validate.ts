/** Argument checks shared by the public API; every failure says which argument, what was expected and what was received. */

import { types } from 'node:util';
import { className, isArray, typedArray } from './arrays.js';
import { type ErrorCode, SdpoRangeError, SdpoTypeError } from './errors.js';
import { printable } from './printable.js';

/** A short description of a value for an error message: its type, and its value where that is short. */
export function describe(value: unknown): string {
  if (value === null) return 'null';
  switch (typeof value) {
    case 'string':
      return printable(value.length > 60 ? `${JSON.stringify(value.slice(0, 57))}…` : JSON.stringify(value));
    case 'number':
    case 'boolean':
    case 'undefined':
      return String(value);
    case 'bigint':
      return shortened(`${value}n`);
    case 'function':
      return `function ${typeof value.name === 'string' && value.name !== '' ? shortened(value.name) : '(anonymous)'}`;
    case 'symbol':
      return shortened(value.toString());
    default: {
      const kind = shortened(className(value as object));
      const length = lengthOf(value as object);
      const known = typeof length === 'number' ? `${kind} of length ${length}` : kind;
      if (types.isProxy(value)) return `a Proxy of ${known}`;
      return typeof length === 'number' ? known : `an instance of ${known}`;
    }
  }
}

/** A text of a caller or a file, of any length, as a message can hold it. */
export function shortened(text: string, most = 60): string {
  return printable(text.length > most ? `${text.slice(0, most - 3)}…` : text);
}

function lengthOf(value: object): unknown {
  try {
    return (typedArray(value) ?? (value as { length?: unknown })).length;
  } catch {
    return undefined; // a Proxy of something that looks at what it is called on
  }
}

/** Throws the one message shape of this package as a TypeError. */
export function failType(argument: string, expected: string, received: unknown): never {
  throw new SdpoTypeError(
    'ERR_SDPO_INVALID_ARG_TYPE',
    `Expected ${argument} to be ${expected}, received ${describe(received)}`,
  );
}

/** Throws the one message shape of this package as a RangeError. */
export function failValue(
  argument: string,
  expected: string,
  received: unknown,
  code: ErrorCode = 'ERR_SDPO_INVALID_ARG_VALUE',
): never {
  throw new SdpoRangeError(code, `Expected ${argument} to be ${expected}, received ${describe(received)}`);
}

/** A finite number within [min, max]. */
export function checkNumber(argument: string, value: unknown, min = -Infinity, max = Infinity): number {
  const bounds =
    min === -Infinity && max === Infinity
      ? 'a finite number'
      : max === Infinity
        ? `a finite number >= ${min}`
        : `a number in [${min}, ${max}]`;
  if (typeof value !== 'number') failType(argument, bounds, value);
  if (!Number.isFinite(value) || value < min || value > max) failValue(argument, bounds, value);
  return value;
}

/** A finite number greater than `min`. */
export function checkNumberAbove(argument: string, value: unknown, min: number): number {
  if (typeof value !== 'number') failType(argument, `a finite number > ${min}`, value);
  if (!Number.isFinite(value) || value <= min) failValue(argument, `a finite number > ${min}`, value);
  return value;
}

/** A finite number strictly between `min` and `max`. */
export function checkNumberBetween(argument: string, value: unknown, min: number, max: number): number {
  const expected = `a number in (${min}, ${max})`;
  if (typeof value !== 'number') failType(argument, expected, value);
  if (!(value > min && value < max)) failValue(argument, expected, value);
  return value;
}

/** A finite number from `min` to below `max`. */
export function checkNumberBelow(argument: string, value: unknown, min: number, max: number): number {
  const expected = `a number in [${min}, ${max})`;
  if (typeof value !== 'number') failType(argument, expected, value);
  if (!(value >= min && value < max)) failValue(argument, expected, value);
  return value;
}

/** An integer within [min, max]. */
export function checkInteger(argument: string, value: unknown, min: number, max = Number.MAX_SAFE_INTEGER): number {
  const expected = max === Number.MAX_SAFE_INTEGER ? `an integer >= ${min}` : `an integer between ${min} and ${max}`;
  if (typeof value !== 'number') failType(argument, expected, value);
  if (!Number.isInteger(value) || value < min || value > max) failValue(argument, expected, value);
  return value;
}

export function checkBoolean(argument: string, value: unknown): boolean {
  if (typeof value !== 'boolean') failType(argument, 'a boolean', value);
  return value;
}

/** One of a closed set of strings. */
export function checkOneOf<const T extends string>(argument: string, value: unknown, allowed: readonly T[]): T {
  const expected = `one of ${allowed.map((name) => `'${name}'`).join(', ')}`;
  if (typeof value !== 'string') failType(argument, expected, value);
  if (!(allowed as readonly string[]).includes(value)) failValue(argument, expected, value);
  return value as T;
}

/** Options as a type that is known, or as anything. */
type Own<T> = unknown extends T ? Record<string, unknown> : T & object;

/**
 * A plain options object without names that nobody reads: a misspelt option must not be ignored silently.
 *
 * @returns an object of our own, each field read once: getters cannot give the use another value than the check, and what others put on prototypes is no
 *   option
 */
export function checkOptions<T>(argument: string, value: T, known: readonly string[]): Own<T> {
  checkFieldNames(argument, value, known);
  return Object.assign(Object.create(null), value) as Own<T>;
}

function checkFieldNames(argument: string, value: unknown, known: readonly string[]): asserts value is object {
  if (typeof value !== 'object' || value === null || isArray(value) || ArrayBuffer.isView(value) || isRevoked(value)) {
    failType(argument, 'an object', value);
  }
  for (const name of Object.keys(value)) {
    if (!known.includes(name)) {
      const near = known.find((other) => other.toLowerCase() === name.toLowerCase().replace(/[_-]/g, ''));
      throw new SdpoTypeError(
        'ERR_SDPO_UNKNOWN_OPTION',
        `Expected ${argument} to have only the fields ${known.join(', ')}, received ${describe(name)}${near ? ` (did you mean '${near}'?)` : ''}`,
      );
    }
  }
}

/** A Proxy that its maker has ended: everything that is asked of it throws. */
function isRevoked(value: object): boolean {
  try {
    Object.getPrototypeOf(value);
    return false;
  } catch {
    return types.isProxy(value);
  }
}

/** The fields of a type: their names, and the object that has none of them. */
export interface Fields<T> {
  readonly names: readonly (keyof T & string)[];
  readonly none: T;
}

/** Options once their defaults are filled in: every field is there, and none is undefined. */
export type Filled<T> = { [K in keyof T]-?: Exclude<T[K], undefined> };

/** The fields of a type, checked by the compiler: none is missing and none is foreign. */
export function fieldsOf<T>(fields: { readonly [K in keyof Required<T>]: true }): Fields<T> {
  const names = Object.keys(fields) as (keyof T & string)[];
  return { names, none: Object.fromEntries(names.map((name) => [name, undefined])) as T };
}

/**
 * The options of a caller as an object of our own, each read once: getters cannot give the use another value than the check, and what others put on
 * prototypes is no option.
 */
export function readOptions<T extends object>(argument: string, value: unknown, { names, none }: Fields<T>): T {
  checkFieldNames(argument, value, names);
  return { ...none, ...value };
}

/** True for anything that can be read by index up to `length`: arrays, typed arrays of numbers and objects like them, not strings. */
export function isNumberList(value: unknown): value is ArrayLike<number> {
  return isArray(value) || typedArray(value) !== undefined || isArrayLike(value);
}

/** An object with the length of an array (arguments, a list of another library); a Proxy of a typed array has none that can be asked for. */
function isArrayLike(value: unknown): boolean {
  if (typeof value !== 'object' || value === null || ArrayBuffer.isView(value) || types.isProxy(value)) return false;
  const { length } = value as { readonly length?: unknown };
  return typeof length === 'number' && length >>> 0 === length;
}

/** A list of numbers of a given length (or of any length when `length` is undefined): an array, or a plain typed array of this realm. */
export function checkNumberList(argument: string, value: unknown, length?: number): ArrayLike<number> {
  const list = typedArray(value) ?? value;
  if (!isNumberList(list)) failType(argument, 'an array or typed array of numbers', value);
  if (length !== undefined && list.length !== length) {
    failValue(argument, `of length ${length}`, value, 'ERR_SDPO_INVALID_LENGTH');
  }
  // What is merely like an array becomes one: its length could be another the next time.
  return isArray(list) || ArrayBuffer.isView(list) ? list : copied(argument, list, length ?? list.length);
}

/** A list of numbers as above whose entries are numbers indeed: a typed array can hold nothing else, an array can, and is copied, each entry read once. */
export function checkNumbers(argument: string, value: unknown, length?: number): ArrayLike<number> {
  const list = checkNumberList(argument, value, length);
  return isArray(list) ? copied(argument, list, length ?? list.length) : list;
}

function copied(argument: string, entries: ArrayLike<unknown>, count: number): number[] {
  const out: number[] = [];
  for (let i = 0; i < count; i++) {
    const entry = entries[i];
    if (typeof entry !== 'number') failType(`${argument}[${i}]`, 'a number', entry);
    out.push(entry);
  }
  return out;
}

/** An AbortSignal of this realm or another. */
export function checkSignal(argument: string, value: unknown): AbortSignal {
  const signal = value as Partial<AbortSignal> | null | undefined;
  const fits =
    value instanceof AbortSignal ||
    (typeof value === 'object' &&
      typeof signal?.aborted === 'boolean' &&
      typeof signal.addEventListener === 'function');
  if (!fits) failType(argument, 'an AbortSignal', value);
  return value as AbortSignal;
}
