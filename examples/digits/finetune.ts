/** Fine-tuning: a copy of the base learns a preference from pairs, by the trainer of sdpo. */

import { NoiseSchedule, noise, PreferenceLoss } from 'sdpo';
import { preferenceValueAndGrad } from 'sdpo/jax';
import { PreferenceTrainer } from 'sdpo/trainer';
import { PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import { type Params, ref } from './jax.js';
import { apply, inputsOf } from './model.js';
import { datasetOf, type Pairs } from './pairs.js';
import { DenoiserPolicy } from './policy.js';
import type { Seeds } from './seeds.js';

const PAIRS_PER_STEP = 32;
const LEARNING_RATE = 1e-4;
const MAX_GRADIENT_NORM = 1;

/** Whose transitions the loss weighs. */
export const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: TRAINING_INFERENCE_STEPS });

/** What the two methods of arXiv 2505.21893 share: a mask and clipped weights with κ = 4, τ = 0.9 and ε = 0.1. */
const SCORED = { schedule, weightSharpness: 4, maskThreshold: 0.9, clipRange: 0.1 };

/** Methods under comparison, in the order of the first table of the study; all use the same β, pairs, timesteps and noise. */
export const METHODS = {
  'diffusion-dpo': (beta: number) => new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta }),
  'dpo-cm': (beta: number) => new PreferenceLoss({ objective: 'dpo-cm', ...SCORED, beta }),
  sdpo: (beta: number) => new PreferenceLoss({ objective: 'sdpo', ...SCORED, beta }),
  'dpo-kl': (beta: number) => new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta, klWeight: 0.3 }),
};

export type Method = keyof typeof METHODS;

export const TITLES: Record<Method, string> = {
  'diffusion-dpo': 'Diffusion-DPO',
  'dpo-cm': 'DPO-C&M',
  sdpo: 'SDPO',
  'dpo-kl': 'Diffusion-DPO + 0.3 KL',
};

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
  const policy = new DenoiserPolicy(base);
  const trainer = new PreferenceTrainer({
    policy,
    data: datasetOf(pairs, 'main job'),
    loss,
    seed: seeds.draws,
    pairsPerStep: PAIRS_PER_STEP,
    sampling: 'replacement',
    learningRate: LEARNING_RATE,
    maxGradientNorm: MAX_GRADIENT_NORM,
    signal,
  });
  const began = performance.now();
  for await (const { step, metrics } of trainer.run(steps)) options.onStep(step, metrics);
  const milliseconds = { total: performance.now() - began, loss: trainer.profile.loss ?? 0 };
  const params = ref(policy.params);
  policy.dispose();
  return { params, steps: trainer.step, milliseconds };
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
  for (let i = 0; i < rows.length; i++)
    out.set(images.subarray(rows[i]! * PIXELS, (rows[i]! + 1) * PIXELS), i * PIXELS);
  return out;
}
