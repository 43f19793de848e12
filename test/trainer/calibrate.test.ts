/** Calibration: exact where the quantile is known, in agreement with the mask of the loss, and honest about what it cannot do. */

import t from 'tap';
import { PreferenceLoss } from '../../lib/loss/loss.js';
import { NoiseSchedule } from '../../lib/schedule/schedule.js';
import { createRandom, noise } from '../../lib/tensor/noise.js';
import { Tensor } from '../../lib/tensor/tensor.js';
import { type CalibrateOptions, calibrate, formatCalibration } from '../../lib/trainer/calibrate.js';
import { type CalibrationGoal, calibrationOf } from '../../lib/trainer/calibration.js';
import type { CalibrationRow } from '../../lib/trainer/calibration-row.js';
import { pairsFromArray, pairsFromStream } from '../../lib/trainer/data.js';
import { PreferenceTrainer } from '../../lib/trainer/trainer.js';
import type { ModelInputs, TrainingRows } from '../../lib/trainer/types.js';
import linearData, { stream } from '../helpers/linear-data.js';
import linearPolicy from '../helpers/linear-policy.js';

const GOAL: CalibrationGoal = {
  keep: 0.8,
  tau: undefined,
  kappa: undefined,
  edges: [],
  reduction: 1,
  timestepWeighting: 'constant',
  relativeImprovement: 0.01,
  logitSpread: 1,
};
const row = (errorChosen: number, more: Partial<CalibrationRow> = {}): CalibrationRow => ({
  timestep: 5,
  omega: 1,
  errorChosen,
  errorRejected: 0,
  ...more,
});
/** Ten rows that cost 1 … 10, in no order. */
const TEN = [3, 1, 10, 7, 5, 2, 9, 4, 8, 6].map((cost) => row(cost));

t.test('κ for τ, τ for κ, at a quantile that is known', async (t) => {
  const proposed = calibrationOf(TEN, GOAL);
  t.equal(proposed.tau, 0.9);
  t.equal(proposed.kappa, -Math.log(0.9) / 8.5, 'between the eighth and the ninth of ten');
  t.equal(proposed.keepFraction, 0.8);
  t.same(proposed.warnings, []);
  t.equal(calibrationOf(TEN, { ...GOAL, tau: 0.5, keep: 0.3 }).kappa, -Math.log(0.5) / 3.5);
  const other = calibrationOf(TEN, { ...GOAL, kappa: 2 });
  t.equal(other.tau, Math.exp(-2 * 8.5));
  t.equal(other.keepFraction, 0.8);
  t.equal(calibrationOf(TEN, { ...GOAL, kappa: 1e6 }).tau, Number.MIN_VALUE, 'above 0, which is no mask');
  t.equal(calibrationOf(TEN, { ...GOAL, reduction: 4 }).kappa, -Math.log(0.9) / (4 * 8.5), "reduction 'sum'");
  const larger = TEN.map((one) => ({ ...one, errorRejected: one.errorChosen, errorChosen: 0.5, omega: 2 }));
  t.equal(calibrationOf(larger, GOAL).kappa, -Math.log(0.9) / 17, 'the larger error of a row times ω');
  t.equal(calibrationOf([row(2), row(2)], GOAL).kappa, -Math.log(0.9) / 2, 'rows alike: all or none');
});

t.test('rows without a density ratio are removed always', async (t) => {
  const infinite = (count: number) => Array.from({ length: count }, () => row(0, { omega: Infinity }));
  const some = calibrationOf([...TEN.slice(0, 8), ...infinite(2)], GOAL);
  t.same([some.keepFraction, some.warnings], [0.8, []], 'exactly as many as may go');
  t.equal(some.bins[0].removedAlways, 2);
  const many = calibrationOf([...TEN, ...infinite(10)], GOAL);
  t.equal(many.keepFraction, 0.5);
  t.match(many.warnings, [/only 50.0 % of the rows have a density ratio .* 80.0 % cannot be kept/]);
  const none = calibrationOf(infinite(4), GOAL);
  t.ok(Number.isNaN(none.kappa));
  t.match(none.warnings.join('\n'), /neither κ nor τ can be proposed/);
  t.notMatch(formatCalibration(none), /weightSharpness|NaN/);
  t.notMatch(formatCalibration(calibrationOf(infinite(4), { ...GOAL, kappa: 1 })), /maskThreshold|NaN/);
});

t.test('given κ and τ are judged', async (t) => {
  const judged = (kappa: number, tau: number) => calibrationOf(TEN, { ...GOAL, kappa, tau });
  const fine = judged(-Math.log(0.9) / 5.5, 0.9);
  t.same([fine.kappa, fine.tau, fine.keepFraction, fine.warnings], [-Math.log(0.9) / 5.5, 0.9, 0.5, []]);
  const few = judged(100, 0.9);
  t.equal(few.keepFraction, 0);
  t.match(few.warnings[0], /keep 0.0 % of the rows, below 5 %.* weightSharpness 0.0124 would keep 80.0 %/);
  const all = judged(1e-6, 0.9);
  t.equal(all.keepFraction, 1);
  t.match(all.warnings[0], /keep 100.0 % of the rows, above 99 %: the mask does nothing; weightSharpness 0.0124/);
});

t.test('bins by timestep', async (t) => {
  const early = TEN.map((one) => ({ ...one, timestep: 1 }));
  const late = TEN.map((one) => ({ ...one, timestep: 10, omega: 100 }));
  const result = calibrationOf([...early, ...late], { ...GOAL, keep: 0.5, edges: [10, 20] });
  t.same(
    result.bins.map(({ from, to, rows }) => [from, to, rows]),
    [
      [-Infinity, 10, 10],
      [10, 20, 10],
      [20, Infinity, 0],
    ],
  );
  t.same(
    result.bins.map(({ keepFraction }) => keepFraction),
    [1, 0, NaN],
  );
  t.equal(result.bins[0].kappa, -Math.log(0.9) / 5.5);
  t.equal(result.bins[1].kappa, -Math.log(0.9) / 550);
  t.equal(result.bins[1].tau, Math.exp(-result.kappa * 550));
  t.equal(result.bins[0].errorChosen, 5.5, 'a median');
  t.equal(
    calibrationOf([row(10), row(9), row(1)], GOAL).bins[0].errorChosen,
    9,
    'of an odd number, ordered as numbers',
  );
  t.match(result.warnings, [/10 <= t < 20: 0.0 % of the rows are kept/, /no row fell into t >= 20/]);
  const text = formatCalibration(result);
  t.match(text, /t < 10 +10 +5\.5 +0 +0\.0 % +100\.0 %/);
  t.match(text, /t >= 20 +0 +- +- +- +- +- +-/);
  t.match(text, /warning: 10 <= t < 20/);
});

t.test('β from the spread of the branches, by its stated assumption', async (t) => {
  // Differences of 1 and -1: a sample standard deviation of √2.
  const rows = [row(2, { errorRejected: 1 }), row(1, { errorRejected: 2 })];
  const close = (value: number, expected: number) =>
    t.ok(Math.abs(value / expected - 1) <= 4 * Number.EPSILON, `${value}`);
  close(calibrationOf(rows, GOAL).beta, 1 / (0.01 * Math.SQRT2 * 0.5));
  close(calibrationOf(rows, { ...GOAL, logitSpread: 3, relativeImprovement: 0.1 }).beta, 3 / (0.1 * Math.SQRT2 * 0.5));
  const weighted = rows.map((one) => ({ ...one, omega: 7 }));
  const elbo = { ...GOAL, timestepWeighting: 'elbo', reduction: 2 } as const;
  close(calibrationOf([...weighted, row(1, { omega: Infinity })], elbo).beta, 1 / (0.01 * Math.SQRT2 * 14));
  // Three differences of 0.1 have a sum that is rounded.
  const alike = calibrationOf([row(0.1), row(0.1), row(0.1)], GOAL);
  t.ok(Number.isNaN(alike.beta));
  t.match(alike.warnings, [/errors of the branches do not differ/]);
  t.notMatch(formatCalibration(alike), /"beta"/);
  const damaged = calibrationOf([...TEN, row(NaN)], GOAL);
  t.equal(damaged.rows, 10);
  t.match(damaged.warnings, [/1 of 11 rows have an error that is not finite/]);
});

const SHAPE = [3, 2];
const SIZE = 6;
const PAIRS = Array.from({ length: 20 }, (_, i) => ({
  id: `p${i}`,
  chosen: noise(1, i * SIZE, new Float32Array(SIZE)),
  rejected: noise(2, i * SIZE, new Float32Array(SIZE)),
  condition: i,
}));
const data = pairsFromArray(PAIRS, { shape: SHAPE });
/** A model that is wrong by more or less, depending on the noise it is given. */
const model = ({ latents }: ModelInputs) => latents.map((x) => 0.3 * Math.sin(5 * x));

t.test('the loss keeps what the calibration says, on the same rows', async (t) => {
  for (const preset of ['sd15', 'cogvideox-2b', 'wan2.1-1.3b'] as const) {
    const schedule = NoiseSchedule.preset(preset);
    for (const [keep, given, logRatioReduction] of [
      [0.8, { tau: 0.9 }, 'mean'],
      [0.35, { tau: 0.5 }, 'sum'],
      [0.6, { kappa: 2 }, 'mean'],
    ] as const) {
      const seen: { rows: TrainingRows<number>; prediction: Float32Array }[] = [];
      const result = await calibrate<number>({
        reference: (rows) => {
          const prediction = model(rows.inputs);
          seen.push({ rows, prediction });
          return { prediction };
        },
        data: data as never,
        schedule,
        keep,
        batches: 5,
        batchSize: 30,
        logRatioReduction,
        ...given,
      });
      const loss = new PreferenceLoss({
        objective: 'sdpo',
        schedule,
        beta: result.beta,
        weightSharpness: result.kappa,
        maskThreshold: result.tau,
        logRatioReduction,
      });
      let removed = 0;
      for (const { rows, prediction } of seen) {
        const half = rows.rows * SIZE;
        const branch = (at: number, target: Float32Array) => {
          const policy = prediction.subarray(at, at + half);
          return { policy, reference: policy, target };
        };
        const out = loss.evaluate(
          {
            timesteps: rows.timesteps,
            chosen: branch(0, rows.target.chosen),
            rejected: branch(half, rows.target.rejected),
          },
          { gradients: false },
        );
        removed += Math.round(out.metrics.maskFraction * rows.rows);
      }
      t.equal(result.rows, 150);
      t.equal(removed, Math.round((1 - result.keepFraction) * 150), `${preset}: the very rows`);
      t.ok(Math.abs(removed / 150 - (1 - keep)) <= 1 / 150, `${preset}: within one row of ${1 - keep}`);
    }
  }
});

t.test('rows are those of a training run', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const seen: TrainingRows[] = [];
  const reference = (rows: TrainingRows) => {
    seen.push(rows);
    return { error: { chosen: rows.ids.map((_, i) => i + 1), rejected: rows.ids.map(() => 0.5) } };
  };
  const options: CalibrateOptions = { reference, data, schedule, batches: 2, batchSize: 4, seed: 11 };
  const first = await calibrate(options);
  t.equal(first.rows, 8);
  const [rows] = seen;
  t.same([rows.step, rows.part, rows.rows, seen[1].step], [0, 0, 4, 1]);
  const x0 = Float32Array.from(rows.ids.flatMap((id) => [...PAIRS.find((pair) => pair.id === id)!.chosen]));
  const epsilon = noise(11, 0, new Float32Array(4 * SIZE));
  t.same(rows.target.chosen, epsilon, 'sd15 predicts the noise');
  t.same(rows.target.rejected, epsilon, 'which both branches share');
  t.same(rows.inputs.latents.subarray(0, 4 * SIZE), schedule.addNoise(x0, epsilon, rows.timesteps));
  t.same(rows.inputs.timesteps, Float64Array.from([...rows.timesteps, ...rows.timesteps]));
  t.same(
    rows.inputs.conditions,
    [...rows.ids, ...rows.ids].map((id) => Number(id.slice(1))),
  );
  t.not(seen[1].ids.join(), rows.ids.join());
  t.same(await calibrate(options), first, 'the same seed, the same result');
  t.notSame(await calibrate({ ...options, seed: 12 }), first);

  seen.length = 0;
  await calibrate({ ...options, noise: 'independent', timesteps: { range: [100, 120] }, bins: [110] });
  t.notSame(seen[0].target.chosen, seen[0].target.rejected);
  t.ok(seen.every(({ timesteps }) => timesteps.every((timestep) => timestep >= 100 && timestep <= 120)));

  let closed = false;
  async function* from(position: number) {
    try {
      for (const pair of PAIRS.slice(position, 6)) yield pair;
    } finally {
      closed = true;
    }
  }
  const stream = pairsFromStream(from, { shape: SHAPE, fingerprint: 'x' });
  seen.length = 0;
  t.equal((await calibrate({ ...options, data: stream, batches: 9 })).rows, 6, 'a stream that ends');
  t.same(
    seen.flatMap(({ ids }) => ids),
    PAIRS.slice(0, 6).map(({ id }) => id),
    'in its order',
  );
  await calibrate({ ...options, data: stream, batches: 1 });
  t.ok(closed);
  const empty = pairsFromStream([], { shape: SHAPE, fingerprint: 'x' });
  await t.rejects(calibrate({ ...options, data: empty }), { code: 'ERR_SDPO_DATA' });
});

t.test('policy, reference and tensors give the same', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const options = { data, schedule, batches: 2, batchSize: 5, bins: 2 };
  const predict = (inputs: ModelInputs) => model(inputs);
  const other = () => {
    throw new Error('not to be asked');
  };
  const expected = await calibrate({ ...options, policy: { predict } });
  t.same(await calibrate({ ...options, policy: { predict: other, reference: predict } }), expected);
  t.same(
    await calibrate({ ...options, reference: { predict: ({ inputs }) => ({ prediction: model(inputs) }) } }),
    expected,
  );
  const tensor = (inputs: ModelInputs) => Tensor.from(model(inputs), { shape: [10, ...SHAPE] });
  t.same(await calibrate({ ...options, policy: { predict: tensor } }), expected);
  t.match(
    formatCalibration(expected),
    /"weightSharpness": [\d.e+-]+,\n {2}"maskThreshold": 0.9,\n {2}"beta": [\d.e+-]+,/,
  );
});

t.test('wrong options', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const random = createRandom(1);
  const good: CalibrateOptions = { policy: { predict: model }, data, schedule, batches: 1 };
  const wrong: [object, RegExp][] = [
    [{ policy: undefined }, /either policy or reference, received "neither"/],
    [{ reference: model }, /received "both"/],
    [{ policy: {} }, /options.policy/],
    [{ policy: undefined, reference: {} }, /options.reference/],
    [{ data: PAIRS }, /options.data/],
    [{ schedule: {} }, /options.schedule/],
    [{ batches: 0 }, /options.batches/],
    [{ batchSize: 0.5 }, /options.batchSize/],
    [{ keep: 1 }, /options.keep/],
    [{ tau: 1 }, /options.tau/],
    [{ kappa: 0 }, /options.kappa/],
    [{ bins: 0 }, /options.bins/],
    [{ bins: [2, 1] }, /options.bins\[1\]/],
    [{ noise: 'same' }, /options.noise/],
    [{ seed: -1 }, /seed/],
    [{ logRatioReduction: 'max' }, /options.logRatioReduction/],
    [{ timestepWeighting: 'min' }, /options.timestepWeighting/],
    [{ relativeImprovement: 0 }, /options.relativeImprovement/],
    [{ logitSpread: 0 }, /options.logitSpread/],
    [{ timesteps: { mean: 1 } }, /options.mean/],
    [{ timesteps: { random } }, /options.timesteps to have only/],
    [{ signal: {} }, /options.signal/],
    [{ beta: 1 }, /options to have only the fields/],
  ];
  for (const [change, message] of wrong)
    await t.rejects(calibrate({ ...good, ...change } as CalibrateOptions), { message });
  await t.rejects(calibrate({ ...good, signal: AbortSignal.abort('enough') }), {
    code: 'ERR_SDPO_ABORTED',
    cause: 'enough',
  });
});

t.test('every row has noise of its own, which its branches share where that is asked', async (t) => {
  // With ε-prediction the target is the noise.
  const schedule = NoiseSchedule.preset('sd15');
  const size = 6;
  const sample = () => new Float32Array(size).fill(0.5);
  const data = pairsFromArray([{ id: 'only', chosen: sample(), rejected: sample() }], { shape: [size] });
  for (const kind of ['shared', 'independent'] as const) {
    const seen: TrainingRows[] = [];
    await calibrate({
      reference(rows) {
        seen.push(rows);
        return { prediction: new Float32Array(rows.inputs.latents.length) };
      },
      ...{ data, schedule, batches: 3, batchSize: 2, noise: kind },
    });
    const rows = seen.flatMap(({ target }) =>
      [target.chosen, ...(kind === 'shared' ? [] : [target.rejected])].flatMap((values) => [
        values.subarray(0, size).join(),
        values.subarray(size).join(),
      ]),
    );
    t.equal(rows.length, kind === 'shared' ? 6 : 12);
    t.equal(new Set(rows).size, rows.length, `${kind}: no two alike`);
    if (kind === 'shared') for (const { target } of seen) t.same(target.rejected, target.chosen);
  }
});

t.test('β from the drift of a trial', async (t) => {
  const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: 20 });
  const policyOf = () => linearPolicy({}, { shape: [4], seed: 0, folder: '.' });
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta: 1 });
  const trial = { loss, learningRate: 1e-3, steps: 16 };
  const options = (more: object = {}, policy = policyOf()): CalibrateOptions => ({
    ...{ policy, data: linearData({}), schedule, batches: 8, batchSize: 16, trial },
    ...more,
  });
  const policy = policyOf();
  const before = await policy.state();
  const found = await calibrate(options({}, policy));
  t.same(await policy.state(), before, 'the policy is as it was');
  t.match(found, { betaFrom: 'trial', trial: { steps: 16, learningRate: 1e-3 }, warnings: [] });
  const { share, growth, drift } = found.trial!;
  t.ok(growth > 1.5 && growth < 2.5, `it grows ${growth}-fold over the second half`);
  t.ok(Math.abs(found.beta * drift - 1) < 1e-12);
  const assumed = await calibrate(options({ trial: undefined }));
  t.match(assumed, { betaFrom: 'assumption', trial: undefined });
  t.ok(Math.abs(found.beta * share - assumed.beta * 0.01) < 1e-9 * assumed.beta, 'the share takes the place of 1 %');
  t.match(formatCalibration(found), /^trial of 16 updates at the rate 0\.001: .* of its spread, \S+ times as far/m);
  t.match(formatCalibration(found), /start a search from, measured\):/);
  t.match(formatCalibration(assumed), /start a search from, assumed\):/);

  // What it says comes about: a training with that β has logits of that size after as many updates.
  const sizes: number[] = [];
  const beta = {
    scale: () => 1,
    observe: ({ logit }: { logit: Float64Array }) => void sizes.push(Math.hypot(...logit) / Math.sqrt(logit.length)),
    state: () => null,
    load() {},
  };
  const trained = new PreferenceTrainer({
    ...{ policy: policyOf(), data: linearData({}), seed: 3, learningRate: 1e-3, pairsPerStep: 64, beta },
    // A tenth of it: at a logit of 1 the link has begun to leave out rows that are right already, and the drift slows down.
    loss: new PreferenceLoss({ objective: 'diffusion-dpo', schedule, beta: found.beta / 10 }),
  });
  for await (const _ of trained.run(17));
  t.ok(sizes[16]! > 0.06 && sizes[16]! < 0.16, `the logit has the size ${sizes[16]} after 16 updates`);
  const far = await calibrate(options({ trial: { ...trial, horizon: 4 * 16e-3 }, logitSpread: 2 }));
  t.ok(Math.abs(far.beta - found.beta / 2) < 1e-9 * far.beta, 'scaled to the horizon and the size asked for');

  const why = async (more: object, one?: ReturnType<typeof policyOf>) => {
    const { betaFrom, beta, warnings } = await calibrate(options(more, one));
    t.equal(betaFrom, 'assumption');
    t.ok(beta > 0);
    return warnings.join('\n');
  };
  const still = { trial: { ...trial, learningRate: 1e-30 * (1 + Number.EPSILON) } };
  t.match(await why(still), /not from the trial: 16 updates at the rate 1e-30 changed no error by more than rounding/);
  const mapo = new PreferenceLoss({ objective: 'mapo', schedule, beta: 1 });
  t.match(await why({ trial: { ...trial, loss: mapo } }), /objective 'mapo' has no reference/);
  t.match(await why({}, Object.assign(policyOf(), { reference: undefined })), /the policy has no reference\(\)/);
  t.match(await why({ data: stream({ count: 40 }) }), /the data have pairs for 2 of its 16 updates only/);
  const broken = policyOf();
  const norm = Object.assign(policyOf(), { step: () => ({ gradientNorm: NaN }) });
  t.match(await why({}, norm), /it diverged: .* in update 1, .* gradient/);
  let steps = 0;
  const step = broken.step.bind(broken);
  // One whose updates only begin in the second half.
  broken.step = (given) => step({ ...given, learningRate: ++steps > 8 ? 1 : 1e-6 });
  t.match(await why({}, broken), /the drift became \S+ times what it was, where 2 would be in proportion/);

  await t.rejects(
    calibrate({ ...options(), policy: undefined, reference: () => ({ error: { chosen: [], rejected: [] } }) } as never),
  );
  await t.rejects(calibrate(options({ trial: { ...trial, steps: 1 } })), { message: /options\.trial\.steps/ });
  await t.rejects(calibrate(options({ trial: { ...trial, learningRate: 0 } })), {
    message: /options\.trial\.learningRate/,
  });
  await t.rejects(calibrate(options({ trial: { ...trial, rate: 0 } })), { message: /"rate"/ });
  const controller = new AbortController();
  const watched = policyOf();
  const linearize = watched.linearize.bind(watched);
  const start = await watched.state();
  watched.linearize = (inputs) => {
    controller.abort();
    return linearize(inputs);
  };
  await t.rejects(calibrate(options({ signal: controller.signal }, watched)), { name: 'AbortError' });
  t.same(await watched.state(), start, 'also where it was stopped');
});
