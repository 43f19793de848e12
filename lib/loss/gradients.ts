/** The gradients of a call: made like the policies of a batch, taken over from an earlier result, and given back. */

import { failValue } from '../native/validate.js';
import { sameKind } from '../tensor/operand.js';
import { split, Tensor } from '../tensor/tensor.js';
import type { Batch, DeviceBatch } from './batch.js';
import { BRANCHES } from './columns.js';
import type { Gradients } from './result.js';

/** Fresh gradients of the kind of each policy; views of one stacked gradient where the policies are the two views of one stacked tensor. */
export function allocateGradients(batch: Batch | DeviceBatch): Gradients {
  const chosen = batch.chosen.policy;
  const rejected = batch.rejected.policy;
  if (chosen instanceof Tensor && rejected instanceof Tensor) {
    const from = Tensor.origin(chosen);
    const other = Tensor.origin(rejected);
    const complementary = from?.part === 'chosen' && other?.part === 'rejected';
    if (complementary && from.base === other.base && from.layout === other.layout) {
      const stacked = Tensor.allocate(from.base.shape, from.base.dtype, from.base.device, false);
      return { ...split(stacked, from.layout), stacked };
    }
  }
  const gradient = sameKind(chosen);
  try {
    return { chosen: gradient, rejected: sameKind(rejected) };
  } catch (error) {
    if (gradient instanceof Tensor) gradient.dispose();
    throw error;
  }
}

/** The gradients of an earlier result, where it has any, if they fit the batch. */
export function reusedGradients(
  result: { gradients: Gradients | undefined },
  batch: Batch | DeviceBatch,
): Gradients | undefined {
  const gradients = result.gradients;
  if (gradients === undefined) return undefined;
  for (const branch of BRANCHES) {
    const old = gradients[branch];
    const policy = batch[branch].policy;
    const same =
      old instanceof Tensor
        ? policy instanceof Tensor &&
          old.dtype === policy.dtype &&
          old.device === policy.device &&
          sameShape(old.shape, policy.shape)
        : old.constructor === policy?.constructor && old.length === (policy as Float32Array).length;
    if (!same)
      failValue(
        `call.into.gradients.${branch}`,
        `of the kind, dtype, shape and device of batch.${branch}.policy`,
        old,
        'ERR_SDPO_INVALID_LENGTH',
      );
  }
  return gradients;
}

function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

/** Frees gradients in the memory of a device. */
export function disposeGradients({ stacked, chosen, rejected }: Gradients): void {
  for (const tensor of [stacked, chosen, rejected]) if (tensor instanceof Tensor) tensor.dispose();
}
