/** Statistics by timestep and learning rates: against what they are defined as. */

import t from 'tap';
import { NoiseSchedule, noise, PreferenceLoss, type PreferenceLossOptions } from '../../lib/index.js';
import { learningRateSchedule, TimestepBins } from '../../lib/trainer/index.js';

const SIZE = 24;
const ROWS = 40;
const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: 50 });
const timesteps = Float64Array.from({ length: ROWS }, (_, row) => Math.floor(((row + 0.5) / ROWS) * 1000));

function evaluate(options: Partial<PreferenceLossOptions>) {
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 5, schedule, maskThreshold: 0.5, ...options });
  const values = (seed: number) => noise(seed, 0, new Float64Array(ROWS * SIZE));
  const branch = (seed: number) => ({ policy: values(seed), reference: values(seed + 1), target: values(seed + 2) });
  return loss.evaluate({ timesteps, chosen: branch(0), rejected: branch(10) });
}

t.test('the gradient norms are those of the gradients', (t) => {
  const cases: Partial<PreferenceLossOptions>[] = [
    {},
    { klWeight: 0.7 },
    { objective: 'dpo-cm', klWeight: 2, klScope: 'masked' },
    { objective: 'diffusion-dpo', maskThreshold: undefined, sftWeight: 1 },
    { objective: 'dspo', maskThreshold: undefined },
  ];
  for (const options of cases) {
    const out = evaluate(options);
    const bins = new TimestepBins(5, 1000);
    bins.add(timesteps, out, SIZE, ROWS);
    const norms = Array.from(timesteps, (_, row) => {
      let squares = 0;
      for (const branch of ['chosen', 'rejected'] as const) {
        for (let i = 0; i < SIZE; i++) squares += (ROWS * out.gradients[branch][row * SIZE + i]) ** 2;
      }
      return Math.sqrt(squares);
    });
    bins.statistics().forEach((bin, index) => {
      const own = norms.filter((_, row) => bins.indexOf(timesteps[row]) === index);
      const mean = own.reduce((sum, norm) => sum + norm, 0) / own.length;
      const deviation = Math.sqrt(own.reduce((sum, norm) => sum + (norm - mean) ** 2, 0) / own.length);
      // δ + q and its like cancel where the gradient is small: what is lost is relative to the largest norm.
      const bound = 1e4 * Number.EPSILON * Math.max(...norms);
      t.equal(bin.rows, own.length);
      t.ok(Math.abs(bin.gradientNorm - mean) <= bound, `mean of bin ${index}`);
      t.ok(Math.abs(bin.gradientNormMax - Math.max(...own)) <= bound, `maximum of bin ${index}`);
      if (mean > 0) t.ok(Math.abs(bin.gradientNormCv * mean - deviation) <= bound, `deviation of bin ${index}`);
    });
  }
  t.end();
});

t.test('means of the rows that fell into a bin', (t) => {
  const out = evaluate({});
  const bins = new TimestepBins(4, 1000);
  bins.add(timesteps, out, SIZE, ROWS);
  bins.statistics().forEach((bin, index) => {
    const rows = Array.from(timesteps.keys()).filter((row) => Math.floor(timesteps[row] / 250) === index);
    const mean = (values: ArrayLike<number>) => rows.reduce((sum, row) => sum + values[row], 0) / rows.length;
    const near = (a: number, b: number) => Math.abs(a - b) <= 64 * Number.EPSILON * (1 + Math.abs(b));
    t.ok(near(bin.kept, mean(out.rows.mask)));
    t.ok(near(bin.weightChosen, mean(out.rows.weightChosen)));
    t.ok(near(bin.driftRejected, mean(out.rows.driftRejected)));
    t.ok(near(bin.rewardMargin, mean(out.rows.rewardChosen) - mean(out.rows.rewardRejected)));
  });
  const clipped = bins.statistics().reduce((sum, bin) => sum + bin.clipped * bin.rows, 0) / (2 * ROWS);
  t.ok(Math.abs(clipped - out.metrics.clipFraction) <= 64 * Number.EPSILON, 'clipped weights make the clip fraction');
  t.end();
});

t.test('edges, empty bins, reset and state', (t) => {
  const bins = new TimestepBins(10, 1000);
  t.same(
    [0, 99.9, 100, 999, 1000, -1].map((time) => bins.indexOf(time)),
    [0, 0, 1, 9, 9, 0],
  );
  t.same(bins.entries(), { ...Object.fromEntries(Array.from({ length: 10 }, (_, i) => [`bins/rows/${i}`, 0])) });
  t.ok(Number.isNaN(bins.statistics()[0].weightChosen) && Number.isNaN(bins.statistics()[0].gradientNorm));
  bins.add(timesteps, evaluate({}), SIZE, ROWS);
  const copy = new TimestepBins(10, 1000);
  copy.load(JSON.parse(JSON.stringify(bins.state())));
  t.same(copy.statistics(), bins.statistics());
  copy.add(timesteps, evaluate({}), SIZE, ROWS);
  t.not(copy.statistics()[0].rows, bins.statistics()[0].rows, 'a state is a copy');
  bins.reset();
  t.equal(bins.statistics()[3].rows, 0);
  t.throws(() => new TimestepBins(3, 1000).load(copy.state()), { code: 'ERR_SDPO_RESUME' });
  t.throws(() => bins.add(timesteps, { ...evaluate({}) } as never, SIZE, ROWS), { code: 'ERR_SDPO_INTERNAL' });
  t.end();
});

t.test('learning rates', (t) => {
  const constant = learningRateSchedule({ peak: 2 });
  t.same([0, 1, 1e6].map(constant), [2, 2, 2]);
  const warm = learningRateSchedule({ peak: 2, warmupSteps: 4 });
  t.same([0, 1, 3, 4].map(warm), [0.5, 1, 2, 2]);
  const linear = learningRateSchedule({ peak: 2, warmupSteps: 2, decay: 'linear', steps: 6, final: 1 });
  t.same([1, 2, 4, 6, 9].map(linear), [2, 2, 1.5, 1, 1]);
  const cosine = learningRateSchedule({ peak: 2, decay: 'cosine', steps: 4 });
  t.same([0, 4, 5].map(cosine), [2, 0, 0]);
  t.ok(Math.abs(cosine(2) - 1) <= 2 * Number.EPSILON, 'half-way down');
  const cases: [object, string][] = [
    [{}, 'ERR_SDPO_INVALID_ARG_TYPE'],
    [{ peak: -1 }, 'ERR_SDPO_INVALID_ARG_VALUE'],
    [{ peak: 1, decay: 'linear' }, 'ERR_SDPO_INVALID_ARG_TYPE'],
    [{ peak: 1, decay: 'cosine', steps: 5, warmupSteps: 5 }, 'ERR_SDPO_INVALID_ARG_VALUE'],
    [{ peak: 1, final: 0.5 }, 'ERR_SDPO_INVALID_OPTION'],
    [{ peak: 1, decay: 'sudden' }, 'ERR_SDPO_INVALID_ARG_VALUE'],
    [{ peak: 1, warmup: 5 }, 'ERR_SDPO_UNKNOWN_OPTION'],
  ];
  for (const [options, code] of cases) t.throws(() => learningRateSchedule(options as never), { code });
  t.end();
});
