/** Reads single fields of a scheduler config. */

import { SdpoError } from '../native/errors.js';
import { checkNumber, checkNumberAbove, describe, failType } from '../native/validate.js';
import type { DiffusersConfig } from './config-file.js';

export type Fields = Record<string, unknown>;

/** A bound of noise levels, above 0; undefined where it is not set. */
export function boundOf(name: string, fields: Fields, most = Infinity): number | undefined {
  const value = fields[name];
  if (value === undefined || value === null) return undefined;
  checkNumberAbove(`config.${name}`, value, 0);
  return checkNumber(`config.${name}`, value, 0, most);
}

/** A boolean field, false where the class has none. */
export function flag(name: string, fields: Fields): boolean {
  const value = fields[name];
  if (value === undefined) return false;
  if (typeof value !== 'boolean') failType(`config.${name}`, 'a boolean', value);
  return value;
}

/** One of the strings that a class knows for a field. */
export function oneOf(className: string, name: string, value: unknown, allowed: readonly string[]): string {
  if (typeof value !== 'string' || !allowed.includes(value)) {
    const names = allowed.map((each) => `'${each}'`).join(' or ');
    throw unsupported(`config.${name} of a ${className}`, names, value);
  }
  return value;
}

/** The error of a config that means other mathematics. */
export function unsupported(argument: string, expected: string, received: unknown, reason?: string): SdpoError {
  const because = reason === undefined ? '' : ` (${reason})`;
  return new SdpoError(
    'ERR_SDPO_UNSUPPORTED_CONFIG',
    `Expected ${argument} to be ${expected}, received ${describe(received)}${because}`,
  );
}

/** An object without a class of its own; the prototype is compared by its own prototype so that objects of other realms pass. */
export function isPlainObject(value: unknown): value is DiffusersConfig {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) return false;
  const prototype = Object.getPrototypeOf(value);
  return prototype === null || Object.getPrototypeOf(prototype) === null;
}
