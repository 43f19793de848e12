/** What the adapters check about a batch before the core sees it: that its parts are objects, and shapes. */

import { failType, failValue } from '../native/validate.js';

/** A part of a batch that an adapter reads itself; its other fields are left to the core, which refuses unknown ones. */
export function checkPart(argument: string, value: unknown): asserts value is Record<string, unknown> {
  if (typeof value !== 'object' || value === null) failType(argument, 'an object', value);
}

/** Frameworks broadcast shapes that nearly agree; a loss that did so would average the wrong elements without a word. */
export function checkShape(
  argument: string,
  shape: readonly number[],
  expected: readonly number[],
  like: string,
): void {
  if (shape.length === expected.length && shape.every((extent, axis) => extent === expected[axis])) return;
  failValue(argument, `of shape [${expected.join(', ')}] as ${like}`, shapeText(shape), 'ERR_SDPO_INVALID_LENGTH');
}

/** A shape as error messages show it. */
export function shapeText(shape: readonly number[]): string {
  return `shape [${shape.join(', ')}]`;
}
