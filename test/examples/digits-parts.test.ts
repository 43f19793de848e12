/** The parts of the digits experiment, each against what it is defined to be: gradients, optimizer, pairs, sampler, measures, split. */

import { noise } from 'sdpo';
import t from 'tap';
import { AdamW } from '../../examples/digits/adamw.js';
import { type Digits, image, loadDigits, PIXELS } from '../../examples/digits/data.js';
import { sample } from '../../examples/digits/diffusion.js';
import { Evaluator } from '../../examples/digits/evaluation.js';
import { matrix, np, type Params, ref, toFloat32, vjp } from '../../examples/digits/jax.js';
import { classify, JUDGE_SHAPES, mostProbable } from '../../examples/digits/judge.js';
import { apply, DENOISER_SHAPES, inputsOf, predict, timestepEmbedding } from '../../examples/digits/model.js';
import { makePairs, PAIR_SOURCES, type PairSource } from '../../examples/digits/pairs.js';
import { DenoiserPolicy } from '../../examples/digits/policy.js';
import { loadWeights, WEIGHTS_FOLDER } from '../../examples/digits/weights.js';

const digits = loadDigits();
const base = loadWeights(new URL('base.safetensors', WEIGHTS_FOLDER), DENOISER_SHAPES);
const judge = loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES);

function values(params: Params): Record<string, Float32Array> {
  return Object.fromEntries(Object.entries(ref(params)).map(([name, array]) => [name, toFloat32(array)]));
}

/** Comparing long arrays with t.same takes minutes when they differ. */
function sameNumbers(a: ArrayLike<number>, b: ArrayLike<number>): boolean {
  return a.length === b.length && Array.from(a).every((value, i) => Object.is(value, b[i]));
}

/** The denoiser in float64 and in plain loops, from the recipe. */
function denoise(p: Record<string, ArrayLike<number>>, x: ArrayLike<number>, t: number): Float64Array {
  const embedding = timestepEmbedding([t]);
  const times = (input: ArrayLike<number>, weight: ArrayLike<number>): Float64Array => {
    const columns = weight.length / input.length;
    return Float64Array.from({ length: columns }, (_, j) => {
      let sum = 0;
      for (let i = 0; i < input.length; i++) sum += input[i] * weight[i * columns + j];
      return sum;
    });
  };
  const layer = (name: string, input: ArrayLike<number>) => {
    const time = times(embedding, p[`${name}.time`]);
    return times(input, p[`${name}.weight`]).map((value, i) => {
      const z = value + time[i] + p[`${name}.bias`][i];
      return z / (1 + Math.exp(-z));
    });
  };
  let h = layer('layer1', x);
  for (const name of ['layer2', 'layer3']) {
    const added = layer(name, h);
    h = h.map((value, i) => value + added[i]);
  }
  return times(h, p['out.weight']).map((value, i) => value + p['out.bias'][i]);
}

t.test('the denoiser and its gradients', async (t) => {
  const p = values(base);
  const x = noise(1, 0, new Float32Array(2 * PIXELS));
  const timesteps = [3, 700];
  const predictions = predict(base, x, timesteps);
  const expected = timesteps.map((time, row) => denoise(p, x.subarray(row * PIXELS, (row + 1) * PIXELS), time));
  const scale = Math.max(...expected.flatMap((row) => Array.from(row, Math.abs)));
  const worst = Math.max(
    ...predictions.map((value, i) => Math.abs(value - expected[Math.floor(i / PIXELS)][i % PIXELS])),
  );
  // float32 dot products of up to 256 terms through four layers.
  t.ok(worst < 1024 * 2 ** -24 * scale, `predictions differ from float64 by ${worst}`);

  // d/ds of <cotangent, f(p + s·direction)> by central differences in float64, one direction per parameter.
  const cotangent = noise(2, 0, new Float32Array(2 * PIXELS));
  const [prediction, pullback] = vjp((params: Params) => apply(params, inputsOf(x, timesteps)), [ref(base)]);
  prediction.dispose();
  const gradients = values(pullback(matrix(cotangent, PIXELS))[0] as Params);
  pullback.dispose();
  let stream = 3;
  for (const [name, shape] of Object.entries(DENOISER_SHAPES)) {
    const direction = noise(stream++, 0, new Float32Array(shape.reduce((a, b) => a * b)));
    const along = (step: number): number => {
      const moved = { ...p, [name]: Float64Array.from(p[name], (value, i) => value + step * direction[i]) };
      let sum = 0;
      timesteps.forEach((time, row) => {
        const out = denoise(moved, x.subarray(row * PIXELS, (row + 1) * PIXELS), time);
        for (let i = 0; i < PIXELS; i++) sum += out[i] * cotangent[row * PIXELS + i];
      });
      return sum;
    };
    const step = 1e-4;
    const numeric = (along(step) - along(-step)) / (2 * step);
    const analytic = gradients[name].reduce((sum, value, i) => sum + value * direction[i], 0);
    const size = Math.hypot(...gradients[name]) * Math.sqrt(direction.length);
    t.ok(
      Math.abs(numeric - analytic) < 1e-5 * size,
      `${name}: ${analytic} along a direction, ${numeric} by differences`,
    );
  }
});

t.test('the reference of the policy moves, and goes with its state', async (t) => {
  const policy = new DenoiserPolicy(base);
  const latents = noise(4, 0, new Float32Array(2 * PIXELS));
  const inputs = { latents, shape: [PIXELS], timesteps: Float64Array.of(10, 10), conditions: [undefined, undefined] };
  const first = policy.reference(inputs);
  const point = policy.linearize(inputs);
  await point.pullback(noise(5, 0, new Float32Array(2 * PIXELS)));
  point.release?.();
  policy.step({ learningRate: 1e-2, maxGradientNorm: 1 });
  t.notOk('reference.out.bias' in policy.state().tensors, 'what has not moved is what the module makes again');
  policy.updateReference(0.5);
  t.notSame(policy.reference(inputs), first);
  t.notSame(policy.reference(inputs), policy.predict(inputs));
  const other = new DenoiserPolicy(base);
  other.load(policy.state());
  t.same(other.reference(inputs), policy.reference(inputs));
  policy.updateReference(0);
  t.same(policy.reference(inputs), policy.predict(inputs), 'refreshed');
  const unmoved = new DenoiserPolicy(base);
  t.throws(() => policy.load(unmoved.state()), /the reference, which has moved/);
  for (const one of [policy, other, unmoved]) one.dispose();
});

t.test('AdamW follows its definition', async (t) => {
  const options = {
    learningRate: 0.1,
    betas: [0.8, 0.9] as const,
    epsilon: 1e-3,
    weightDecay: 0.2,
    maxGradientNorm: 1,
  };
  const p = Float64Array.of(1, -2, 3);
  const m = new Float64Array(3);
  const v = new Float64Array(3);
  let params: Params = { a: np.array([1, -2]), b: np.array([[3]]) };
  const optimizer = new AdamW(params, options);
  for (const [step, gradient] of [
    [1, [0.3, -0.4, 0]],
    [2, [3, 4, 12]],
    [3, [-0.1, 0.2, 0.1]],
  ] as [number, number[]][]) {
    const update = optimizer.step(params, { a: np.array(gradient.slice(0, 2)), b: np.array([[gradient[2]]]) });
    params = update.params;
    const norm = Math.hypot(...gradient);
    t.ok(Math.abs(update.gradientNorm - norm) < 1e-6 * norm, `step ${step}: norm ${update.gradientNorm}`);
    const scale = Math.min(1, 1 / (norm + 1e-6));
    for (let i = 0; i < 3; i++) {
      const g = scale * gradient[i];
      m[i] = 0.8 * m[i] + 0.2 * g;
      v[i] = 0.9 * v[i] + 0.1 * g * g;
      const direction = m[i] / (1 - 0.8 ** step) / (Math.sqrt(v[i] / (1 - 0.9 ** step)) + 1e-3);
      p[i] -= 0.1 * (direction + 0.2 * p[i]);
    }
    const now = Object.values(values(params)).flatMap((value) => Array.from(value));
    t.ok(
      now.every((value, i) => Math.abs(value - p[i]) < 1e-5),
      `step ${step}: ${now} for ${p}`,
    );
  }
  optimizer.dispose();
});

t.test('the digits are split once', async (t) => {
  const key = (part: Digits, row: number) => `${part.labels[row]} ${image(part, row)}`;
  t.equal(digits.train.labels.length, 1297);
  t.equal(digits.test.labels.length, 500);
  t.ok(digits.train.images.every((value) => value >= -1 && value <= 1 && (value * 8) % 1 === 0));
  // Every image is in exactly one part: the multiset of both is the file's.
  const count = new Map<string, number>();
  for (const part of [digits.train, digits.test]) {
    for (const row of part.labels.keys()) count.set(key(part, row), (count.get(key(part, row)) ?? 0) + 1);
  }
  t.equal(
    [...count.values()].reduce((a, b) => a + b),
    1797,
  );
  t.ok(count.size > 1790, 'nearly all images differ, so no row was taken twice');
});

t.test('pairs', async (t) => {
  const real = new Map(Array.from(digits.train.labels, (label, row) => [String(image(digits.train, row)), label]));
  const rows = (images: Float32Array) =>
    Array.from({ length: images.length / PIXELS }, (_, row) => images.subarray(row * PIXELS, (row + 1) * PIXELS));
  const options = { source: 'A' as PairSource, count: 200, seeds: { draws: 5, noise: 6 } };

  const clean = makePairs(digits.train, { ...options, swapped: 0.1 });
  const preferred = (images: Float32Array) => rows(images).map((pixels) => real.get(String(pixels))! <= 4);
  t.equal(preferred(clean.chosen).filter(Boolean).length, 180, 'a tenth is swapped');
  t.equal(preferred(clean.rejected).filter(Boolean).length, 20);
  t.ok(sameNumbers(makePairs(digits.train, { ...options, swapped: 0.1 }).chosen, clean.chosen), 'the seed decides');
  t.notOk(
    sameNumbers(
      makePairs(digits.train, { ...options, seeds: { draws: 7, noise: 8 }, swapped: 0.1 }).chosen,
      clean.chosen,
    ),
  );

  const deviation = (a: Float32Array, b: Float32Array) =>
    Math.sqrt(a.reduce((sum, v, i) => sum + (v - b[i]) ** 2, 0) / a.length);
  const isNoisy = (pixels: Float32Array) => !real.has(String(pixels));
  const plain = makePairs(digits.train, options);
  for (const [source, chosenNoisy, rejectedNoisy] of [
    ['N1', true, false],
    ['A', false, false],
    ['N2', true, true],
    ['C', false, true],
  ] as const) {
    const { chosen, rejected } = makePairs(digits.train, { ...options, source });
    t.ok(
      rows(chosen).every((pixels) => isNoisy(pixels) === chosenNoisy),
      `${source}: chosen`,
    );
    t.ok(
      rows(rejected).every((pixels) => isNoisy(pixels) === rejectedNoisy),
      `${source}: rejected`,
    );
    if (chosenNoisy)
      t.ok(Math.abs(deviation(chosen, plain.chosen) - 0.3) < 0.01, `${source}: 0.3 of noise on the same digits`);
  }

  const shifted = makePairs(digits.train, { ...options, source: 'S' });
  const blurred = makePairs(digits.train, { ...options, source: 'E' });
  t.ok(sameNumbers(blurred.chosen, shifted.chosen), 'S and E shift the chosen side alike');
  const directions = [
    [1, 0],
    [-1, 0],
    [0, 1],
    [0, -1],
  ];
  const originals = rows(plain.chosen);
  const taken = rows(shifted.chosen).map((pixels, row) =>
    directions.findIndex(([dy, dx]) => shiftedText(originals[row], dy, dx) === String(pixels)),
  );
  t.same([...new Set(taken)].sort(), [0, 1, 2, 3], 'S moves the same digits by one pixel, in all four directions');
  const roughness = (images: Float32Array) =>
    rows(images).reduce((sum, p) => sum + p.reduce((s, v, i) => (i % 8 === 0 ? s : s + (v - p[i - 1]) ** 2), 0), 0);
  t.ok(roughness(blurred.rejected) < 0.6 * roughness(shifted.rejected), 'E also blurs the rejected side');
  t.same(Object.keys(PAIR_SOURCES), ['N1', 'A', 'N2', 'C', 'S', 'E']);
});

/** The image moved by (dy, dx) as text, with paper where nothing came in. */
function shiftedText(pixels: ArrayLike<number>, dy: number, dx: number): string {
  const moved = new Float32Array(PIXELS).fill(-1);
  for (let y = Math.max(0, dy); y < 8 + Math.min(0, dy); y++) {
    for (let x = Math.max(0, dx); x < 8 + Math.min(0, dx); x++) moved[8 * y + x] = pixels[8 * (y - dy) + x - dx];
  }
  return String(moved);
}

t.test('samples and their measures', async (t) => {
  t.ok(
    mostProbable(classify(judge, digits.test.images)).filter((digit, row) => digit === digits.test.labels[row])
      .length >= 480,
    'the judge knows at least 96 % of the test digits',
  );
  const start = noise(7, 0, new Float32Array(8 * PIXELS));
  const images = sample(base, start);
  t.ok(
    images.every((value) => value >= -1 && value <= 1),
    'samples stay within the range of a pixel',
  );
  const alone = sample(base, start.slice(0, PIXELS));
  const worst = Math.max(...alone.map((value, i) => Math.abs(value - images[i])));
  t.ok(worst < 1e-3, `a sample does not depend on its neighbours (${worst})`);

  const evaluated = new Evaluator(digits, judge, 64).evaluate(base);
  t.ok(evaluated.good <= evaluated.valid, 'good samples are valid');
  t.ok(evaluated.reward > 0.2 && evaluated.reward < 0.8, `the base prefers no half of the digits: ${evaluated.reward}`);
  t.equal(evaluated.goodRows.filter(Boolean).length / 64, evaluated.good);
  // A denoiser that always predicts v = 0 leaves noise, which is no digit.
  const zero = Object.fromEntries(Object.entries(DENOISER_SHAPES).map(([name, shape]) => [name, np.zeros([...shape])]));
  t.equal(new Evaluator(digits, judge, 64).evaluate(zero).valid, 0);
});
