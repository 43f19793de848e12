/** JSON that keeps every number: NaN, ±Infinity and -0, which JSON has no way to write, stand as `{"$number": "NaN"}`. */

import { describe, failType } from '../native/validate.js';

const TAG = '$number';
const SPECIAL = new Map<string, number>([
  ['NaN', NaN],
  ['Infinity', Infinity],
  ['-Infinity', -Infinity],
  ['-0', -0],
]);

/**
 * A value as plain JSON. Fields that are undefined are left out, as JSON.stringify does.
 *
 * @param argument names the value in errors
 * @throws TypeError `ERR_SDPO_INVALID_ARG_TYPE` for anything that JSON would lose or change: functions, bigints, typed arrays, class instances
 */
export function toPlain(argument: string, value: unknown): unknown {
  if (value === null || typeof value === 'string' || typeof value === 'boolean') return value;
  if (typeof value === 'number') {
    if (Object.is(value, -0)) return { [TAG]: '-0' };
    return Number.isFinite(value) ? value : { [TAG]: String(value) };
  }
  if (Array.isArray(value)) return value.map((entry, i) => toPlain(`${argument}[${i}]`, entry));
  const prototype = typeof value === 'object' ? Object.getPrototypeOf(value) : undefined;
  if (typeof value !== 'object' || (prototype !== Object.prototype && prototype !== null)) {
    failType(argument, 'plain JSON (numbers, strings, booleans, null, arrays and objects of these)', value);
  }
  if (Object.hasOwn(value, TAG)) failType(argument, `an object without a field ${TAG}`, describe(value));
  return Object.fromEntries(
    Object.entries(value)
      .filter(([, entry]) => entry !== undefined)
      .map(([name, entry]) => [name, toPlain(`${argument}.${name}`, entry)]),
  );
}

/** The value that `toPlain` was given. */
export function fromPlain(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(fromPlain);
  if (typeof value !== 'object' || value === null) return value;
  const { [TAG]: name } = value as { [TAG]?: string };
  const special = name === undefined ? undefined : SPECIAL.get(name);
  if (special !== undefined) return special;
  return Object.fromEntries(Object.entries(value).map(([name, entry]) => [name, fromPlain(entry)]));
}
