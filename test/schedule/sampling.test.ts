/** Training timesteps: ranges, distributions against their exact distribution functions, and wrong arguments. */

import fc from 'fast-check';
import t from 'tap';
import { NoiseSchedule } from '../../lib/schedule/schedule.js';

const table = NoiseSchedule.preset('sd15');
const flow = NoiseSchedule.preset('sd3');

/** A linear congruential generator modulo 2^48 (the constants of drand48). */
function seeded(seed: number): () => number {
  let state = (BigInt(seed) << 16n) + 0x330en;
  return () => {
    state = (state * 0x5deece66dn + 0xbn) & ((1n << 48n) - 1n);
    return Number(state) / 2 ** 48;
  };
}

/** Logistic-normal distribution function Φ((logit(u) - mean) / std), with Φ by numerical integration of its density. */
function logitNormalCdf(u: number, mean = 0, std = 1): number {
  if (u <= 0) return 0;
  if (u >= 1) return 1;
  const z = (Math.log(u / (1 - u)) - mean) / std;
  const end = Math.max(-9, Math.min(9, z));
  const count = 200; // midpoints 0.045 apart at most: their error is below 1e-4
  const width = end / count;
  let sum = 0;
  for (let i = 0; i < count; i++) sum += Math.exp(-0.5 * ((i + 0.5) * width) ** 2);
  return 0.5 + (sum * width) / Math.sqrt(2 * Math.PI);
}

const COUNT = 20_000;
/**
 * How far the distribution function of COUNT independent draws may be from the true one: by the inequality of Dvoretzky, Kiefer, Wolfowitz and
 * Massart it is farther with probability 2 exp(-2 n d²), here one in a billion.
 */
const DISTANCE = Math.sqrt(Math.log(2 / 1e-9) / (2 * COUNT));

/** Largest distance between the empirical distribution of `draws` and `cdf`, looked at on both sides of every jump. */
function distance(draws: Float64Array, cdf: (value: number) => number, before = cdf): number {
  const sorted = Float64Array.from(draws).sort();
  let worst = 0;
  for (let i = 0; i < sorted.length; ) {
    let j = i;
    while (j < sorted.length && sorted[j] === sorted[i]) j++;
    worst = Math.max(
      worst,
      Math.abs(j / sorted.length - cdf(sorted[i])),
      Math.abs(i / sorted.length - before(sorted[i])),
    );
    i = j;
  }
  return worst;
}

t.test('uniform timesteps of a table', async (t) => {
  const draws = table.sampleTimesteps(COUNT, { random: seeded(1) });
  t.ok(draws instanceof Float64Array && draws.length === COUNT);
  t.ok(draws.every((step) => Number.isInteger(step) && step >= 0 && step <= 999));
  const found = distance(
    draws,
    (step) => (step + 1) / 1000,
    (step) => step / 1000,
  );
  t.ok(found <= DISTANCE, `distance ${found} of ${DISTANCE}`);
  t.strictSame(table.sampleTimesteps(3, { random: () => 0 }), Float64Array.of(0, 0, 0));
  t.strictSame(table.sampleTimesteps(1, { random: () => 1 - 2 ** -53 }), Float64Array.of(999));
  t.strictSame(table.sampleTimesteps(0, { random: Math.random }), new Float64Array());
});

t.test('uniform timesteps of a flow: uniform before the shift', async (t) => {
  for (const schedule of [flow, NoiseSchedule.flow({ shift: 1 }), NoiseSchedule.flow({ shift: 5, trainSteps: 1 })]) {
    const { shift, trainSteps } = schedule;
    const unshift = (step: number): number => step / trainSteps / (shift - (shift - 1) * (step / trainSteps));
    const draws = schedule.sampleTimesteps(COUNT, { random: seeded(2) });
    t.ok(draws.every((step) => step > 0 && step <= trainSteps));
    const found = distance(draws, unshift);
    t.ok(found <= DISTANCE, `shift ${shift}: distance ${found} of ${DISTANCE}`);
  }
  t.ok(flow.sampleTimesteps(1, { random: () => 0 })[0] > 0, '0 is no timestep');
});

t.test('a range holds both ends and nothing beyond', async (t) => {
  const draws = table.sampleTimesteps(1000, { range: [500, 504], random: seeded(3) });
  t.strictSame([...new Set(draws)].sort(), [500, 501, 502, 503, 504]);
  t.strictSame(table.sampleTimesteps(2, { range: [7, 7], random: seeded(4) }), Float64Array.of(7, 7));

  const part = flow.sampleTimesteps(COUNT, { range: [250, 750], random: seeded(5) });
  t.ok(part.every((step) => step >= 250 && step <= 750));
  // σ = 1/4 and 3/4 come from τ = 1/10 and 1/2 under a shift of 3.
  const unshift = (step: number): number => step / 1000 / (3 - 2 * (step / 1000));
  const found = distance(part, (step) => (unshift(step) - 0.1) / 0.4);
  t.ok(found <= DISTANCE, `distance ${found} of ${DISTANCE}`);
  t.strictSame(flow.sampleTimesteps(1, { range: [300.5, 300.5], random: seeded(6) }), Float64Array.of(300.5));

  const unit = fc.double({ min: 0, max: 1, maxExcluded: true, noNaN: true });
  const ends = fc.tuple(
    fc.double({ min: 1e-3, max: 1000, noNaN: true }),
    fc.double({ min: 1e-3, max: 1000, noNaN: true }),
  );
  const property = fc.property(
    unit,
    ends,
    fc.constantFrom('uniform' as const, 'logit-normal' as const),
    (u, pair, distribution) => {
      const [low, high] = [Math.min(...pair), Math.max(...pair)];
      const [step] = flow.sampleTimesteps(1, { distribution, range: [low, high], random: () => u });
      return step >= low && step <= high;
    },
  );
  t.doesNotThrow(() => fc.assert(property));
});

t.test('logit-normal timesteps', async (t) => {
  for (const [mean, std] of [
    [0, 1],
    [-0.5, 0.6],
    [1, 2],
  ]) {
    const options = { distribution: 'logit-normal' as const, mean, std };
    const steps = table.sampleTimesteps(COUNT, { ...options, random: seeded(7) });
    const onTable = distance(
      steps,
      (step) => logitNormalCdf((step + 1) / 1000, mean, std),
      (step) => logitNormalCdf(step / 1000, mean, std),
    );
    t.ok(onTable <= DISTANCE, `table, mean ${mean}, std ${std}: distance ${onTable} of ${DISTANCE}`);

    const draws = flow.sampleTimesteps(COUNT, { ...options, random: seeded(8) });
    const unshift = (step: number): number => step / 1000 / (3 - 2 * (step / 1000));
    const onFlow = distance(draws, (step) => logitNormalCdf(unshift(step), mean, std));
    t.ok(onFlow <= DISTANCE, `flow, mean ${mean}, std ${std}: distance ${onFlow} of ${DISTANCE}`);
  }
  const defaults = flow.sampleTimesteps(5, { distribution: 'logit-normal', random: seeded(9) });
  const explicit = flow.sampleTimesteps(5, { distribution: 'logit-normal', mean: 0, std: 1, random: seeded(9) });
  t.strictSame(defaults, explicit);
});

t.test('a range stretches the logit-normal distribution', async (t) => {
  const options = { distribution: 'logit-normal', range: [100, 599] } as const;
  const steps = table.sampleTimesteps(COUNT, { ...options, random: seeded(10) });
  const found = distance(
    steps,
    (step) => logitNormalCdf((step - 99) / 500),
    (step) => logitNormalCdf((step - 100) / 500),
  );
  t.ok(found <= DISTANCE, `distance ${found} of ${DISTANCE}`);
});

t.test('mode and cosmap timesteps', async (t) => {
  const unshift = (step: number): number => step / 1000 / (3 - 2 * (step / 1000));
  const cosmap = flow.sampleTimesteps(COUNT, { distribution: 'cosmap', random: seeded(13) });
  const away = distance(cosmap, (step) => (2 / Math.PI) * Math.atan2(unshift(step), 1 - unshift(step)));
  t.ok(away <= DISTANCE, `cosmap: distance ${away} of ${DISTANCE}`);
  // f(u) = 1 - u - s (cos²(π u / 2) - 1 + u) falls, so P(f <= x) = 1 - f⁻¹(x), here by bisection.
  for (const modeScale of [-1, 0, 0.8, 1.29, 1.75]) {
    const f = (u: number) => 1 - u - modeScale * (Math.cos((Math.PI / 2) * u) ** 2 - 1 + u);
    const cdf = (x: number) => {
      let [low, high] = [0, 1];
      for (let i = 0; i < 40; i++) {
        const middle = (low + high) / 2;
        if (f(middle) > x) low = middle;
        else high = middle;
      }
      return 1 - low;
    };
    const draws = flow.sampleTimesteps(COUNT, { distribution: 'mode', modeScale, random: seeded(14) });
    t.ok(draws.every((step) => step > 0 && step <= 1000));
    const found = distance(draws, (step) => cdf(unshift(step)));
    t.ok(found <= DISTANCE, `mode ${modeScale}: distance ${found} of ${DISTANCE}`);
  }
  t.strictSame(
    flow.sampleTimesteps(5, { distribution: 'mode', random: seeded(15) }),
    flow.sampleTimesteps(5, { distribution: 'mode', modeScale: 1.29, random: seeded(15) }),
  );
  const steps = table.sampleTimesteps(COUNT, { distribution: 'cosmap', random: seeded(16) });
  t.ok(steps.every((step) => Number.isInteger(step) && step >= 0 && step <= 999));
});

t.test('a fixed list, in turn or at random', async (t) => {
  const steps = [999, 749, 499, 249];
  const turn = (options: object, count = 6) =>
    table.sampleTimesteps(count, { steps, order: 'round-robin', ...options } as never);
  t.strictSame(turn({}), Float64Array.of(999, 749, 499, 249, 999, 749), 'which takes no random numbers');
  t.strictSame(turn({ first: 4_000_003 }), Float64Array.of(249, 999, 749, 499, 249, 999));
  const drawn = table.sampleTimesteps(COUNT, { steps, random: seeded(17) });
  for (const step of steps) {
    const share = drawn.filter((each) => each === step).length / COUNT;
    t.ok(Math.abs(share - 0.25) < 5 * Math.sqrt((0.25 * 0.75) / COUNT), `${step}: ${share}`);
  }
  t.strictSame(flow.sampleTimesteps(2, { steps: [1000, 933.3], order: 'round-robin' }), Float64Array.of(1000, 933.3));
  const ladder = NoiseSchedule.preset('sdxl-turbo', { inferenceSteps: 4 }).samplerLadder().timesteps;
  t.strictSame(
    turn({ steps: ladder.slice(0, 4) }, 4),
    ladder.slice(0, 4),
    'as the sampler of a few-step model takes them',
  );

  const wrong = (options: object) => () => table.sampleTimesteps(1, { random: seeded(18), ...options } as never);
  t.throws(wrong({ steps: [] }), { code: 'ERR_SDPO_INVALID_LENGTH', message: /options\.steps/ });
  t.throws(wrong({ steps: [5, 1000] }), {
    name: 'RangeError',
    message: /options\.steps\[1\] to be an integer between 0 and 999/,
  });
  t.throws(wrong({ steps: ['5'] }), { name: 'TypeError', message: /options\.steps\[0\]/ });
  t.throws(wrong({ steps, order: 'sorted' }), { name: 'RangeError', message: /options\.order/ });
  t.throws(wrong({ steps, first: 1 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.first .*'random'/ });
  t.throws(wrong({ steps, order: 'round-robin', first: -1 }), { name: 'RangeError', message: /options\.first/ });
  t.throws(wrong({ steps, random: undefined }), { name: 'TypeError', message: /options\.random/ });
  for (const other of [{ distribution: 'mode' }, { range: [0, 5] }, { mean: 0 }, { modeScale: 1 }]) {
    t.throws(wrong({ steps, ...other }), { code: 'ERR_SDPO_INVALID_OPTION', message: /absent with options\.steps/ });
  }
  t.throws(wrong({ order: 'random' }), {
    code: 'ERR_SDPO_INVALID_OPTION',
    message: /options\.order .*without options\.steps/,
  });
  t.throws(wrong({ modeScale: 1 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.modeScale .*'uniform'/ });
  t.throws(wrong({ distribution: 'mode', modeScale: 2 }), { name: 'RangeError', message: /options\.modeScale/ });
  t.throws(wrong({ distribution: 'cosmap', std: 1 }), {
    code: 'ERR_SDPO_INVALID_OPTION',
    message: /options\.std .*'cosmap'/,
  });
});

t.test('draws so wide that the logistic function saturates stay timesteps', async (t) => {
  for (const mean of [-2000, 2000]) {
    const options = { distribution: 'logit-normal' as const, mean, random: seeded(11) };
    const [step] = flow.sampleTimesteps(1, options);
    t.ok(mean < 0 ? step > 0 && step < 1e-9 : step === 1000);
    t.equal(table.sampleTimesteps(1, options)[0], mean < 0 ? 0 : 999);
  }
});

t.test('wrong arguments', async (t) => {
  const random = seeded(12);
  const draw =
    (options: object, count: unknown = 1, schedule = table) =>
    () =>
      schedule.sampleTimesteps(count as number, { random, ...options } as never);
  const range = { name: 'RangeError', code: 'ERR_SDPO_INVALID_ARG_VALUE' };
  t.throws(draw({}, -1), { ...range, message: /count/ });
  t.throws(draw({}, 1.5), { ...range, message: /count/ });
  t.throws(draw({}, '3'), { name: 'TypeError', message: /count/ });
  t.throws(draw({ random: undefined }), { name: 'TypeError', message: /options\.random/ });
  t.throws(() => table.sampleTimesteps(1, undefined as never), { name: 'TypeError', message: /options/ });
  t.throws(draw({ random: () => 1 }), { ...range, message: /result of options\.random\(\)/ });
  t.throws(draw({ random: () => Number.NaN, distribution: 'logit-normal' }), range);
  t.throws(draw({ random: () => '0.5' }), { name: 'TypeError', message: /result of options\.random\(\)/ });
  t.throws(draw({ distribution: 'normal' }), { ...range, message: /options\.distribution/ });
  t.throws(draw({ mean: 0 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.mean .*uniform/ });
  t.throws(draw({ std: 1 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.std/ });
  t.throws(draw({ distribution: 'logit-normal', std: 0 }), { ...range, message: /options\.std/ });
  t.throws(draw({ distribution: 'logit-normal', mean: Infinity }), { ...range, message: /options\.mean/ });
  t.throws(draw({ seed: 1 }), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(draw({ range: 5 }), { name: 'TypeError', message: /options\.range/ });
  t.throws(draw({ range: [1] }), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(draw({ range: [0, '9'] }), { name: 'TypeError', message: /options\.range\[1\]/ });
  for (const wrong of [
    [-1, 5],
    [0, 1000],
    [5, 4],
    [0.5, 3],
    [0, 3.5],
  ]) {
    t.throws(draw({ range: wrong }), { ...range, message: /options\.range .*0 <= low <= high <= 999/ });
  }
  for (const wrong of [
    [-1, 5],
    [0, 1000.5],
    [5, 4],
    [0, 0],
  ]) {
    t.throws(draw({ range: wrong }, 1, flow), { ...range, message: /options\.range/ });
  }
});
