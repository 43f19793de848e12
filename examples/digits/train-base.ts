/** Trains the denoiser that fine-tuning starts from, and the judge, and writes both to `weights/`, which is committed. */

import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { NoiseSchedule } from 'sdpo';
import { AdamW } from './adamw.js';
import { type Digits, image, loadDigits, PIXELS } from './data.js';
import { SCHEDULER_CONFIG, TRAIN_TIMESTEPS, TRAINING_INFERENCE_STEPS } from './diffusion.js';
import { Evaluator } from './evaluation.js';
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
import { classify, JUDGE_SHAPES, judgeLogits, mostProbable } from './judge.js';
import { DENOISER_SHAPES, forward, initParams, timestepEmbedding } from './model.js';
import { startProgress } from './progress.js';
import { saveWeights, WEIGHTS_FOLDER } from './weights.js';

const LEARNING_RATE = 1e-3;
const EMA_DECAY = 0.999;
const JUDGE_BATCH = 128;
const JUDGE_INPUT_NOISE = 0.15;

const { values: options } = parseArgs({
  options: {
    steps: { type: 'string', default: '8000' },
    'judge-steps': { type: 'string', default: '2000' },
    batch: { type: 'string', default: '128' },
    seed: { type: 'string', default: '0' },
    out: { type: 'string', default: fileURLToPath(WEIGHTS_FOLDER) },
    quiet: { type: 'boolean', default: false },
  },
});
const steps = Number(options.steps);
const judgeSteps = Number(options['judge-steps']);
const batch = Number(options.batch);
const seed = Number(options.seed);

const digits = loadDigits();
const judge = trainJudge(digits.train);
const correct = mostProbable(classify(judge, digits.test.images)).filter(
  (digit, row) => digit === digits.test.labels[row],
);
console.log(`judge: ${((100 * correct.length) / digits.test.labels.length).toFixed(1)} % of the test digits right`);

const base = await trainBase(digits.train);
const { reward, valid, good } = new Evaluator(digits, judge, 2048).evaluate(base);
console.log(`base: reward ${reward.toFixed(3)}, valid ${valid.toFixed(3)}, good ${good.toFixed(3)} (2048 samples)`);

mkdirSync(options.out, { recursive: true });
const recipe = { script: 'examples/digits/train-base.ts', seed: String(seed) };
const files = {
  'base.safetensors': saveWeights(base, {
    ...recipe,
    steps: String(steps),
    batch: String(batch),
    ema: String(EMA_DECAY),
  }),
  'judge.safetensors': saveWeights(judge, { ...recipe, steps: String(judgeSteps), batch: String(JUDGE_BATCH) }),
};
for (const [name, bytes] of Object.entries(files)) {
  writeFileSync(join(options.out, name), bytes);
  console.log(`wrote ${join(options.out, name)} (${bytes.length} bytes)`);
}

/** Cross-entropy on the training digits with noise added to them. */
function trainJudge(train: Digits): Params {
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
  const progress = startProgress('judge', judgeSteps, options.quiet);
  for (let step = 1; step <= judgeSteps; step++) {
    const rows = drawIntegers(draw(), JUDGE_BATCH, train.labels.length);
    const noise = random.normal(draw(), [JUDGE_BATCH, PIXELS]);
    const x = matrix(gather(train, rows), PIXELS).add(noise.mul(JUDGE_INPUT_NOISE));
    const labels = np.array(
      Array.from(rows, (row) => train.labels[row]),
      { dtype: np.int32 },
    );
    const [loss, gradients] = lossAndGradients(ref(params), x, nn.oneHot(labels, 10));
    ({ params } = optimizer.step(params, gradients));
    progress.update(step, `loss ${loss.item().toFixed(4)}`);
  }
  progress.stop();
  optimizer.dispose();
  return params;
}

/** Mean squared error of v at uniform timesteps, Adam with cosine decay; returns the exponential moving average of the weights. */
async function trainBase(train: Digits): Promise<Params> {
  const schedule = NoiseSchedule.fromDiffusers(SCHEDULER_CONFIG, { inferenceSteps: TRAINING_INFERENCE_STEPS });
  const lossAndGradients = jit(
    valueAndGrad((p: Params, x: np.Array, embedding: np.Array, target: np.Array) =>
      np.square(forward(p, x, embedding).sub(target)).mean(),
    ),
  );
  const updateAverage = jit(
    (average: Params, params: Params): Params =>
      Object.fromEntries(
        Object.keys(average).map((name) => [name, average[name].mul(EMA_DECAY).add(params[name].mul(1 - EMA_DECAY))]),
      ),
  );
  const draw = keyStream(seed + 2);
  let params = initParams(DENOISER_SHAPES, seed);
  let average = ref(params);
  const optimizer = new AdamW(params, { learningRate: LEARNING_RATE });
  const progress = startProgress('base', steps, options.quiet);
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
    progress.update(step, `loss ${smoothed.toFixed(4)}`);
  }
  progress.stop();
  optimizer.dispose();
  dispose(params);
  return average;
}

/** The images of the rows, `[rows, 64]`. */
function gather(digits: Digits, rows: Int32Array): Float32Array {
  const out = new Float32Array(rows.length * PIXELS);
  for (let i = 0; i < rows.length; i++) out.set(image(digits, rows[i]), i * PIXELS);
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
