/** Noise schedules against the golden cases, published constants and the identities that define them. */

import { readdirSync, readFileSync } from 'node:fs';
import fc from 'fast-check';
import t from 'tap';
import { NoiseSchedule, type PredictionType, type PresetName } from '../../lib/schedule/schedule.js';
import { Tensor } from '../../lib/tensor/tensor.js';

/** Tolerance of the golden cases, which were computed by another program. */
const GOLDEN = 1e-9;

interface GoldenBranch {
  x0: number[];
  noise: number[];
  target: number[];
}

interface GoldenFile {
  schedule: Record<string, unknown>;
  predictionType: PredictionType;
  inferenceSteps: number;
  shape: number[];
  timesteps: number[];
  options: { eta?: number; weightSharpness?: number; weightRatio?: string; logRatioReduction?: string };
  chosen: GoldenBranch;
  rejected: GoldenBranch;
  expected: { rows: Record<string, number[]> };
}

const folder = new URL('../golden/', import.meta.url);
const golden = readdirSync(folder)
  .filter((name) => name.endsWith('.json'))
  .map((name): [string, GoldenFile] => {
    const text = readFileSync(new URL(name, folder), 'utf8');
    return [
      name,
      JSON.parse(text, (_, value) =>
        typeof value === 'string' && /^-?Infinity$|^NaN$/.test(value) ? Number(value) : value,
      ),
    ];
  });

t.test('golden cases: targets and weights', async (t) => {
  t.ok(golden.length >= 30);
  let finite = 0;
  let infinite = 0;
  for (const [name, file] of golden) {
    const { inferenceSteps, predictionType, timesteps, options, expected } = file;
    const schedule = NoiseSchedule.fromDiffusers(file.schedule, { inferenceSteps, predictionType, eta: options.eta });
    for (const { x0, noise, target } of [file.chosen, file.rejected]) {
      const computed = schedule.target(Float64Array.from(x0), Float64Array.from(noise), timesteps);
      t.ok(
        computed.every((value, i) => Math.abs(value - target[i]) <= GOLDEN * (1 + Math.abs(target[i]))),
        `${name}: target`,
      );
    }
    // λ = -κ ω times the mean (or sum) that weightRatio asks for, solved for ω.
    const size = options.logRatioReduction === 'sum' ? file.shape.reduce((a, b) => a * b, 1) : 1;
    const sharpness = options.weightSharpness ?? 1;
    const omegas = schedule.omegas(timesteps);
    for (const branch of ['Chosen', 'Rejected']) {
      timesteps.forEach((step, row) => {
        const { [`error${branch}`]: m, [`referenceError${branch}`]: r, [`logWeight${branch}`]: lambda } = expected.rows;
        const ratio = options.weightRatio ?? 'policy/data';
        const moment = ratio === 'policy/data' ? m[row] : ratio === 'reference/data' ? r[row] : m[row] - r[row];
        if (lambda[row] === -Infinity) {
          infinite++;
          t.equal(omegas[row], Infinity, `${name}: t = ${step} has no density`);
        } else if (moment !== 0) {
          finite++;
          const omega = -lambda[row] / (sharpness * size * moment);
          t.ok(Math.abs(omegas[row] - omega) <= GOLDEN * omega, `${name}: omega at t = ${step}`);
        }
      });
    }
  }
  t.ok(finite > 100 && infinite >= 4, `${finite} finite weights and ${infinite} infinite ones were compared`);
});

t.test('presets have the published constants', async (t) => {
  const endpoints: [PresetName, [timestep: number, alpha: string][]][] = [
    [
      'sd15',
      [
        [0, '0.99915'],
        [500, '0.2763'],
        [999, '0.00466'],
      ],
    ],
    [
      'sdxl',
      [
        [0, '0.99915'],
        [500, '0.2763'],
        [999, '0.00466'],
      ],
    ],
    [
      'cogvideox-2b',
      [
        [0, '0.99745'],
        [500, '0.0953'],
        [998, '6.2e-8'],
        [999, '0'],
      ],
    ],
    [
      'cogvideox-5b',
      [
        [0, '0.99915'],
        [500, '0.2410'],
        [998, '2.0e-7'],
        [999, '0'],
      ],
    ],
  ];
  for (const [name, values] of endpoints) {
    const schedule = NoiseSchedule.preset(name);
    t.match(schedule, { family: 'variance-preserving', trainSteps: 1000, inferenceSteps: 50, eta: 1, shift: 1 });
    t.equal(schedule.predictionType, name.startsWith('sd') ? 'epsilon' : 'v_prediction');
    for (const [step, printed] of values) {
      // Published with a few digits: agreement within half a unit of the last one.
      const digits = (printed.split('e')[0].split('.')[1] ?? '').length;
      const unit = 10 ** (Number(printed.split('e')[1] ?? 0) - digits);
      t.ok(Math.abs(schedule.signal(step) ** 2 - Number(printed)) <= unit / 2, `${name}: alpha_bar at ${step}`);
    }
  }
  const shifts: [PresetName, number][] = [
    ['wan2.1-1.3b', 3],
    ['wan2.1-14b-720p', 5],
    ['sd3', 3],
    ['flux-schnell', 1],
  ];
  for (const [name, shift] of shifts) {
    const schedule = NoiseSchedule.preset(name);
    t.match(schedule, { family: 'flow', trainSteps: 1000, inferenceSteps: 50, eta: 1, shift });
    t.equal(schedule.predictionType, 'flow_prediction');
    t.equal(schedule.signal(250), 0.75);
    t.equal(schedule.sigma(250), 0.25);
  }
});

t.test('options of a preset', async (t) => {
  const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: 20, eta: 0.5, predictionType: 'v_prediction' });
  t.match(schedule, { inferenceSteps: 20, eta: 0.5, predictionType: 'v_prediction' });
  t.equal(schedule.transition(999).previous, 949);
});

t.test('last transitions', async (t) => {
  // PNDM with set_alpha_to_one: false goes from the first timestep to itself: nothing happens, and nothing is weighed.
  const held = NoiseSchedule.preset('sd15');
  t.strictSame(held.transition(0), { previous: -20, omega: 0 });
  t.ok(held.transition(19).omega > 0 && held.transition(19).omega < Infinity);
  // Samplers that end on clean data have no density there.
  const clean = NoiseSchedule.preset('sdxl');
  t.strictSame(clean.transition(0), { previous: -20, omega: Infinity });
  t.strictSame(clean.transition(19), { previous: -1, omega: Infinity });
  t.ok(clean.transition(20).omega < Infinity);
  const flow = NoiseSchedule.preset('flux-schnell', { inferenceSteps: 4 });
  t.strictSame(flow.transition(250), { previous: 0, omega: Infinity });
  t.strictSame(flow.transition(1), { previous: 0, omega: Infinity });
  t.ok(flow.transition(251).omega < Infinity);
  // An unshifted time below 1e-9 is the rounding of a clean end, one above it is a step.
  t.strictSame(flow.transition(250 + 0.9e-6), { previous: 0, omega: Infinity });
  t.ok(flow.transition(250 + 1.1e-6).previous > 0 && flow.transition(250 + 1.1e-6).omega < Infinity);
  // 49 steps of 1/49 end on 0 though they are taken through the shift and back.
  const shifted = NoiseSchedule.preset('sd3', { inferenceSteps: 49 });
  let step = 1000;
  for (let i = 0; i < 49; i++) {
    t.ok(step > 0);
    step = shifted.transition(step).previous;
  }
  t.equal(step, 0);
});

t.test('zero terminal SNR', async (t) => {
  const config = { _class_name: 'DDIMScheduler', rescale_betas_zero_snr: true };
  const omega = (predictionType: PredictionType, eta: number) =>
    NoiseSchedule.fromDiffusers(config, { predictionType, eta }).transition(999).omega;
  t.equal(omega('epsilon', 1), Infinity, 'noise says nothing about x_0');
  const schedule = NoiseSchedule.fromDiffusers(config, { predictionType: 'v_prediction' });
  const snr = (schedule.signal(979) / schedule.sigma(979)) ** 2;
  // ρ = 0: the transition is a fresh draw from the marginal, so ω = SNR_p / (2η²).
  for (const predictionType of ['v_prediction', 'sample'] as const) {
    for (const eta of [1, 0.5]) {
      const expected = snr / (2 * eta * eta);
      t.ok(
        Math.abs(omega(predictionType, eta) - expected) <= 8 * Number.EPSILON * expected,
        `${predictionType}, eta ${eta}`,
      );
    }
  }
});

t.test('a weight is half the gain in signal-to-noise ratio for eta = 1', async (t) => {
  for (const name of ['sdxl', 'cogvideox-2b', 'sd3'] as const) {
    const type = name === 'sdxl' ? 'sample' : undefined;
    const schedule = NoiseSchedule.preset(name, { predictionType: type });
    const snr = (step: number): number => (schedule.signal(step) / schedule.sigma(step)) ** 2;
    for (const step of [100, 333, 500, 800, 990]) {
      const { previous, omega } = schedule.transition(step);
      const derivative = type === 'sample' ? 1 : schedule.sigma(step);
      const expected = 0.5 * (snr(previous) - snr(step)) * derivative ** 2;
      t.ok(Math.abs(omega - expected) <= GOLDEN * expected, `${name} at ${step}`);
    }
  }
});

t.test('prediction types describe the same x_0', async (t) => {
  // x̂_0 from the target of each type must be x_0 again, by the column of formulas in docs/schedules.md.
  const invert: Record<PredictionType, (xt: number, u: number, a: number, s: number) => number> = {
    epsilon: (xt, u, a, s) => (xt - s * u) / a,
    v_prediction: (xt, u, a, s) => a * xt - s * u,
    sample: (_, u) => u,
    flow_prediction: (xt, u, _, s) => xt - s * u,
  };
  const value = fc.double({ min: -8, max: 8, noNaN: true });
  const families: [NoiseSchedule, fc.Arbitrary<number>][] = [];
  for (const type of ['epsilon', 'v_prediction', 'sample'] as const) {
    families.push([NoiseSchedule.preset('cogvideox-2b', { predictionType: type }), fc.nat(900)]);
  }
  for (const type of ['flow_prediction', 'epsilon', 'sample'] as const) {
    families.push([
      NoiseSchedule.preset('sd3', { predictionType: type }),
      fc.double({ min: 1, max: 900, noNaN: true }),
    ]);
  }
  for (const [schedule, timestep] of families) {
    const property = fc.property(value, value, timestep, (x0, noise, step) => {
      const [a, s] = [schedule.signal(step), schedule.sigma(step)];
      const xt = schedule.addNoise(Float64Array.of(x0), Float64Array.of(noise), [step])[0];
      const u = schedule.target(Float64Array.of(x0), Float64Array.of(noise), [step])[0];
      const back = invert[schedule.predictionType](xt, u, a, s);
      // Terms of size at most |x0| + |noise|, divided by a for epsilon, and a handful of roundings; products of subnormal numbers lose all digits.
      const size = Math.abs(x0) + Math.abs(noise) + 2 ** -960;
      return Math.abs(back - x0) <= (16 * Number.EPSILON * size) / a;
    });
    t.doesNotThrow(() => fc.assert(property), String(schedule));
  }
});

t.test('addNoise and target take rows of any size and keep the kind', async (t) => {
  const schedule = NoiseSchedule.preset('sd3', { predictionType: 'flow_prediction' });
  const x0 = Float32Array.of(1, 2, 3, 4, 5, 6);
  const noise = Float32Array.of(0, 0, 0, 1, 1, 1);
  const noisy = schedule.addNoise(x0, noise, Float32Array.of(500, 250));
  t.strictSame(noisy, Float32Array.of(0.5, 1, 1.5, 3.25, 4, 4.75));
  t.strictSame(schedule.target(x0, noise, [500, 250]), Float32Array.of(-1, -2, -3, -3, -4, -5));
  const tensors = [x0, noise].map((data) => Tensor.from(data, { shape: [2, 3], dtype: 'bfloat16' }));
  const rounded = schedule.addNoise(tensors[0], tensors[1], [500, 250]);
  t.match(rounded, { shape: [2, 3], dtype: 'bfloat16' });
  t.strictSame([...rounded.toFloat64()], [0.5, 1, 1.5, 3.25, 4, 4.75]);
  t.strictSame([...schedule.target(tensors[0], tensors[1], [500, 250]).toFloat64()], [-1, -2, -3, -3, -4, -5]);
  t.throws(() => schedule.addNoise(x0, noise.subarray(2), [500, 250]), { name: 'RangeError', message: /noise/ });
  t.throws(() => schedule.target(x0, Float64Array.from(noise) as never, [500, 250]), {
    name: 'TypeError',
    message: /noise/,
  });
  t.throws(() => schedule.addNoise(x0, noise, [500, 0]), {
    code: 'ERR_SDPO_INVALID_ARG_VALUE',
    message: /timesteps\[1\]/,
  });
  t.throws(() => schedule.target(x0, noise, [500, 1001]), {
    message: /timesteps\[1\] to be a number in \(0, 1000\], received 1001/,
  });
  t.throws(() => schedule.addNoise(x0, noise, 500 as never), { name: 'TypeError', message: /timesteps/ });
});

t.test('omegas agrees with transition, and takes any list of numbers', async (t) => {
  for (const schedule of [NoiseSchedule.preset('sd15'), NoiseSchedule.preset('sd3', { eta: 0.3 })]) {
    const steps = [1, 20, 500, 998, 999];
    const expected = Float64Array.from(steps, (step) => schedule.transition(step).omega);
    t.strictSame(schedule.omegas(steps), expected);
    t.strictSame(schedule.omegas(Int32Array.from(steps)), expected);
    t.strictSame(schedule.omegas(Float32Array.from(steps)), expected);
    t.strictSame(schedule.omegas([]), new Float64Array());
  }
});

t.test('timesteps are validated', async (t) => {
  const table = NoiseSchedule.preset('sd15');
  const flow = NoiseSchedule.preset('sd3');
  for (const wrong of [-1, 1000, 0.5, Number.NaN, Infinity, 2 ** 40]) {
    const error = { name: 'RangeError', code: 'ERR_SDPO_INVALID_ARG_VALUE' };
    t.throws(() => table.omegas([0, 1, wrong]), {
      ...error,
      message: `Expected timesteps[2] to be an integer between 0 and 999, received ${wrong}`,
    });
    for (const method of ['signal', 'sigma', 'transition'] as const) {
      t.throws(() => table[method](wrong), { ...error, message: /Expected t to be an integer between 0 and 999/ });
    }
  }
  for (const wrong of [0, -1, 1000.001, Number.NaN, Infinity]) {
    const error = { name: 'RangeError', code: 'ERR_SDPO_INVALID_ARG_VALUE' };
    t.throws(() => flow.omegas([1, wrong]), {
      ...error,
      message: `Expected timesteps[1] to be a number in (0, 1000], received ${wrong}`,
    });
    for (const method of ['signal', 'sigma', 'transition'] as const) {
      t.throws(() => flow[method](wrong), { ...error, message: /Expected t to be a number in \(0, 1000\]/ });
    }
  }
  for (const schedule of [table, flow]) {
    t.throws(() => schedule.omegas(['5'] as never), { name: 'TypeError', message: /timesteps\[0\] .* received "5"/ });
    t.throws(() => schedule.omegas([5n] as never), { name: 'TypeError', code: 'ERR_SDPO_INVALID_ARG_TYPE' });
    t.throws(() => schedule.omegas('567' as never), { name: 'TypeError', message: /Expected timesteps to be/ });
    t.throws(() => schedule.omegas([0.25, -1], 'timesteps.chosen'), { message: /timesteps\.chosen\[/ });
    t.throws(() => schedule.signal('5' as never), { name: 'TypeError' });
  }
});

t.test('custom schedules', async (t) => {
  const alphasCumprod = [0.9, 0.5, 0.1, 0];
  const schedule = NoiseSchedule.variancePreserving({
    alphasCumprod,
    predictionType: 'v_prediction',
    inferenceSteps: 4,
  });
  t.match(schedule, { family: 'variance-preserving', trainSteps: 4, inferenceSteps: 4, eta: 1 });
  t.equal(schedule.signal(1), Math.SQRT1_2);
  t.equal(schedule.transition(0).omega, Infinity);
  const held = NoiseSchedule.variancePreserving({ alphasCumprod, predictionType: 'sample', finalAlphaCumprod: 0.95 });
  t.equal(held.inferenceSteps, 4, 'the default is no more than the number of timesteps');
  // SNR 0.95/0.05 = 19 against 0.9/0.1 = 9.
  t.ok(Math.abs(held.transition(0).omega - (19 - 9) / 2) <= 1e3 * Number.EPSILON);

  const flow = NoiseSchedule.flow({ trainSteps: 1, shift: 2 });
  t.match(flow, { family: 'flow', trainSteps: 1, shift: 2, inferenceSteps: 50, predictionType: 'flow_prediction' });
  t.equal(flow.sigma(0.25), 0.25);
  t.match(NoiseSchedule.flow(), { trainSteps: 1000, shift: 1 });

  const make = (options: object) => () =>
    NoiseSchedule.variancePreserving({ alphasCumprod, predictionType: 'epsilon', ...options });
  const range = { name: 'RangeError' };
  t.throws(make({ alphasCumprod: [0.5, 0.6] }), { ...range, message: /alphasCumprod\[1\]/ });
  t.throws(make({ alphasCumprod: [1.1] }), { ...range, message: /alphasCumprod\[0\]/ });
  t.throws(make({ alphasCumprod: [] }), { ...range, code: 'ERR_SDPO_INVALID_LENGTH' });
  t.throws(make({ alphasCumprod: undefined }), { name: 'TypeError', message: /alphasCumprod/ });
  t.throws(make({ finalAlphaCumprod: 0.8 }), { ...range, message: /finalAlphaCumprod/ });
  t.throws(make({ predictionType: 'flow_prediction' }), { ...range, message: /predictionType/ });
  t.throws(make({ inferenceSteps: 5 }), { ...range, message: /inferenceSteps to be an integer between 1 and 4/ });
  t.throws(make({ betas: [] }), { name: 'TypeError', code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => NoiseSchedule.flow({ shift: 0 }), { ...range, message: /options\.shift/ });
  t.throws(() => NoiseSchedule.flow({ trainSteps: 0.5 }), { ...range, message: /options\.trainSteps/ });
  t.throws(() => NoiseSchedule.flow({ predictionType: 'v_prediction' }), { ...range, message: /predictionType/ });
});

t.test('a table whose first entry has no noise', async (t) => {
  const schedule = NoiseSchedule.variancePreserving({
    alphasCumprod: [1, 1, 0.5, 0, 0],
    predictionType: 'v_prediction',
    inferenceSteps: 5,
  });
  t.strictSame(schedule.omegas([0, 1, 2, 4]), Float64Array.of(Infinity, Infinity, Infinity, 0));
  t.equal(schedule.transition(3).omega, 0.5, 'SNR 1 against 0');
});

t.test('wrong preset, steps and eta', async (t) => {
  t.throws(() => NoiseSchedule.preset('sd14' as never), {
    name: 'RangeError',
    message:
      /'sd15', 'sdxl', 'cogvideox-2b', 'cogvideox-5b', 'wan2\.1-1\.3b', 'wan2\.1-14b-720p', 'sd3', 'flux-schnell'.*"sd14"/,
  });
  t.throws(() => NoiseSchedule.preset('toString' as never), { name: 'RangeError' });
  t.throws(() => NoiseSchedule.preset(undefined as never), { name: 'TypeError' });
  t.throws(() => NoiseSchedule.preset('sd15', { steps: 5 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => NoiseSchedule.preset('sd15', { ignore: [] } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  for (const eta of [0, -1, 1.5, Number.NaN]) {
    t.throws(() => NoiseSchedule.preset('sd15', { eta }), { name: 'RangeError', message: /options\.eta .*\(0, 1\]/ });
  }
  t.throws(() => NoiseSchedule.preset('sd15', { eta: '1' as never }), { name: 'TypeError', message: /options\.eta/ });
  for (const inferenceSteps of [0, 2.5, 1001]) {
    t.throws(() => NoiseSchedule.preset('sd15', { inferenceSteps }), { name: 'RangeError', message: /inferenceSteps/ });
  }
  t.equal(NoiseSchedule.preset('sd3', { inferenceSteps: 1001 }).inferenceSteps, 1001, 'a flow has no such limit');
  t.throws(() => NoiseSchedule.preset('sd15', { predictionType: 'flow_prediction' }), { message: /predictionType/ });
  t.throws(() => NoiseSchedule.preset('sd3', { predictionType: 'v_prediction' }), { message: /predictionType/ });
  t.throws(() => NoiseSchedule.preset('sd3', { predictionType: 'velocity' as never }), { message: /predictionType/ });
});

t.test('a record rebuilds the schedule', async (t) => {
  const schedules = [
    NoiseSchedule.preset('sd15', { inferenceSteps: 20, eta: 0.5, predictionType: 'v_prediction' }),
    NoiseSchedule.preset('wan2.1-14b-720p'),
    NoiseSchedule.fromDiffusers(
      { _class_name: 'EulerDiscreteScheduler', rescale_betas_zero_snr: true, clip_sample: true },
      { ignore: ['clip_sample'] },
    ),
    NoiseSchedule.fromDiffusers({
      _class_name: 'DDIMScheduler',
      trained_betas: [0.1, 0.2, 0.3],
      set_alpha_to_one: false,
    }),
    NoiseSchedule.flow({ trainSteps: 7, shift: 1.5, predictionType: 'epsilon' }),
    NoiseSchedule.variancePreserving({ alphasCumprod: [0.9, 0.3], finalAlphaCumprod: 0.95, predictionType: 'sample' }),
  ];
  for (const schedule of schedules) {
    const record = JSON.parse(JSON.stringify(schedule));
    t.match(record, { family: schedule.family, eta: schedule.eta, inferenceSteps: schedule.inferenceSteps });
    const again = NoiseSchedule.fromJSON(record);
    t.strictSame(again.toJSON(), schedule.toJSON());
    const last = schedule.family === 'flow' ? schedule.trainSteps : schedule.trainSteps - 1;
    for (const step of [1, last]) {
      t.equal(again.signal(step), schedule.signal(step));
      t.equal(again.sigma(step), schedule.sigma(step));
      t.strictSame(again.transition(step), schedule.transition(step), String(schedule));
    }
  }
  t.throws(() => NoiseSchedule.fromJSON(null as never), { name: 'TypeError', message: /record/ });
  t.throws(() => NoiseSchedule.fromJSON({} as never), { name: 'TypeError', message: /record\.family/ });
});

t.test('a schedule is immutable and describes itself', async (t) => {
  const schedule = NoiseSchedule.preset('sd3', { inferenceSteps: 28 });
  t.throws(() => Object.assign(schedule, { eta: 0.5 }), { name: 'TypeError' });
  const record = schedule.toJSON();
  (record.config as Record<string, unknown>).shift = 99;
  t.match(schedule.toJSON().config, { shift: 3 });
  t.equal(
    String(schedule),
    'sd3 (flow, flow_prediction, T = 1000, shift 3; 28 inference steps, ladder scheduler, eta 1)',
  );
  t.match(
    String(NoiseSchedule.fromDiffusers({ _class_name: 'DDPMScheduler' })),
    /^DDPMScheduler \(variance-preserving, epsilon/,
  );
  t.match(String(NoiseSchedule.flow()), /^custom/);
});
