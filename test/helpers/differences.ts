/** Finite differences of a batch loss with respect to the predictions of the policy. */

import type { BranchName, OracleBatch, PerBranch } from '../oracle/oracle.js';
import { differenceStep, slopeAtZero } from './close.js';
import { mapped } from './dtypes.js';

type Loss = (batch: OracleBatch) => number;

/** The derivative with respect to every element of both policy predictions. */
export function elementwiseGradient(loss: Loss, batch: OracleBatch): PerBranch<Float64Array> {
  const derivatives = (name: BranchName) => {
    const direction = new Float64Array(batch[name].policy.length);
    return direction.map((_, at) => {
      direction.fill(0);
      direction[at] = 1;
      return directionalSlope(loss, batch, { [name]: direction });
    });
  };
  return { chosen: derivatives('chosen'), rejected: derivatives('rejected') };
}

/** The derivative of the loss along a direction in the predictions of one branch or of both. */
export function directionalSlope(
  loss: Loss,
  batch: OracleBatch,
  direction: Partial<PerBranch<Float64Array>>,
  step = differenceStep,
): number {
  return slopeAtZero((x) => loss(moved(batch, direction, x)), step);
}

function moved(batch: OracleBatch, direction: Partial<PerBranch<Float64Array>>, x: number): OracleBatch {
  const branch = (name: BranchName) => {
    const along = direction[name];
    if (!along) return batch[name];
    return { ...batch[name], policy: mapped(batch[name].policy, (value, at) => value + x * along[at]) };
  };
  return { ...batch, chosen: branch('chosen'), rejected: branch('rejected') };
}

export function dot(left: ArrayLike<number>, right: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < left.length; i++) sum += left[i] * right[i];
  return sum;
}

/** Row `i` of the chosen gradient followed by that of the rejected one. */
export function rowsOfBothBranches(gradients: PerBranch<ArrayLike<number>>, i: number, rows: number): Float64Array {
  const size = gradients.chosen.length / rows;
  return Float64Array.from({ length: 2 * size }, (_, j) =>
    j < size ? gradients.chosen[i * size + j] : gradients.rejected[i * size + j - size],
  );
}
