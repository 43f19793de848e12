/** The fine-tuning loop: a copy of the base learns a preference from pairs, with the loss and its gradient computed by sdpo. */

import { setImmediate as nextTick } from 'node:timers/promises';
import { createRandom, logEntries, NoiseSchedule, noise, PreferenceLoss } from 'sdpo';
import { preferenceValueAndGrad } from 'sdpo/jax';
import { AdamW } from './adamw.js';
import { PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import { type Params, ref } from './jax.js';
import { apply, inputsOf } from './model.js';
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
  const valueAndGrad = preferenceValueAndGrad(apply, loss);
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

    const out = await valueAndGrad(ref(params), { ...batch, referenceParams: ref(base) });
    lossMilliseconds += out.lossMilliseconds;
    const update = optimizer.step(params, out.gradients);
    params = update.params;
    step++;
    options.onStep(step, { loss: out.loss, grad_norm: update.gradientNorm, ...logEntries(out.metrics) });
    await nextTick(); // the computation is synchronous: this is where a signal is noticed
  }
  optimizer.dispose();
  valueAndGrad.dispose();
  return { params, steps: step, milliseconds: { total: performance.now() - began, loss: lossMilliseconds } };
}

/**
 * Share of pairs for which the policy has moved towards the chosen image more than towards the rejected one (a tie counts ½), over
 * `perPair` timesteps of each pair, spread evenly over the schedule. Consumes no parameters.
 */
export async function implicitAccuracy(
  loss: PreferenceLoss,
  policy: Params,
  base: Params,
  pairs: Pairs,
  seeds: Seeds,
): Promise<number> {
  const perPair = 4;
  const count = pairs.count * perPair;
  const rows = Array.from({ length: count }, (_, i) => i % pairs.count);
  const timesteps = Float64Array.from(rows, (_, i) => Math.floor(((i + 0.5) / count) * schedule.trainSteps));
  const batch = makeBatch(pairs, rows, timesteps, noise(seeds.noise, 0, new Float32Array(count * PIXELS)));
  const valueAndGrad = preferenceValueAndGrad(apply, loss);
  const out = await valueAndGrad(ref(policy), { ...batch, referenceParams: ref(base) }, { gradients: false });
  valueAndGrad.dispose();
  return out.metrics.implicitAccuracy;
}

/** Noisy images with their timesteps, and what the denoiser should predict for them; both branches get the same noise. */
function makeBatch(pairs: Pairs, rows: readonly number[], timesteps: ArrayLike<number>, epsilon: Float32Array) {
  const branch = (images: Float32Array) => {
    const x0 = gather(images, rows);
    return {
      inputs: inputsOf(schedule.addNoise(x0, epsilon, timesteps), timesteps),
      target: schedule.target(x0, epsilon, timesteps),
    };
  };
  return { timesteps, chosen: branch(pairs.chosen), rejected: branch(pairs.rejected) };
}

function gather(images: Float32Array, rows: readonly number[]): Float32Array {
  const out = new Float32Array(rows.length * PIXELS);
  for (let i = 0; i < rows.length; i++) out.set(images.subarray(rows[i] * PIXELS, (rows[i] + 1) * PIXELS), i * PIXELS);
  return out;
}
