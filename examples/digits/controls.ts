/** Controls of the mask: what is left of its effect where it falls on other rows than those it was made for. */

import { createRandom, type Statistics } from 'sdpo';
import type { BeforeLoss } from 'sdpo/trainer';

export const MASK_CONTROLS = ['permuted', 'random', 'static', 'cleanest', 'noisiest'] as const;
export type MaskControl = (typeof MASK_CONTROLS)[number];

/** Rows next to each other in timestep among which a permuted mask moves. */
const NEIGHBOURS = 4;

/**
 * Replaces the mask of the loss by row weights:
 * - `permuted`: the mask of each row goes to another row of nearly the same timestep, so it keeps its dependence on the timestep and loses the one on
 *   the row's error;
 * - `random`: it goes to any row of the batch, so only the share of rows kept remains;
 * - `cleanest`, `noisiest`: as many rows as it removes are removed at that end of the batch's timesteps, whatever their error: a window whose edge
 *   moves with the policy;
 * - `static`: rows below a fixed timestep are masked, whatever their error; `keepFrom` is that timestep.
 */
export function maskControl(control: MaskControl, seed: number, keepFrom: number): BeforeLoss {
  return (batch, rows, statistics) => {
    const { timesteps } = rows;
    const weights =
      control === 'static'
        ? Float64Array.from(timesteps, (t) => (t >= keepFrom ? 1 : 0))
        : control === 'cleanest' || control === 'noisiest'
          ? atTheEnd(statistics(), timesteps, control)
          : moved(statistics(), timesteps, control === 'permuted' ? NEIGHBOURS : timesteps.length, seed, rows.step);
    return { batch: { ...batch, rowWeights: weights }, call: { maskThreshold: 0 } };
  };
}

/** A mask of as many rows as are masked, at one end of the timesteps. */
function atTheEnd({ rows: { mask } }: Statistics, timesteps: Float64Array, end: 'cleanest' | 'noisiest'): Float64Array {
  const order = Array.from(timesteps.keys()).sort((a, b) => timesteps[a]! - timesteps[b]!);
  if (end === 'noisiest') order.reverse();
  const removed = mask.reduce((count, kept) => count + (kept === 0 ? 1 : 0), 0);
  const out = new Float64Array(timesteps.length).fill(1);
  for (const row of order.slice(0, removed)) out[row] = 0;
  return out;
}

/** The mask, with its entries permuted within groups of rows of neighbouring timesteps. */
function moved(
  { rows: { mask } }: Statistics,
  timesteps: Float64Array,
  group: number,
  seed: number,
  step: number,
): Float64Array {
  const random = createRandom(seed, step * timesteps.length);
  const order = Array.from(timesteps.keys()).sort((a, b) => timesteps[a]! - timesteps[b]!);
  const out = new Float64Array(timesteps.length);
  for (let first = 0; first < order.length; first += group) {
    const members = order.slice(first, first + group);
    const values = members.map((row) => mask[row]);
    for (let i = values.length - 1; i > 0; i--) {
      const j = Math.floor(random() * (i + 1));
      [values[i], values[j]] = [values[j], values[i]];
    }
    members.forEach((row, i) => {
      out[row] = values[i]!;
    });
  }
  return out;
}
