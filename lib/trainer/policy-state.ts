/** Checks what a policy gives to be saved, so that a mistake is found before the first update and not after the last. */

import { failType } from '../native/validate.js';
import { checkEntry } from '../tensor/safetensors.js';
import { toPlain } from './json.js';

/**
 * @throws TypeError or RangeError where the result of `policy.state()` could not be written
 */
export function checkPolicyState(state: unknown): void {
  const argument = 'the result of policy.state()';
  const { tensors, scalars } = (state ?? {}) as { tensors?: unknown; scalars?: unknown };
  if (typeof scalars !== 'object' || scalars === null) failType(argument, 'an object with tensors and scalars', state);
  checkPolicyTensors('policy.state().tensors', tensors);
  toPlain('policy.state().scalars', scalars);
}

/** @param argument how messages call them */
export function checkPolicyTensors(argument: string, tensors: unknown): void {
  if (typeof tensors !== 'object' || tensors === null) failType(argument, 'an object of named tensors', tensors);
  for (const [name, entry] of Object.entries(tensors)) checkEntry(name, entry, argument);
}
