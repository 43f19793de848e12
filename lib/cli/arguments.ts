/** Readers of arguments that several commands have. */

import { InvalidArgumentError } from 'commander';

/** For options that may be given several times. */
export function collect(value: string, before: readonly string[]): string[] {
  return [...before, value];
}

export function positiveInteger(text: string): number {
  const value = Number(text);
  if (!Number.isSafeInteger(value) || value < 1) throw new InvalidArgumentError('Expected an integer >= 1.');
  return value;
}
