/** The threshold tracker: the fraction it was asked for on stationary and drifting weights, per bin, and with what has no weight. */

import t from 'tap';
import { PreferenceLoss } from '../../lib/loss/loss.js';
import { NoiseSchedule } from '../../lib/schedule/schedule.js';
import { createRandom, noise } from '../../lib/tensor/noise.js';
import { ThresholdTracker } from '../../lib/trainer/threshold-tracker.js';
import { binOf, timestepEdges } from '../../lib/trainer/timestep-bins.js';

/** Five standard deviations of the share kept of `rows` independent rows: half of the variance is theirs, half that of the windows before them. */
const spread = (keep: number, rows: number) => 5 * Math.sqrt((2 * keep * (1 - keep)) / rows);

const rowsOf = (values: ArrayLike<number>) => ({
  logWeightChosen: Float64Array.from(values),
  logWeightRejected: Float64Array.from(values),
});

/** Share of rows at or above their threshold, over `steps` batches of 16 whose log weights `draw` gives. */
function keptShare(
  tracker: ThresholdTracker,
  steps: number,
  draw: (step: number) => number,
  timestep: (row: number) => number = () => 0,
  counts: (timestep: number) => boolean = () => true,
): { share: number; rows: number } {
  let kept = 0;
  let rows = 0;
  for (let step = 0; step < steps; step++) {
    const timesteps = Array.from({ length: 16 }, (_, row) => timestep(row));
    const values = timesteps.map(() => draw(step));
    const thresholds = tracker.threshold(timesteps);
    if (tracker.state().values.every((list) => list.length >= tracker.warmup)) {
      values.forEach((value, row) => {
        if (!counts(timesteps[row])) return;
        rows++;
        if (value >= Math.log(thresholds[row])) kept++;
      });
    }
    tracker.observe(timesteps, rowsOf(values));
  }
  return { share: kept / rows, rows };
}

t.test('reaches its fraction whatever the distribution and the window', async (t) => {
  const random = createRandom(1);
  const exponential = () => -Math.log(1 - random());
  const distributions: [string, () => number][] = [
    ['exponential', () => -exponential()],
    ['tiny', () => -1e-7 * exponential()],
    ['heavy', () => -100 / (1 - random()) ** 0.5],
    ['uniform', () => -random()],
  ];
  for (const [name, draw] of distributions) {
    for (const keep of [0.1, 0.5, 0.8, 0.95]) {
      for (const window of [32, 512]) {
        const { share, rows } = keptShare(new ThresholdTracker({ keep, window }), 1500, draw);
        t.ok(Math.abs(share - keep) < spread(keep, rows), `${name}, keep ${keep}, window ${window}: ${share}`);
      }
    }
  }
});

t.test('the loss removes what it says, per bin of timesteps', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const loss = new PreferenceLoss({ objective: 'sdpo', schedule, beta: 10, weightSharpness: 3 });
  const edges = timestepEdges(schedule, 4);
  t.same(edges, [250, 500, 750]);
  const keep = 0.7;
  const tracker = new ThresholdTracker({ keep, edges, window: 256, initial: 0.5 });
  const random = createRandom(2);
  const [rows, size] = [64, 4];
  const kept = [0, 0, 0, 0];
  const seen = [0, 0, 0, 0];
  for (let step = 0; step < 200; step++) {
    const timesteps = schedule.sampleTimesteps(rows, { random });
    const draw = (stream: number) => noise(9, (4 * step + stream) * rows * size, new Float32Array(rows * size));
    const zero = () => new Float32Array(rows * size);
    const maskThreshold = tracker.threshold(timesteps);
    const out = loss.evaluate(
      {
        timesteps,
        chosen: { policy: draw(0), reference: zero(), target: draw(1) },
        rejected: { policy: draw(2), reference: zero(), target: draw(3) },
      },
      { gradients: false, maskThreshold },
    );
    if (step >= 20) {
      timesteps.forEach((timestep, row) => {
        seen[binOf(edges, timestep)]++;
        kept[binOf(edges, timestep)] += out.rows.mask[row];
      });
    } else if (step === 0) t.same(new Set(maskThreshold), new Set([0.5]), 'before anything was seen');
    tracker.observe(timesteps, out.rows);
  }
  for (let bin = 0; bin < 4; bin++) {
    t.ok(Math.abs(kept[bin] / seen[bin] - keep) < spread(keep, seen[bin]), `bin ${bin}: ${kept[bin] / seen[bin]}`);
  }
  t.ok(new Set(tracker.threshold([0, 300, 600, 999])).size === 4, 'the bins have thresholds of their own');
});

t.test('follows a drift one window behind', async (t) => {
  const random = createRandom(3);
  const [keep, window, steps] = [0.6, 256, 2000];
  // The weights spread by a factor of e³ over the run, so by this much over one window.
  const perStep = 3 / steps;
  const factor = Math.exp((perStep * window) / 16);
  const draw = (step: number) => Math.exp(perStep * step) * Math.log(1 - random());
  const { share, rows } = keptShare(new ThresholdTracker({ keep, window }), steps, draw);
  // An exponential weight whose threshold is that of the oldest scale in the window.
  const least = 1 - (1 - keep) ** (1 / factor);
  t.ok(share > least - spread(keep, rows), `${share} against ${least}`);
  t.ok(share < keep + spread(keep, rows));
  const never = new ThresholdTracker({ keep, window: 1e6 });
  t.ok(keptShare(never, steps, draw).share < least - spread(keep, rows), 'a window that never moves on does not');
});

t.test('rows without a density ratio count as removed, other non-finite ones not at all', async (t) => {
  const tracker = new ThresholdTracker({ keep: 0.5, warmup: 1, window: 16 });
  const observe = (values: number[]) => tracker.observe(new Float64Array(values.length), rowsOf(values));
  const threshold = () => tracker.threshold([0])[0];
  observe([NaN, Infinity, NaN]);
  t.equal(threshold(), 0, 'still warming up');
  observe([-1, -Infinity, -3, -Infinity, -2]);
  // Of -∞, -∞, -3, -2, -1 half is kept by the third of six places.
  t.equal(threshold(), Math.exp(-3));
  observe([-Infinity, -Infinity, -Infinity, NaN]);
  t.equal(threshold(), Number.MIN_VALUE, 'more have none than may be removed: all others are kept');
  t.ok(Math.log(threshold()) > -Infinity, 'and those are not');
  observe(Array(16).fill(-1e6));
  t.equal(threshold(), Number.MIN_VALUE, 'a weight below the least threshold');
  observe(Array(16).fill(2));
  t.equal(threshold(), 1, 'a threshold is at most 1');
  tracker.observe([0], { logWeightChosen: Float64Array.of(1), logWeightRejected: Float64Array.of(NaN) });
  t.equal(tracker.state().values[0].length, 16);
  const pair = new ThresholdTracker({ keep: 0.5, warmup: 1 });
  pair.observe([0], { logWeightChosen: Float64Array.of(-1), logWeightRejected: Float64Array.of(-4) });
  t.equal(pair.threshold([0])[0], Math.exp(-4), 'the lesser of both weights decides');
});

t.test('a state goes on as if nothing had happened', async (t) => {
  const options = { keep: 0.75, edges: [10, 20], window: 40, warmup: 8, initial: 0.25 };
  const random = createRandom(4);
  const batches = Array.from({ length: 30 }, () => {
    const timesteps = Array.from({ length: 5 }, () => Math.floor(30 * random()));
    return { timesteps, values: timesteps.map(() => (random() < 0.1 ? -Infinity : Math.log(random()))) };
  });
  const whole = new ThresholdTracker(options);
  for (const { timesteps, values } of batches) whole.observe(timesteps, rowsOf(values));
  for (const stop of [0, 3, 17, 30]) {
    const first = new ThresholdTracker(options);
    for (const { timesteps, values } of batches.slice(0, stop)) first.observe(timesteps, rowsOf(values));
    const second = new ThresholdTracker(options);
    second.threshold([5]);
    second.load(JSON.parse(JSON.stringify(first.state())));
    t.same(second.threshold([5, 15, 25]), first.threshold([5, 15, 25]));
    for (const { timesteps, values } of batches.slice(stop)) second.observe(timesteps, rowsOf(values));
    t.same(second.state(), whole.state());
    t.same(second.threshold([0, 9, 10, 19, 20, 29]), whole.threshold([0, 9, 10, 19, 20, 29]));
  }
  const state = whole.state();
  for (const [name, value] of Object.entries({ keep: 0.5, edges: [10], window: 41, warmup: 9, initial: 0.5 })) {
    const other = new ThresholdTracker({ ...options, [name]: value });
    t.throws(() => other.load(state), { message: new RegExp(`state.${name}`) });
  }
  t.throws(() => whole.load({ ...state, values: [[]] }), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(() => whole.load({ ...state, values: [['x'], [], []] as never }), /state.values\[0\]/);
  t.throws(() => whole.load({ ...state, values: [Array(41).fill(0), [], []] }), /state.values\[0\]/);
  t.throws(() => whole.load({ ...state, more: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.same(whole.state(), state, 'a state that was refused changes nothing');
});

t.test('bins and wrong arguments', async (t) => {
  t.same(timestepEdges({ trainSteps: 1000 }, 1), []);
  t.same(
    [-1, 0, 249, 250, 999, 2000].map((timestep) => binOf([250, 500], timestep)),
    [0, 0, 0, 1, 2, 2],
  );
  t.throws(() => timestepEdges({ trainSteps: 1000 }, 0), /bins/);
  const wrong = (change: object) => () => new ThresholdTracker({ keep: 0.5, ...change });
  t.throws(wrong({ keep: 1 }), /options.keep/);
  t.throws(wrong({ keep: 0 }), /options.keep/);
  t.throws(wrong({ edges: [2, 1] }), /options.edges\[1\] to be above 2/);
  t.throws(wrong({ edges: 4 }), /options.edges/);
  t.throws(wrong({ window: 0 }), /options.window/);
  t.throws(wrong({ window: 8, warmup: 9 }), /options.warmup/);
  t.throws(wrong({ initial: 2 }), /options.initial/);
  t.throws(wrong({ rate: 1 }), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  const tracker = new ThresholdTracker({ keep: 0.5, window: 8 });
  t.equal(tracker.warmup, 8);
  t.throws(() => tracker.observe([0, 1], rowsOf([1])), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(() => tracker.threshold('0' as never), /timesteps/);
});
