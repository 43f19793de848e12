/** Trains the denoiser that fine-tuning starts from, and the judge. */

import { NoiseSchedule } from 'sdpo';
import { AdamW } from './adamw.js';
import { type Digits, image, PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAIN_TIMESTEPS, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import {
  blockUntilReady,
  dispose,
  jit,
  matrix,
  nn,
  np,
  type Params,
  random,
  ref,
  toFloat32,
  valueAndGrad,
} from './jax.js';
import { JUDGE_SHAPES, judgeLogits } from './judge.js';
import { DENOISER_SHAPES, denoiserShapes, forward, initParams, timestepEmbedding } from './model.js';

const LEARNING_RATE = 1e-3;
export const EMA_DECAY = 0.999;
/** Images a step of the base's recipe. */
export const BATCH = 128;
/** Steps of the base's recipe. */
export const BASE_STEPS = 8000;
export const JUDGE_BATCH = 128;
const JUDGE_INPUT_NOISE = 0.15;

export interface TrainingOptions {
  steps: number;
  seed: number;
  /** Called after every step with the (smoothed) loss. */
  onStep?(step: number, loss: number): void;
}

/** Cross-entropy on the training digits with noise added to them. */
export function trainJudge(train: Digits, { steps, seed, onStep }: TrainingOptions): Params {
  const lossAndGradients = jit(
    valueAndGrad((p: Params, x: np.Array, oneHot: np.Array) =>
      nn
        .logSoftmax(judgeLogits(p, x), -1)
        .mul(oneHot)
        .sum()
        .mul(-1 / JUDGE_BATCH),
    ),
  );
  const draw = keyStream(seed + 1);
  let params = initParams(JUDGE_SHAPES, seed);
  const optimizer = new AdamW(params, { learningRate: LEARNING_RATE });
  for (let step = 1; step <= steps; step++) {
    const rows = drawIntegers(draw(), JUDGE_BATCH, train.labels.length);
    const noise = random.normal(draw(), [JUDGE_BATCH, PIXELS]);
    const x = matrix(gather(train, rows), PIXELS).add(noise.mul(JUDGE_INPUT_NOISE));
    const labels = np.array(
      Array.from(rows, (row) => train.labels[row]),
      { dtype: np.int32 },
    );
    const [loss, gradients] = lossAndGradients(ref(params), x, nn.oneHot(labels, 10));
    ({ params } = optimizer.step(params, gradients));
    onStep?.(step, loss.item());
  }
  optimizer.dispose();
  return params;
}

/** Mean squared error of v at uniform timesteps, Adam with cosine decay; returns the exponential moving average of the weights. */
export async function trainBase(
  train: Digits,
  { steps, batch = BATCH, seed, width, onStep }: TrainingOptions & { batch?: number; width?: number | undefined },
): Promise<Params> {
  const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: TRAINING_INFERENCE_STEPS });
  const lossAndGradients = jit(
    valueAndGrad((p: Params, x: np.Array, embedding: np.Array, target: np.Array) =>
      np.square(forward(p, x, embedding).sub(target)).mean(),
    ),
  );
  const updateAverage = jit(
    (average: Params, params: Params): Params =>
      Object.fromEntries(
        Object.keys(average).map((name) => [name, average[name]!.mul(EMA_DECAY).add(params[name]!.mul(1 - EMA_DECAY))]),
      ),
  );
  const draw = keyStream(seed + 2);
  let params = initParams(width === undefined ? DENOISER_SHAPES : denoiserShapes(width), seed);
  let average = ref(params);
  const optimizer = new AdamW(params, { learningRate: LEARNING_RATE });
  let smoothed = 0;
  for (let step = 1; step <= steps; step++) {
    const x0 = gather(train, drawIntegers(draw(), batch, train.labels.length));
    const timesteps = drawIntegers(draw(), batch, TRAIN_TIMESTEPS);
    const noise = toFloat32(random.normal(draw(), [batch, PIXELS]));
    const [loss, gradients] = lossAndGradients(
      ref(params),
      matrix(schedule.addNoise(x0, noise, timesteps), PIXELS),
      matrix(timestepEmbedding(timesteps), PIXELS),
      matrix(schedule.target(x0, noise, timesteps), PIXELS),
    );
    const rate = LEARNING_RATE * 0.5 * (1 + Math.cos((Math.PI * (step - 1)) / steps));
    ({ params } = optimizer.step(params, gradients, rate));
    // Nothing else reads the average, so its pending operations would pile up until the end.
    average = await blockUntilReady(updateAverage(average, ref(params)));
    smoothed += (loss.item() - smoothed) / Math.min(step, 100);
    onStep?.(step, smoothed);
  }
  optimizer.dispose();
  dispose(params);
  return average;
}

/** The images of the rows, `[rows, 64]`. */
function gather(digits: Digits, rows: Int32Array): Float32Array {
  const out = new Float32Array(rows.length * PIXELS);
  for (let i = 0; i < rows.length; i++) out.set(image(digits, rows[i]!), i * PIXELS);
  return out;
}

/** A fresh key at every call, all from one seed. */
function keyStream(start: number): () => np.Array {
  let key = random.key(start);
  return () => {
    const pair = random.split(key);
    key = pair.ref.slice(0);
    return pair.slice(1);
  };
}

function drawIntegers(key: np.Array, count: number, limit: number): Int32Array {
  return random.randint(key, { minval: 0, maxval: limit, shape: [count] }).dataSync() as Int32Array;
}
