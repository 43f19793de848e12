/** Fine-tunes the denoiser of the digits example in TensorFlow.js: an ordinary `optimizer.minimize` loop whose loss is sdpo's. */

import { parseArgs } from 'node:util';
import * as tf from '@tensorflow/tfjs';
import '@tensorflow/tfjs-backend-wasm';
import { createRandom, type Metrics, NoiseSchedule, noise, PreferenceLoss } from 'sdpo';
import { preferenceLoss } from 'sdpo/tfjs';
import { loadDigits, PIXELS } from '../digits/data.js';
import { SCHEDULER_CONFIG, TRAINING_INFERENCE_STEPS } from '../digits/diffusion.js';
import { makePairs, type Pairs } from '../digits/pairs.js';
import { seedsOf } from '../digits/seeds.js';
import { loadBase, type Parameters, predict, trainable } from './model.js';

const PAIRS_PER_STEP = 32;
const LEARNING_RATE = 1e-4;
const BETA = 10;

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '200' },
    backend: { type: 'string', default: 'wasm' },
    seed: { type: 'string', default: '0' },
  },
});
const [steps, seed] = [Number(options.steps), Number(options.seed)];
if (!(Number.isSafeInteger(steps) && steps > 0) || !(Number.isSafeInteger(seed) && seed >= 0)) {
  throw new Error(
    `Expected --steps to be an integer > 0 and --seed one >= 0, received ${options.steps}, ${options.seed}`,
  );
}
if (!(await tf.setBackend(options.backend)))
  throw new Error(`Expected --backend to be wasm or cpu, received ${options.backend}`);

const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: TRAINING_INFERENCE_STEPS });
const loss = preferenceLoss(new PreferenceLoss({ objective: 'sdpo', schedule, beta: BETA, weightSharpness: 4 }));

const digits = loadDigits();
const pairs = makePairs(digits.train, { source: 'N1', count: 2000, seeds: seedsOf('training pairs', seed) });
const heldOut = makePairs(digits.test, { source: 'N1', count: 500, seeds: seedsOf('held-out pairs', seed) });

const base = loadBase();
const policy = trainable(base);
const optimizer = tf.train.adam(LEARNING_RATE);
const seeds = seedsOf('training', seed);
const random = createRandom(seeds.draws);

const before = evaluate();
const began = performance.now();
for (let step = 0; step < steps; step++) {
  const rows = Array.from({ length: PAIRS_PER_STEP }, () => Math.floor(random() * pairs.count));
  const timesteps = schedule.sampleTimesteps(PAIRS_PER_STEP, { distribution: 'uniform', random });
  const epsilon = noise(seeds.noise, step * PAIRS_PER_STEP * PIXELS, new Float32Array(PAIRS_PER_STEP * PIXELS));
  let metrics: Metrics | undefined;
  optimizer.minimize(
    () =>
      loss(makeBatch(policy, pairs, rows, timesteps, epsilon), {
        onResult: (result) => {
          metrics = result.metrics;
        },
      }),
    false,
    Object.values(policy),
  );
  if (step % Math.ceil(steps / 6) === 0 || step === steps - 1) {
    console.log(
      `step ${step + 1}: loss ${metrics!.loss.toFixed(4)}, ${percent(metrics!.maskFraction)} % of the rows masked`,
    );
  }
}
const perStep = ((performance.now() - began) / steps).toFixed(1);
const after = evaluate();
console.log(`${steps} steps with the ${tf.getBackend()} backend, ${perStep} ms each`);
const table: [string, (metrics: Metrics) => string][] = [
  ['loss', (metrics) => metrics.loss.toFixed(4)],
  ['rows masked', (metrics) => `${percent(metrics.maskFraction)} %`],
  ['implicit accuracy', (metrics) => `${percent(metrics.implicitAccuracy)} %`],
];
console.log('held-out pairs        before     after');
for (const [name, of] of table) console.log(name.padEnd(18) + of(before).padStart(10) + of(after).padStart(10));

/** Metrics over the held-out pairs at timesteps spread evenly over the schedule. */
function evaluate(): Metrics {
  const rows = Array.from({ length: heldOut.count }, (_, row) => row);
  const timesteps = rows.map((row) => Math.floor(((row + 0.5) / rows.length) * schedule.trainSteps));
  const epsilon = noise(seedsOf('implicit accuracy', seed).noise, 0, new Float32Array(rows.length * PIXELS));
  let metrics: Metrics | undefined;
  const onResult = (result: { metrics: Metrics }) => {
    metrics = result.metrics;
  };
  tf.tidy(() => void loss(makeBatch(policy, heldOut, rows, timesteps, epsilon), { onResult }));
  return metrics!;
}

/** Both branches with the same timesteps and noise; the reference is the base, through which no gradient flows. */
function makeBatch(
  parameters: Parameters,
  from: Pairs,
  rows: readonly number[],
  timesteps: ArrayLike<number>,
  epsilon: Float32Array,
) {
  const branch = (images: Float32Array) => {
    const x0 = new Float32Array(rows.length * PIXELS);
    for (let i = 0; i < rows.length; i++)
      x0.set(images.subarray(rows[i]! * PIXELS, (rows[i]! + 1) * PIXELS), i * PIXELS);
    const x = schedule.addNoise(x0, epsilon, timesteps);
    return {
      policy: predict(parameters, x, timesteps),
      reference: predict(base, x, timesteps),
      target: schedule.target(x0, epsilon, timesteps),
    };
  };
  return { timesteps, chosen: branch(from.chosen), rejected: branch(from.rejected) };
}

function percent(share: number): string {
  return (100 * share).toFixed(1);
}
