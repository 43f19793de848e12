/** The fine-tuning loop: a copy of the base learns a preference from pairs, with the loss and its gradient computed by sdpo. */

import { setImmediate as nextTick } from 'node:timers/promises';
import { createRandom, logEntries, NoiseSchedule, noise, PreferenceLoss } from 'sdpo';
import { AdamW } from './adamw.js';
import { PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import { type Params, ref } from './jax.js';
import { backward, predict } from './model.js';
import type { Pairs } from './pairs.js';
import type { Seeds } from './seeds.js';

const PAIRS_PER_STEP = 32;
const LEARNING_RATE = 1e-4;
const MAX_GRADIENT_NORM = 1;

const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: TRAINING_INFERENCE_STEPS });

/** Methods under comparison; both use the same β, pairs, timesteps and noise. */
export const METHODS = {
  'diffusion-dpo': (beta: number) => new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta }),
  sdpo: (beta: number) =>
    new PreferenceLoss({ objective: 'sdpo', schedule, beta, weightSharpness: 4, maskThreshold: 0.9, clipRange: 0.1 }),
};

export type Method = keyof typeof METHODS;

export interface FinetuneOptions {
  base: Params;
  loss: PreferenceLoss;
  pairs: Pairs;
  steps: number;
  /** The same seeds draw the same rows, timesteps and noise, whatever the loss. */
  seeds: Seeds;
  /** Stops after the step that is under way. */
  signal: AbortSignal;
  /** Called after every step. */
  onStep(step: number, entries: Record<string, number>): void;
}

export interface Finetuned {
  params: Params;
  /** Steps that were made; fewer than asked for after an abort. */
  steps: number;
  /** Milliseconds in all and in the preference loss alone. */
  milliseconds: { total: number; loss: number };
}

/** Fine-tunes a copy of `base`, which is not consumed. */
export async function finetune(options: FinetuneOptions): Promise<Finetuned> {
  const { base, loss, pairs, steps, seeds, signal } = options;
  const random = createRandom(seeds.draws);
  const optimizer = new AdamW(base, { learningRate: LEARNING_RATE, maxGradientNorm: MAX_GRADIENT_NORM });
  const began = performance.now();
  let lossMilliseconds = 0;
  let params = ref(base);
  let step = 0;
  while (step < steps && !signal.aborted) {
    // One timestep and one noise image per pair, shared by its branches.
    const rows = Array.from({ length: PAIRS_PER_STEP }, () => Math.floor(random() * pairs.count));
    const timesteps = schedule.sampleTimesteps(PAIRS_PER_STEP, { distribution: 'uniform', random });
    const epsilon = noise(seeds.noise, step * PAIRS_PER_STEP * PIXELS, new Float32Array(PAIRS_PER_STEP * PIXELS));
    const batch = makeBatch(pairs, rows, timesteps, epsilon);

    const policy = predict(params, batch.x, batch.timesteps);
    const reference = predict(base, batch.x, batch.timesteps);
    const start = performance.now();
    const out = loss.evaluate(lossBatch(batch, policy, reference));
    lossMilliseconds += performance.now() - start;

    const gradient = stack(out.gradients.chosen, out.gradients.rejected);
    const update = optimizer.step(params, backward(params, batch.x, batch.timesteps, gradient));
    params = update.params;
    step++;
    options.onStep(step, { loss: out.loss, grad_norm: update.gradientNorm, ...logEntries(out.metrics) });
    await nextTick(); // the computation is synchronous: this is where a signal is noticed
  }
  optimizer.dispose();
  return { params, steps: step, milliseconds: { total: performance.now() - began, loss: lossMilliseconds } };
}

/**
 * Share of pairs for which the policy has moved towards the chosen image more than towards the rejected one (a tie counts ½), over
 * `perPair` timesteps of each pair, spread evenly over the schedule. Consumes no parameters.
 */
export function implicitAccuracy(
  loss: PreferenceLoss,
  policy: Params,
  base: Params,
  pairs: Pairs,
  seeds: Seeds,
): number {
  const perPair = 4;
  const count = pairs.count * perPair;
  const rows = Array.from({ length: count }, (_, i) => i % pairs.count);
  const timesteps = Float64Array.from(rows, (_, i) => Math.floor(((i + 0.5) / count) * schedule.trainSteps));
  const batch = makeBatch(pairs, rows, timesteps, noise(seeds.noise, 0, new Float32Array(count * PIXELS)));
  const predictions = [policy, base].map((params) => predict(params, batch.x, batch.timesteps));
  const out = loss.evaluate(lossBatch(batch, predictions[0], predictions[1]), { gradients: false });
  return out.metrics.implicitAccuracy;
}

/** Noisy images and targets of both branches, the chosen half first, so that one forward pass serves both. */
interface Batch {
  x: Float32Array;
  target: Float32Array;
  /** Of both halves. */
  timesteps: Float64Array;
}

function makeBatch(pairs: Pairs, rows: readonly number[], timesteps: ArrayLike<number>, epsilon: Float32Array): Batch {
  const chosen = gather(pairs.chosen, rows);
  const rejected = gather(pairs.rejected, rows);
  return {
    x: stack(schedule.addNoise(chosen, epsilon, timesteps), schedule.addNoise(rejected, epsilon, timesteps)),
    target: stack(schedule.target(chosen, epsilon, timesteps), schedule.target(rejected, epsilon, timesteps)),
    timesteps: Float64Array.from([...Array.from(timesteps), ...Array.from(timesteps)]),
  };
}

function lossBatch({ target, timesteps }: Batch, policy: Float32Array, reference: Float32Array) {
  const half = target.length / 2;
  const branch = (from: number) => ({
    policy: policy.subarray(from, from + half),
    reference: reference.subarray(from, from + half),
    target: target.subarray(from, from + half),
  });
  return { timesteps: timesteps.subarray(0, timesteps.length / 2), chosen: branch(0), rejected: branch(half) };
}

function gather(images: Float32Array, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * PIXELS);
  for (let i = 0; i < rows.length; i++) out.set(images.subarray(rows[i] * PIXELS, (rows[i] + 1) * PIXELS), i * PIXELS);
  return out;
}

function stack(first: Float32Array, second: Float32Array): Float32Array {
  const out = new Float32Array(first.length + second.length);
  out.set(first);
  out.set(second, first.length);
  return out;
}
