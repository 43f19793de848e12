/** Ladders of samplers: options, what a step from any timestep does, the noise of transitions, and inverted flows. */

import { readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { PRESETS } from '../../lib/schedule/presets.js';
import { NoiseSchedule, type PresetName } from '../../lib/schedule/schedule.js';

const { published } = JSON.parse(readFileSync(new URL('./diffusers.json', import.meta.url), 'utf8'));

/** Options that every preset can be made with. */
const sized = (name: PresetName) => ('pixelsPerToken' in PRESETS[name] ? { width: 1024, height: 1024 } : {});

t.test('few steps of SD3 in its own pipeline: the ladder of the class', async (t) => {
  // n - 1 equal steps from 1 to the shifted 1/1000, shifted once more, and one to 0.
  const moved = (x: number) => (3 * x) / (1 + 2 * x);
  const snr = (s: number) => ((1 - s) / s) ** 2;
  for (const n of [4, 8, 28]) {
    const ladder = Array.from({ length: n }, (_, i) => moved(1 + (i * (moved(0.001) - 1)) / (n - 1)));
    for (const schedule of [
      NoiseSchedule.preset('sd35', { inferenceSteps: n }),
      NoiseSchedule.preset('sd3', { inferenceSteps: n }),
    ]) {
      ladder.slice(1).forEach((next, i) => {
        const { previous, omega } = schedule.transition(ladder[i] * 1000);
        const expected = 0.5 * (snr(next) - snr(ladder[i])) * ladder[i] ** 2;
        t.ok(
          Math.abs(omega - expected) <= 1e-9 * expected && Math.abs(previous - next * 1000) <= 1e-9 * 1000,
          `${n}: ${i}`,
        );
      });
      t.equal(schedule.transition(ladder[n - 1] * 1000).omega, Infinity);
    }
  }
  t.equal(NoiseSchedule.preset('sd3', { ladder: 'uniform' }).ladder, 'uniform');
});

t.test('the default ladder of each class', async (t) => {
  t.equal(NoiseSchedule.fromDiffusers({ _class_name: 'FlowMatchEulerDiscreteScheduler' }).ladder, 'uniform');
  t.equal(NoiseSchedule.fromDiffusers({ _class_name: 'FlowMatchHeunDiscreteScheduler' }).ladder, 'scheduler');
  t.equal(NoiseSchedule.preset('wan2.1-1.3b').ladder, 'scheduler');
  t.equal(NoiseSchedule.preset('mochi').ladder, 'linear-quadratic');
  t.equal(NoiseSchedule.flow().ladder, 'uniform');
  t.equal(NoiseSchedule.variancePreserving({ alphasCumprod: [0.5], predictionType: 'epsilon' }).ladder, 'uniform');
  // Where the class's own step is one of T/n timesteps, both are the same.
  for (const name of ['DDIMScheduler', 'DDPMScheduler', 'PNDMScheduler', 'CogVideoXDPMScheduler']) {
    const make = (ladder: 'scheduler' | 'uniform') =>
      NoiseSchedule.fromDiffusers({ _class_name: name }, { ladder, inferenceSteps: 20 });
    const steps = Array.from({ length: 1000 }, (_, i) => i);
    t.strictSame(make('scheduler').omegas(steps), make('uniform').omegas(steps), name);
  }
});

t.test('steps from every timestep go down, and the visited ones go to the next', async (t) => {
  const schedules = [
    ...NoiseSchedule.presets
      .flatMap((name) =>
        [2, 7, 50].map((inferenceSteps) => NoiseSchedule.preset(name, { inferenceSteps, ...sized(name) })),
      )
      .filter((each) => each.family === 'flow' || each.inferenceSteps <= each.trainSteps),
    ...['use_karras_sigmas', 'use_exponential_sigmas', 'use_beta_sigmas'].flatMap((field) => [
      NoiseSchedule.fromDiffusers({ _class_name: 'EulerDiscreteScheduler', [field]: true }, { inferenceSteps: 12 }),
      NoiseSchedule.fromDiffusers({ ...published.sd3, [field]: true }, { inferenceSteps: 12, ladder: 'scheduler' }),
    ]),
  ];
  for (const schedule of schedules) {
    const { timesteps, signal, sigma } = schedule.samplerLadder();
    t.equal(timesteps.length, sigma.length);
    for (let i = 0; i + 1 < sigma.length; i++) {
      t.ok(
        sigma[i] / signal[i] > sigma[i + 1] / signal[i + 1] || sigma[i + 1] === sigma[i],
        `${schedule}: level ${i} of the ladder`,
      );
    }
    // Monotone: a noisier timestep does not end cleaner, and none goes up.
    const flow = schedule.family === 'flow';
    const sign = schedule.inverted ? -1 : 1;
    const all = Array.from({ length: 999 }, (_, i) => (flow ? (schedule.trainSteps * (i + 1)) / 1000 : i));
    let before = -Infinity;
    let wrong = 0;
    for (const step of schedule.inverted ? all.reverse() : all) {
      const { previous, omega } = schedule.transition(step);
      if (!(omega >= 0)) wrong++;
      if (sign * previous > sign * step + 1e-9) wrong++;
      if (sign * previous < before - 1e-6) wrong++;
      before = sign * previous;
    }
    t.equal(wrong, 0, String(schedule));
  }
});

t.test('a step between two visited timesteps lies between theirs', async (t) => {
  const ladder = [1000, 930, 610, 240, 55];
  const schedule = NoiseSchedule.flow({ ladder });
  t.match(schedule, { inferenceSteps: 5, ladder });
  ladder.slice(1).forEach((next, i) => {
    t.ok(Math.abs(schedule.transition(ladder[i]).previous - next) < 1e-9);
  });
  t.equal(schedule.transition(55).previous, 0);
  t.equal(schedule.transition(20).omega, Infinity);
  t.ok(
    Math.abs(schedule.transition(770).previous - 425) < 1e-9,
    'half-way between 930 and 610: half-way between 610 and 240',
  );
  t.ok(Math.abs(schedule.transition(147.5).previous - 27.5) < 1e-9, 'and to clean data behind the last');
  const unit = fc.double({ min: 0.056, max: 1, noNaN: true });
  t.doesNotThrow(() =>
    fc.assert(
      fc.property(unit, unit, (a, b) => {
        const [low, high] = [Math.min(a, b) * 1000, Math.max(a, b) * 1000];
        return schedule.transition(low).previous <= schedule.transition(high).previous + 1e-9;
      }),
    ),
  );

  const table = NoiseSchedule.preset('sdxl', { ladder: [999, 749, 499, 249] });
  const turbo = NoiseSchedule.preset('sdxl-turbo', { inferenceSteps: 4 });
  for (const step of [999, 749, 499, 249]) t.strictSame(table.transition(step), turbo.transition(step));
  t.equal(table.transition(874).previous, 624);
  const uneven = NoiseSchedule.preset('sdxl', { ladder: [900, 500, 300, 200] });
  t.equal(uneven.transition(700).previous, 400, 'half-way to 500: half-way from there to 300');
  t.equal(uneven.transition(250).previous, 150);
  // Timesteps that are no integers have levels between those of the table, as Euler interpolates them.
  const between = NoiseSchedule.preset('sdxl', { ladder: [999, 500.5] });
  const ratio = (step: number) => table.sigma(step) / table.signal(step);
  const { signal, sigma, timesteps } = between.samplerLadder();
  t.strictSame([...timesteps], [999, 500.5, -1]);
  t.ok(Math.abs(sigma[1] / signal[1] - (ratio(500) + ratio(501)) / 2) < 1e-12);
});

t.test('ladders that are none', async (t) => {
  const preset = (name: PresetName, options: object) => () => NoiseSchedule.preset(name, options as never);
  const range = { name: 'RangeError' };
  t.throws(preset('sdxl', { ladder: 'linear-quadratic' }), {
    ...range,
    message: /options\.ladder .*'scheduler', 'uniform'/,
  });
  t.throws(preset('sdxl', { ladder: [999, 999] }), {
    ...range,
    message: /options\.ladder\[1\] .*below 999, the one before/,
  });
  t.throws(preset('sdxl', { ladder: [1000] }), {
    ...range,
    message: /options\.ladder\[0\] to be a number in \[0, 999\]/,
  });
  t.throws(preset('sd3', { ladder: [0] }), { ...range, message: /options\.ladder\[0\] to be a number in \(0, 1000\]/ });
  t.throws(preset('mochi', { ladder: [100, 50] }), { ...range, message: /options\.ladder\[1\] .*above 100/ });
  t.throws(preset('sd3', { ladder: [] }), { code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(preset('sd3', { ladder: ['a'] }), { name: 'TypeError', message: /options\.ladder\[0\]/ });
  t.throws(preset('sd3', { ladder: [500], inferenceSteps: 2 }), {
    ...range,
    message: /the length of options\.ladder \(1\)/,
  });
  t.throws(() => NoiseSchedule.flow({ ladder: 'scheduler' }), { ...range, message: /options\.ladder/ });
  t.throws(preset('qwen-image', { mu: 1, inferenceSteps: 1 }), {
    ...range,
    message: /at least 2 with config\.shift_terminal/,
  });
  const single = { _class_name: 'FlowMatchEulerDiscreteScheduler', num_train_timesteps: 1 };
  t.throws(() => NoiseSchedule.fromDiffusers(single, { ladder: 'scheduler' }), { ...range, message: /one level/ });
  const consistency = { _class_name: 'LCMScheduler' };
  t.throws(() => NoiseSchedule.fromDiffusers(consistency, { inferenceSteps: 51 }), {
    ...range,
    message: /between 1 and 50/,
  });
  t.equal(NoiseSchedule.fromDiffusers(consistency, { inferenceSteps: 51, ladder: 'uniform' }).inferenceSteps, 51);
});

t.test('the noise of transitions', async (t) => {
  const make = (options: object) => NoiseSchedule.preset('sdxl', { predictionType: 'sample', ...options } as never);
  const [posterior, fresh, forward] = [make({}), make({ variance: 'fresh' }), make({ variance: 'forward' })];
  for (const step of [100, 500, 999]) {
    const snr = (at: number) => (posterior.signal(at) / posterior.sigma(at)) ** 2;
    const p = step - 20;
    t.ok(
      Math.abs(fresh.transition(step).omega / (snr(p) / 2) - 1) < 1e-12,
      'fresh noise has the variance of the level',
    );
    const ratio = (posterior.sigma(p) / posterior.sigma(step)) ** 2;
    t.ok(Math.abs(forward.transition(step).omega / (posterior.transition(step).omega * ratio) - 1) < 1e-9);
  }
  t.equal(fresh.transition(19).omega, Infinity, 'clean data has no noise to draw');
  t.throws(() => make({ variance: 'fresh', eta: 0.5 }), {
    code: 'ERR_SDPO_INVALID_OPTION',
    message: /options\.eta .*1 or absent with variance 'fresh'/,
  });
  t.throws(() => make({ variance: 'other' }), { name: 'RangeError', message: /options\.variance/ });
  t.equal(NoiseSchedule.fromDiffusers(published['llada-image']).variance, 'fresh');
  t.equal(NoiseSchedule.fromDiffusers({ _class_name: 'LCMScheduler' }).variance, 'fresh');
  const large = NoiseSchedule.fromDiffusers({ _class_name: 'DDPMScheduler', variance_type: 'fixed_large' });
  t.equal(large.variance, 'forward');
  t.match(String(large), /variance forward\)$/);
});

t.test('inverted flows: 0 is noise, T is data, and the velocity points to it', async (t) => {
  const mochi = NoiseSchedule.fromDiffusers(published.mochi);
  t.match(mochi, { inverted: true, family: 'flow', predictionType: 'flow_prediction' });
  t.equal(mochi.sigma(100), 0.9);
  t.equal(mochi.signal(100), 0.1);
  t.equal(mochi.sigma(0), 1, 'noise is a timestep');
  const [x0, noise] = [Float64Array.of(1, 1), Float64Array.of(3, 3)];
  t.strictSame(mochi.addNoise(x0, noise, [0, 750]), Float64Array.of(3, 1.5));
  t.strictSame(mochi.target(x0, noise, [0, 750]), Float64Array.of(-2, -2));
  for (const type of ['sample', 'epsilon'] as const) {
    const other = NoiseSchedule.fromDiffusers(published.mochi, { predictionType: type });
    t.strictSame(other.target(x0, noise, [0, 750]), type === 'sample' ? x0 : noise);
  }
  for (const wrong of [1000, -1])
    t.throws(() => mochi.omegas([wrong]), { message: /a number in \[0, 1000\), received/ });
  // The same transitions as those of the flow that runs the other way.
  const flow = NoiseSchedule.flow({ inferenceSteps: 50 });
  for (const step of [1, 250, 740, 980]) {
    const [here, there] = [mochi.transition(step), flow.transition(1000 - step)];
    t.ok(Math.abs(here.previous + there.previous - 1000) < 1e-9);
    t.ok(here.omega === there.omega || Math.abs(here.omega / there.omega - 1) < 1e-9);
  }
  t.equal(mochi.transition(985).previous, 1000, 'clean data');
  let seed = 0;
  const random = () => (seed = (seed + 0.618033988749895) % 1);
  const draws = mochi.sampleTimesteps(1000, { random });
  t.ok(draws.every((step) => step >= 0 && step < 1000));
  t.ok(mochi.sampleTimesteps(1, { random: () => 0 })[0] < 1000, 'clean data is no timestep');
  t.ok(mochi.sampleTimesteps(1000, { random, range: [100, 300] }).every((step) => step >= 100 && step <= 300));
  t.throws(() => mochi.sampleTimesteps(1, { random, range: [1000, 1000] }), { message: /0 <= low < 1000/ });
  const shifted = NoiseSchedule.fromDiffusers({ ...published.mochi, shift: 4 });
  const median = shifted.sampleTimesteps(4001, { random }).sort()[2000];
  t.ok(Math.abs(median - 200) < 5, 'drawn in the unshifted time: half-way is σ = 0.8');
  t.strictSame(NoiseSchedule.fromJSON(JSON.parse(JSON.stringify(shifted))).toJSON(), shifted.toJSON());
});

t.test('records keep ladder and variance, and old ones have the defaults', async (t) => {
  const schedules = [
    NoiseSchedule.preset('sdxl', { ladder: [999, 749.5], variance: 'fresh' }),
    NoiseSchedule.preset('sd3', { ladder: 'scheduler', inferenceSteps: 4, eta: 0.5 }),
    NoiseSchedule.flow({ ladder: 'linear-quadratic', variance: 'forward' }),
    NoiseSchedule.variancePreserving({ alphasCumprod: [0.9, 0.5, 0.1], predictionType: 'sample', ladder: [2, 0] }),
  ];
  for (const schedule of schedules) {
    const again = NoiseSchedule.fromJSON(JSON.parse(JSON.stringify(schedule)));
    t.strictSame(again.toJSON(), schedule.toJSON());
    t.strictSame(again.samplerLadder(), schedule.samplerLadder());
    t.strictSame(again.omegas([1, 2]), schedule.omegas([1, 2]));
  }
  const { ladder: _, variance: __, ...old } = NoiseSchedule.preset('sd15').toJSON();
  t.strictSame(NoiseSchedule.fromJSON(old as never).toJSON(), NoiseSchedule.preset('sd15').toJSON());
});
