/** The readings of the paper and numbers per row: the reference cases whole and cut into parts, and gradients against finite differences. */

import t from 'tap';
import {
  combineMoments,
  type ElementWeights,
  type Moments,
  NoiseSchedule,
  PreferenceLoss,
  type PreferenceLossOptions,
  type Statistics,
  Tensor,
} from '../../lib/index.js';
import { normalNumbers } from '../helpers/cases.js';
import {
  Comparison,
  differenceStep,
  differenceTolerance,
  goldenTolerance,
  largest,
  slopeAtZero,
} from '../helpers/close.js';
import { scheduleOf } from '../helpers/evaluate.js';
import { type GoldenCase, goldenReadings } from '../helpers/golden.js';
import { statistics } from '../oracle/oracle.js';

const branches = ['chosen', 'rejected'] as const;
const inputs = ['policy', 'reference', 'target'] as const;

function lossOf({ schedule, options }: GoldenCase): PreferenceLoss {
  return new PreferenceLoss({ ...(options as PreferenceLossOptions), schedule: scheduleOf(schedule) });
}

/** Elements `first` … `first + width - 1` of every row of a case. */
function partOf({ batch, size }: GoldenCase, first: number, width: number) {
  const rows = batch.timesteps.length;
  const cut = (values: readonly number[]) => {
    const out = new Float64Array(rows * width);
    for (let row = 0; row < rows; row++) {
      for (let i = 0; i < width; i++) out[row * width + i] = values[row * size + first + i];
    }
    return Tensor.from(out, { shape: [rows, width], dtype: 'float64' });
  };
  const branch = (name: (typeof branches)[number]) => {
    const [policy, reference, target] = inputs.map((input) => cut(batch[name][input]));
    return { policy, reference, target };
  };
  return { chosen: branch('chosen'), rejected: branch('rejected') };
}

/** Where the exact value is 0 the files hold rounding residue of numbers of unit size. */
const allowed = (values: ArrayLike<number>, size: number) => ({
  relative: goldenTolerance,
  absolute: size * Number.EPSILON * largest(values),
});

function compareStatistics(compared: Comparison, { size, expected }: GoldenCase, result: Statistics): void {
  compared.check('loss', [result.loss], [expected.loss], {
    relative: goldenTolerance,
    absolute: size * Number.EPSILON * largest(expected.rows.loss),
  });
  for (const statistic of statistics) {
    compared.check(
      statistic,
      result.rows[statistic],
      expected.rows[statistic],
      allowed(expected.rows[statistic], size),
    );
  }
}

t.test('the reference cases, whole', async (t) => {
  t.ok(goldenReadings.length >= 36);
  for (const golden of goldenReadings) {
    const { name, size, batch, numbers, expected } = golden;
    const compared = new Comparison();
    const result = lossOf(golden).evaluate({ ...partOf(golden, 0, size), timesteps: batch.timesteps, ...numbers });
    compareStatistics(compared, golden, result);
    for (const branch of branches) {
      const gradient = result.gradients[branch].toFloat64();
      compared.check(branch, gradient, expected.gradients[branch], allowed(expected.gradients[branch], size));
    }
    compared.end(t, name);
  }
});

t.test('the reference cases, cut into parts', async (t) => {
  for (const golden of goldenReadings) {
    const { name, size, batch, numbers, parts, expected } = golden;
    const loss = lossOf(golden);
    // As the case says, and into three unequal parts of which one is a single element.
    for (const widths of [parts, size > 3 ? [1, size - 3, 2] : [size]]) {
      const compared = new Comparison();
      const starts = widths.map((_, k) => widths.slice(0, k).reduce((sum, width) => sum + width, 0));
      const pieces = widths.map((width, k) => partOf(golden, starts[k], width));
      const moments = combineMoments(pieces.map((piece) => loss.moments(piece)));
      t.same([...moments.elements], new Array(batch.timesteps.length).fill(size));
      const result = loss.objective(moments, { timesteps: batch.timesteps, ...numbers });
      compareStatistics(compared, golden, result);
      for (const branch of branches) {
        const gradient = new Float64Array(expected.gradients[branch].length);
        for (const [k, piece] of pieces.entries()) {
          const written = loss.gradients(piece, result.coefficients, { elements: moments.elements });
          const values = written[branch].toFloat64();
          for (let row = 0; row < batch.timesteps.length; row++) {
            const width = widths[k];
            gradient.set(values.subarray(row * width, (row + 1) * width), row * size + starts[k]);
          }
        }
        compared.check(branch, gradient, expected.gradients[branch], allowed(expected.gradients[branch], size));
      }
      compared.end(t, `${name}: ${widths.join(' + ')}`);
    }
  }
});

// ---- Finite differences

const rows = 5;
const size = 4;

function makeBatch(seed: number) {
  const normal = normalNumbers(seed);
  const tensor = () => Float64Array.from({ length: rows * size }, normal);
  const branch = () => ({ policy: tensor(), reference: tensor(), target: tensor() });
  return {
    chosen: branch(),
    rejected: branch(),
    timesteps: [900, 500, 300, 100, 700],
    betaScale: { chosen: [1, 0.5, 2, 0, 1.5], rejected: [0.7, 1, 1, 3, 0] },
    margins: [0, 0.3, -0.4, 0.1, 1],
    keep: [true, true, false, true, true],
    rowWeights: [1, 2, 1, 0.5, 1],
  };
}

const variants: Record<string, Partial<PreferenceLossOptions>> = {
  'diffusion-dpo': { objective: 'diffusion-dpo' },
  'log-ratios clipped': { objective: 'diffusion-dpo', timestepWeighting: 'elbo', logRatioClip: [0.8, 1.3] },
  'a window': { objective: 'diffusion-dpo', timestepWindow: [300, 700], klWeight: 0.3, klScope: 'masked' },
  'a weight per branch': { objective: 'sdpo' },
  'inverse weights': { objective: 'sdpo', weightExponent: -1, clipRange: [0.5, 3] },
  'no weights': { objective: 'sdpo', weightExponent: 0 },
  'squared weights': { objective: 'dpo-cm', weightExponent: 2, pairWeight: 'max' },
  ...Object.fromEntries(
    (['geometric', 'min', 'max', 'product'] as const).map((pairWeight) => [
      `sdpo, ${pairWeight}`,
      { objective: 'sdpo', pairWeight, weightExponent: 0.5, clipRange: [0.2, 3] },
    ]),
  ),
};

t.test('gradients against finite differences, weights included', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const compared = new Comparison();
  let seed = 100;
  for (const [name, variant] of Object.entries(variants)) {
    const weighted = variant.objective !== 'diffusion-dpo';
    // Only with gradients through the weight is the gradient that of the loss as a number.
    const options = { beta: 1.2, ...variant, ...(weighted ? { weightGradient: true, maskThreshold: 0 } : {}) };
    const loss = new PreferenceLoss({ schedule, ...options } as PreferenceLossOptions);
    const batch = makeBatch(seed++);
    const { gradients } = loss.evaluate(batch);
    for (const branch of branches) {
      const normal = normalNumbers(seed++);
      const direction = gradients[branch].map(normal);
      const at = (x: number) => {
        const policy = batch[branch].policy.map((value, i) => value + x * direction[i]);
        return loss.evaluate({ ...batch, [branch]: { ...batch[branch], policy } }, { gradients: false }).loss;
      };
      const along = gradients[branch].reduce((sum, value, i) => sum + value * direction[i], 0);
      const slope = slopeAtZero(at, differenceStep);
      compared.check(`${name}, ${branch}`, [along], [slope], differenceTolerance(slope));
    }
  }
  compared.end(t, `${Object.keys(variants).length} variants`);
});

// ---- Single statements

const scalar = (chosen: number, rejected: number) => ({
  chosen: { policy: [chosen], reference: [0], target: [0] },
  rejected: { policy: [rejected], reference: [0], target: [0] },
});
/** One row of one element with m = δ = the squares of the two numbers. */
const oneRow = (chosen: number, rejected: number) => {
  const { chosen: c, rejected: r } = scalar(chosen, rejected);
  const wide = (b: typeof c) => ({
    policy: Float64Array.from(b.policy),
    reference: Float64Array.from(b.reference),
    target: Float64Array.from(b.target),
  });
  return { timesteps: [500], chosen: wide(c), rejected: wide(r) };
};

t.test('rows are removed by keep and by the window, as by the mask', async (t) => {
  const loss = new PreferenceLoss({
    objective: 'diffusion-dpo',
    beta: 2,
    timestepWindow: [100, 800],
    sftWeight: 1,
    sftScope: 'masked',
  });
  const at = (timestep: number, keep?: boolean[]) => loss.evaluate({ ...oneRow(1, 2), timesteps: [timestep], keep });
  for (const [timestep, keep, mask] of [
    [99, undefined, 0],
    [100, undefined, 1],
    [800, undefined, 1],
    [800.5, undefined, 0],
    [500, [false], 0],
    [500, [true], 1],
  ] as const) {
    const result = at(timestep, keep as boolean[] | undefined);
    t.equal(result.rows.mask[0], mask, `${timestep}, keep ${keep}`);
    t.equal(result.metrics.maskFraction, 1 - mask);
    // A removed row has its anchor and nothing else.
    if (mask === 0) t.same([result.loss, result.gradients.chosen[0], result.gradients.rejected[0]], [1, 2, 0]);
  }
  t.throws(() => loss.evaluate({ ...oneRow(1, 2), timesteps: undefined, rows: 1 }), /Expected batch\.timesteps/);
});

t.test('the log-ratio clip: bounds, edges and share', async (t) => {
  // l = -δ/2: -1/2 for the chosen branch, -2 for the rejected one.
  const make = (logRatioClip: [number, number]) =>
    new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, logRatioClip }).evaluate(oneRow(1, 2));
  const none = make([Math.exp(-3), 1]);
  t.same([...none.rows.rewardChosen, ...none.rows.rewardRejected], [-0.5, -2]);
  t.equal(none.metrics.logRatioClipFraction, 0);
  const one = make([Math.exp(-1), 1]);
  t.same([one.rows.rewardChosen[0], one.rows.rewardRejected[0]], [-0.5, Math.log(Math.exp(-1))]);
  t.equal(one.gradients.rejected[0], 0, 'no derivative outside');
  t.not(one.gradients.chosen[0], 0);
  t.equal(one.metrics.logRatioClipFraction, 0.5);
  const edge = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, logRatioClip: [1, 2] }).evaluate(oneRow(0, 2));
  t.equal(edge.gradients.chosen[0], 0);
  t.same([edge.rows.rewardChosen[0], edge.metrics.logRatioClipFraction], [0, 0.5], 'an edge is not clipped');
});

t.test('an exponent of 0 switches the weight off and keeps the mask', async (t) => {
  const options = { beta: 1, schedule: NoiseSchedule.preset('cogvideox-2b'), weightExponent: 0 } as const;
  const off = new PreferenceLoss({ objective: 'sdpo', ...options }).evaluate({ ...oneRow(1, 2), timesteps: [600] });
  const plain = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 }).evaluate(oneRow(1, 2));
  t.equal(off.loss, plain.loss);
  t.same(
    [...off.gradients.chosen, ...off.gradients.rejected],
    [...plain.gradients.chosen, ...plain.gradients.rejected],
  );
  t.same([off.rows.weightChosen[0], off.rows.weightRejected[0]], [1, 1]);
  const masked = new PreferenceLoss({ objective: 'sdpo', ...options }).evaluate({ ...oneRow(1, 2), timesteps: [20] });
  t.ok(masked.rows.logWeightChosen[0] < 0);
  t.equal(masked.rows.mask[0], 0);
});

t.test('objectives that read no schedule need neither schedule nor timesteps', async (t) => {
  const tensors = () => {
    const { chosen, rejected } = oneRow(1, 2);
    const tensor = (values: Float64Array) => Tensor.from(values, { shape: [1, 1], dtype: 'float64' });
    const branch = (b: typeof chosen) => ({
      policy: tensor(b.policy),
      reference: tensor(b.reference),
      target: tensor(b.target),
    });
    return { chosen: branch(chosen), rejected: branch(rejected) };
  };
  for (const objective of ['diffusion-dpo', 'dmpo', 'dspo', 'linear-dpo', 'mapo'] as const) {
    const result = new PreferenceLoss({ objective, beta: 1 }).evaluate(tensors());
    t.ok(Number.isFinite(result.loss), objective);
    t.ok(Number.isNaN(result.rows.logWeightChosen[0]), 'there is no ω to make a weight of');
    t.ok(Number.isNaN(result.metrics.weightChosen));
    const flow = NoiseSchedule.preset('wan2.1-1.3b');
    const atZero = new PreferenceLoss({ objective, beta: 1, schedule: flow }).evaluate({
      ...tensors(),
      timesteps: [0],
    });
    t.equal(atZero.loss, result.loss, 'flow t = 0 is accepted');
  }
  for (const options of [{ objective: 'sdpo' }, { objective: 'diffusion-dpo', timestepWeighting: 'elbo' }] as const) {
    const loss = new PreferenceLoss({ beta: 1, ...options });
    t.throws(() => loss.evaluate({ ...tensors(), timesteps: [1] }), /batch\.transition\.omega to be given/);
    const withSchedule = new PreferenceLoss({ beta: 1, ...options, schedule: NoiseSchedule.preset('sd15') });
    t.throws(() => withSchedule.evaluate(tensors()), /Expected batch\.timesteps/);
  }
});

t.test('a noise level in place of a timestep of a flow schedule', async (t) => {
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 1, schedule: NoiseSchedule.preset('wan2.1-1.3b') });
  t.throws(() => loss.evaluate({ ...oneRow(1, 2), timesteps: [0.75] }), {
    code: 'ERR_SDPO_INVALID_ARG_VALUE',
    message: /batch\.timesteps.*multiply them by 1000/,
  });
  t.doesNotThrow(() => loss.evaluate({ ...oneRow(1, 2), timesteps: [750] }));
});

t.test('numbers per row: one for all rows, tensors of the host, and what is refused', async (t) => {
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1.3 });
  const batch = { ...makeBatch(7), keep: undefined };
  const list = (value: number) => new Array<number>(rows).fill(value);
  const column = (value: number) => Tensor.from(list(value), { shape: [rows, 1], dtype: 'float32' });
  for (const name of ['rowWeights', 'margins', 'betaScale'] as const) {
    const expected = loss.evaluate({ ...batch, [name]: list(0.5) });
    for (const value of [0.5, column(0.5), Float32Array.from(list(0.5))]) {
      const result = loss.evaluate({ ...batch, [name]: value });
      t.same([result.loss, [...result.gradients.chosen]], [expected.loss, [...expected.gradients.chosen]], name);
    }
  }
  const refused = (changes: object, message: RegExp, objective = 'diffusion-dpo') => {
    const other = new PreferenceLoss({ objective, beta: 1 } as PreferenceLossOptions);
    t.throws(() => other.evaluate({ ...batch, ...changes } as never), { message }, message.source);
  };
  refused({ betaScale: list(-1) }, /batch\.betaScale\[0\].*>= 0.*-1/);
  refused({ betaScale: { chosen: list(1) } }, /batch\.betaScale\.rejected/);
  refused({ margins: [0, 0, Number.NaN, 0, 0] }, /batch\.margins\[2\].*NaN/);
  refused({ keep: [1, 1] }, /batch\.keep.*length 5/);
  refused({ keep: ['yes', 1, 1, 1, 1] }, /batch\.keep\[0\].*"yes"/);
  refused({ betaScale: undefined, margins: list(0) }, /batch\.margins.*'dmpo' does not use it/, 'dmpo');
  refused({ margins: undefined }, /batch\.betaScale.*'mapo' does not use it/, 'mapo');
});

t.test('the safeguard of a batch is one factor for all rows', async (t) => {
  const batch = makeBatch(31);
  const plain = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 }).evaluate(batch);
  const { chosen, cross } = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 }).moments(batch, { cross: true });
  const sum = (values: ArrayLike<number>) => Array.prototype.reduce.call(values, (a, b) => Number(a) + Number(b), 0);
  for (const safeguard of [0, 0.4, 1]) {
    const options = { objective: 'diffusion-dpo', beta: 1, safeguard, safeguardScope: 'batch' } as const;
    const x = Number(sum(cross!));
    const factor = x > 0 ? Math.min(1, ((1 - safeguard) * Number(sum(chosen.error))) / x) : 1;
    const guarded = new PreferenceLoss(options).evaluate(batch);
    t.equal(guarded.loss, plain.loss);
    t.same([...guarded.gradients.chosen], [...plain.gradients.chosen]);
    const compared = new Comparison();
    const expected = plain.gradients.rejected.map((value) => factor * value);
    compared.check('rejected', guarded.gradients.rejected, expected, { relative: 8 * Number.EPSILON });
    compared.end(t, `μ = ${safeguard}`);
    // In parts: the moments of all rows are there anyway.
    const loss = new PreferenceLoss(options);
    const again = loss.objective(loss.moments(batch), {
      betaScale: batch.betaScale,
      margins: batch.margins,
      keep: batch.keep,
      rowWeights: batch.rowWeights,
    });
    t.same([...again.coefficients.rejected.a], [...guarded.coefficients.rejected.a]);
  }
});

t.test('moments that do not fit', async (t) => {
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 });
  const moments = loss.moments(makeBatch(3));
  const short = { ...moments, elements: moments.elements.slice(1) };
  t.throws(() => combineMoments([]), /parts/);
  for (const count of [-3, NaN, Infinity]) {
    const elements = moments.elements.map((n, i) => (i === 1 ? count : n));
    const message = /parts\[1\]\.elements\[1\] to be a finite number >= 0/;
    t.throws(() => combineMoments([moments, { ...moments, elements }]), {
      code: 'ERR_SDPO_INVALID_ARG_VALUE',
      message,
    });
  }
  t.throws(() => combineMoments([moments, short as Moments]), /parts\[1\]\.chosen\.error.*length 4/);
  t.throws(() => combineMoments([moments, { ...moments, cross: moments.elements }]), /all with cross/);
  t.throws(() => loss.objective({ ...moments, elements: new Float64Array(rows) }), /moments\.elements\[0\].*> 0/);
  t.throws(() => loss.objective(moments, { timestep: 1 } as never), /numbers.*timesteps/);
  t.throws(() => new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, safeguard: 0.5 }).objective(moments), {
    message: /moments\.cross/,
  });
  const withoutDrift = { ...moments, chosen: { ...moments.chosen, drift: new Float64Array(rows).fill(Number.NaN) } };
  t.throws(() => new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, klWeight: 1 }).objective(withoutDrift), {
    message: /moments\.chosen\.drift.*klWeight/,
  });
  t.throws(
    () => loss.gradients(makeBatch(3), loss.objective(moments).coefficients, { elements: [1, 2] }),
    /call\.elements/,
  );
  // A part without elements has nothing to say, whatever its moments are.
  const empty = { ...withoutDrift, elements: new Float64Array(rows) };
  t.same(combineMoments([empty, moments]), moments);
});

t.test('errors of the objective alone call its numbers by their names', async (t) => {
  const loss = new PreferenceLoss({ objective: 'sdpo', beta: 1 });
  const moments = loss.moments(makeBatch(3));
  const omega = new Float64Array(rows);
  const wrong: Record<string, object> = {
    betaScale: { betaScale: -1 },
    margins: { margins: [1] },
    keep: { keep: 'all' },
    rowWeights: { rowWeights: [Number.NaN] },
    maskThreshold: { maskThreshold: 2 },
    weightNoise: { weightNoise: 1 },
    denominator: { denominator: 0 },
    gradientScale: { gradientScale: '1' },
    'transition.omega': { transition: undefined },
    'transition.offsetChosen': { transition: { omega, offsetChosen: 'x' } },
    timesteps: { timesteps: 'x' },
  };
  for (const [name, numbers] of Object.entries(wrong)) {
    t.throws(
      () => loss.objective(moments, { transition: { omega }, ...numbers }),
      new RegExp(`^Expected numbers\\.${name}\\b`),
    );
  }
});

t.test('element weights: masks, and axes of size 1', async (t) => {
  const shape = [2, 3, 2, 4];
  const normal = normalNumbers(77);
  const tensor = () => Tensor.from(Float64Array.from({ length: 48 }, normal), { shape, dtype: 'float64' });
  const branch = () => ({ policy: tensor(), reference: tensor(), target: tensor() });
  const batch = { chosen: branch(), rejected: branch() };
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1.5 });
  const at = (i: number) => [Math.floor(i / 24), Math.floor(i / 8) % 3, Math.floor(i / 4) % 2, i % 4];
  const full = (weight: (index: number[]) => number) => Float64Array.from({ length: 48 }, (_, i) => weight(at(i)));
  const same = (name: string, given: ElementWeights, expected: Float64Array) => {
    const [a, b] = [given, expected].map((elementWeights) => loss.evaluate({ ...batch, elementWeights }));
    t.same([a.loss, ...a.gradients.chosen.toFloat64()], [b.loss, ...b.gradients.chosen.toFloat64()], name);
  };
  const of = (values: number[], axes: number[]) => Tensor.from(values, { shape: axes, dtype: 'float64' });
  same(
    'per row and place',
    of([1, 2, 3, 4, 5, 6, 7, 8, 8, 7, 6, 5, 4, 3, 2, 1], [2, 1, 2, 4]),
    full(([r, , h, w]) => (r === 0 ? 1 + 4 * h + w : 8 - 4 * h - w)),
  );
  same(
    'per channel',
    of([1, 2, 3], [1, 3, 1, 1]),
    full(([, c]) => c + 1),
  );
  same(
    'per row and frame',
    of([1, 2, 3, 4], [2, 1, 2, 1]),
    full(([r, , h]) => 1 + 2 * r + h),
  );
  const mask = (i: number) => i % 3 !== 0;
  const masked = Float64Array.from({ length: 48 }, (_, i) => Number(mask(i)));
  same('a mask of bytes', Uint8Array.from(masked), masked);
  same(
    'a mask of booleans',
    Array.from({ length: 48 }, (_, i) => mask(i)),
    masked,
  );
  const wrong = (elementWeights: unknown, message: RegExp) =>
    t.throws(() => loss.evaluate({ ...batch, elementWeights } as never), { message }, message.source);
  wrong(of([1, 2], [2, 1, 1]), /elementWeights.*\[2, 3, 2, 4\] or with 1 for axes.*\[2, 1, 1\]/);
  wrong(of([1, 2, 3, 4, 5], [1, 1, 1, 5]), /elementWeights.*with 1 for axes/);
  wrong([1, 0], /elementWeights.*Array of length 2/);
  wrong(new Uint16Array(48), /elementWeights.*Uint16Array/);
});

t.test(
  'element weights are read by their axes where these are those of the policy, whatever their number',
  async (t) => {
    // [B, 1, H, W] has as many elements as a row [C, H, W] where B is C.
    const shape = [3, 3, 2];
    const normal = normalNumbers(78);
    const tensor = () => Tensor.from(Float64Array.from({ length: 18 }, normal), { shape, dtype: 'float64' });
    const branch = () => ({ policy: tensor(), reference: tensor(), target: tensor() });
    const batch = { chosen: branch(), rejected: branch() };
    const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1.5 });
    const result = (elementWeights: ElementWeights) => {
      const { loss: value, gradients } = loss.evaluate({ ...batch, elementWeights });
      return [value, ...gradients.chosen.toFloat64(), ...gradients.rejected.toFloat64()];
    };
    const numbers = [1, 2, 3, 4, 5, 6];
    const of = (axes: number[]) => Tensor.from(numbers, { shape: axes, dtype: 'float64' });
    const perRow = Float64Array.from({ length: 18 }, (_, i) => numbers[2 * Math.floor(i / 6) + (i % 2)]!);
    t.same(result(of([3, 1, 2])), result(perRow));
    const oneForAll = result(Float64Array.from(numbers));
    t.not(result(perRow)[0], oneForAll[0]);
    for (const axes of [[6], [3, 2], [1, 3, 2]]) t.same(result(of(axes)), oneForAll, `[${axes}]`);
    t.throws(() => result(of([6, 1, 1])), {
      code: 'ERR_SDPO_INVALID_LENGTH',
      message: /\[3, 3, 2\] or with 1 for axes/,
    });
  },
);
