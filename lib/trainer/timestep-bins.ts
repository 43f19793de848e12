/** Bins of timesteps, for what is tracked, calibrated or logged by timestep. */

import { checkInteger, checkNumber, failType, failValue } from '../native/validate.js';
import type { NoiseSchedule } from '../schedule/schedule.js';

/**
 * Inner edges of bins of equal width over all timesteps 0 … T of a schedule. A bin holds its lower edge and not its upper one; the first and the
 * last bin are open to their sides.
 *
 * @returns `bins - 1` ascending timesteps
 */
export function timestepEdges(schedule: Pick<NoiseSchedule, 'trainSteps'>, bins: number): number[] {
  checkInteger('bins', bins, 1);
  return Array.from({ length: bins - 1 }, (_, i) => ((i + 1) * schedule.trainSteps) / bins);
}

/** Inner edges as a caller gave them: finite and ascending. */
export function checkEdges(argument: string, value: unknown): readonly number[] {
  if (!Array.isArray(value)) failType(argument, 'an array of ascending timesteps', value);
  value.forEach((edge, i) => {
    checkNumber(`${argument}[${i}]`, edge);
    if (i > 0 && edge <= value[i - 1])
      failValue(`${argument}[${i}]`, `above ${value[i - 1]}, the edge before it`, edge);
  });
  return Object.freeze([...value]);
}

/** The bin of a timestep: how many edges lie at or below it. */
export function binOf(edges: readonly number[], timestep: number): number {
  let bin = 0;
  while (bin < edges.length && timestep >= edges[bin]!) bin++;
  return bin;
}
