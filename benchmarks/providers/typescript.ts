/** The straightforward way: loops over typed arrays, sums in float64, one pass for the moments and one for the gradient. */

import { type Batch, beta, clipRange, maskThreshold, type Outcome } from '../data.js';
import { extraPeak } from '../memory.js';
import { type Provider, timeCalls } from '../provider.js';

export const typescript: Provider = {
  name: 'TypeScript',
  kind: 'peer',
  threads: 1,
  refuses: ({ case: c }) => (c.dtype === 'float32' ? undefined : `has no ${c.dtype} arithmetic`),
  prepare: (batch) => {
    const work = () => evaluate(batch);
    return {
      time: (calls) => timeCalls(work, calls),
      outcome: work,
      extraBytes: () => extraPeak(work),
      dispose: () => {},
    };
  },
};

interface Errors {
  policy: number;
  reference: number;
}

function evaluate(batch: Batch): Outcome {
  const { rows, size, objective, gradients } = batch.case;
  const chosen = batch.inputs.chosen as Record<string, Float32Array>;
  const rejected = batch.inputs.rejected as Record<string, Float32Array>;
  const gradient = gradients
    ? { chosen: new Float32Array(rows * size), rejected: new Float32Array(rows * size) }
    : undefined;
  let loss = 0;
  for (let row = 0; row < rows; row++) {
    const c = meanSquares(chosen.policy, chosen.reference, chosen.target, row * size, size);
    const r = meanSquares(rejected.policy, rejected.reference, rejected.target, row * size, size);
    const psiChosen = (-beta / 2) * (c.policy - c.reference);
    const psiRejected = (-beta / 2) * (r.policy - r.reference);
    const logChosen = -batch.omega[row] * c.policy;
    const logRejected = -batch.omega[row] * r.policy;

    const keep = objective === 'diffusion-dpo' || Math.min(logChosen, logRejected) >= Math.log(maskThreshold);
    if (!keep) continue; // a removed row: no loss, and the gradient is zero already
    const own = objective === 'sdpo';
    const weightChosen = own ? clip(Math.exp(logChosen)) : 1;
    const weightRejected = own ? clip(Math.exp(logRejected)) : 1;
    const pair = objective === 'dpo-cm' ? clip(Math.exp((logChosen + logRejected) / 2)) : 1;
    const logit = weightChosen * psiChosen - weightRejected * psiRejected;
    loss += pair * (Math.max(-logit, 0) + Math.log1p(Math.exp(-Math.abs(logit))));
    if (gradient === undefined) continue;
    const slope = -pair / (1 + Math.exp(logit));
    const scale = (-beta / 2) * (2 / size / rows) * slope;
    writeGradient(gradient.chosen, chosen.policy, chosen.target, row * size, size, scale * weightChosen);
    writeGradient(gradient.rejected, rejected.policy, rejected.target, row * size, size, -scale * weightRejected);
  }
  return { loss: loss / rows, gradients: gradient };
}

function clip(weight: number): number {
  return Math.min(Math.max(weight, 1 - clipRange), 1 + clipRange);
}

function meanSquares(
  policy: Float32Array,
  reference: Float32Array,
  target: Float32Array,
  start: number,
  size: number,
): Errors {
  let policySum = 0;
  let referenceSum = 0;
  for (let i = start; i < start + size; i++) {
    const d = policy[i] - target[i];
    const r = reference[i] - target[i];
    policySum += d * d;
    referenceSum += r * r;
  }
  return { policy: policySum / size, reference: referenceSum / size };
}

function writeGradient(
  out: Float32Array,
  policy: Float32Array,
  target: Float32Array,
  start: number,
  size: number,
  scale: number,
): void {
  for (let i = start; i < start + size; i++) out[i] = scale * (policy[i] - target[i]);
}
