/** NaN, infinities and overflow in every place of a batch, under each of the three policies. */

import t, { type Test } from 'tap';
import {
  NonFiniteError,
  type NonFinitePolicy,
  PreferenceLoss,
  type PreferenceLossOptions,
  Tensor,
} from '../../lib/index.js';
import {
  type BranchName,
  branches,
  digests,
  type FullBatch,
  largeBatch,
  latents,
  storedOf,
  type TensorName,
  tensors,
} from '../helpers/batches.js';
import { type DType, decode, dtypes, encode } from '../helpers/dtypes.js';

const anchored = { objective: 'sdpo', beta: 20, sftWeight: 0.25, klWeight: 0.5 } as const;

function lossWith(nonFinite: NonFinitePolicy, more: Partial<PreferenceLossOptions> = {}) {
  return new PreferenceLoss({ ...anchored, ...more, nonFinite });
}

/** The error of a call that must fail. */
function failureOf(call: () => unknown): NonFiniteError {
  try {
    call();
  } catch (error) {
    if (error instanceof NonFiniteError) return error;
    throw error;
  }
  throw new Error('Expected a NonFiniteError, received a result');
}

/** The batch with one element of one tensor replaced. */
function poisoned(
  batch: FullBatch,
  branch: BranchName,
  tensor: TensorName,
  at: number,
  value: number,
  dtype: DType,
): FullBatch {
  const rows = batch.timesteps as Float64Array;
  const stored = storedOf(batch[branch][tensor]).slice();
  stored[at] = encode(dtype, [value])[0];
  return { ...batch, [branch]: { ...batch[branch], [tensor]: latents(stored, dtype, rows.length) } };
}

t.test('throw names row, branch, tensor and element', async (t) => {
  const [rows, size] = [3, 4097 + 18];
  const loss = lossWith('throw');
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    t.doesNotThrow(() => loss.evaluate(batch), `${dtype}: the batch itself is finite`);
    for (const branch of branches) {
      for (const tensor of tensors) {
        for (const [row, element, value] of [
          [0, 0, NaN],
          [1, 4095, Infinity],
          [1, 4096, -Infinity],
          [2, size - 1, NaN],
        ] as const) {
          const bad = poisoned(batch, branch, tensor, row * size + element, value, dtype);
          const error = failureOf(() => loss.evaluate(bad));
          const { code, name } = error;
          t.same(
            { row: error.row, branch: error.branch, tensor: error.tensor, element: error.element, code, name },
            { row, branch, tensor, element, code: 'ERR_SDPO_NON_FINITE', name: 'SdpoError' },
            `${dtype} ${value} in ${branch}.${tensor} [${row}, ${element}]`,
          );
          t.match(error.message, new RegExp(`row ${row} of ${branch}\\.${tensor}.*element ${element}`));
        }
      }
    }
  }
});

t.test('moments throws as evaluate does', async (t) => {
  const bad = poisoned(largeBatch(2, 5, 'float32'), 'rejected', 'target', 7, NaN, 'float32');
  t.match(
    failureOf(() => lossWith('throw').moments(bad)),
    { row: 1, branch: 'rejected', tensor: 'target', element: 2 },
  );
});

t.test('the first bad row is reported, whichever thread finds one first', async (t) => {
  const loss = lossWith('throw', { threads: 7 });
  for (const [rows, size] of [
    [40, 4096],
    [3, 65537],
  ]) {
    let batch = largeBatch(rows, size, 'float32');
    for (const row of [1, 2, rows - 1]) batch = poisoned(batch, 'rejected', 'policy', row * size + 3, NaN, 'float32');
    batch = poisoned(batch, 'chosen', 'target', 2 * size, NaN, 'float32');
    for (let i = 0; i < 30; i++) {
      t.match(
        failureOf(() => loss.evaluate(batch)),
        { row: 1, branch: 'rejected', tensor: 'policy', element: 3 },
      );
    }
  }
});

t.test('skip removes the row with its anchors, counts it, and writes zeros', async (t) => {
  const [rows, size] = [4, 33];
  for (const objective of ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const) {
    const loss = lossWith('skip', { objective });
    for (const dtype of dtypes) {
      const batch = largeBatch(rows, size, dtype);
      const clean = loss.evaluate(batch);
      t.equal(clean.metrics.nonFiniteRows, 0);
      for (const [branch, tensor, value] of [
        ['chosen', 'policy', NaN],
        ['rejected', 'reference', Infinity],
        ['chosen', 'target', -Infinity],
      ] as const) {
        const row = 1;
        const out = loss.evaluate(poisoned(batch, branch, tensor, row * size + 5, value, dtype));
        const label = `${objective} ${dtype} ${value} in ${branch}.${tensor}`;
        t.equal(out.metrics.nonFiniteRows, 1, `${label}: counted`);
        t.equal(out.rows.loss[row], 0, 'no loss');
        t.equal(out.rows.mask[row], 0, 'removed');
        const others = clean.rows.loss.reduce((sum, value, i) => (i === row ? sum : sum + value), 0);
        t.equal(out.loss, others / rows, 'the other rows are as they were, and the row still counts in the mean');
        for (const name of branches) {
          const gradient = decode(dtype, storedOf(out.gradients[name]));
          const expected = decode(dtype, storedOf(clean.gradients[name]));
          expected.fill(0, row * size, (row + 1) * size);
          t.same(gradient, expected, `${label}: ${name} gradient`);
        }
        t.ok(Object.values(out.metrics).every(Number.isFinite), 'means leave the row out');
      }
    }
  }
});

t.test('propagate lets NaN through to the loss and to the gradients of the row alone', async (t) => {
  const [rows, size] = [3, 20];
  const loss = lossWith('propagate');
  const batch = largeBatch(rows, size, 'float32');
  const clean = loss.evaluate(batch);
  const out = loss.evaluate(poisoned(batch, 'rejected', 'policy', size + 5, NaN, 'float32'));
  t.ok(Number.isNaN(out.loss) && Number.isNaN(out.rows.loss[1]));
  t.equal(out.rows.loss[0], clean.rows.loss[0]);
  t.equal(out.metrics.nonFiniteRows, 1);
  for (const branch of branches) {
    const [gradient, expected] = [out.gradients[branch], clean.gradients[branch]].map(storedOf);
    t.same(gradient.subarray(0, size), expected.subarray(0, size), `${branch}: row 0 is as it was`);
    t.same(gradient.subarray(2 * size), expected.subarray(2 * size), `${branch}: row 2 is as it was`);
    t.ok(gradient.subarray(size, 2 * size).every(Number.isNaN), `${branch}: row 1 is NaN`);
  }
});

t.test('propagate leaves a removed row at 0 unless an anchor reads it', async (t) => {
  const [rows, size] = [3, 20];
  const batch = largeBatch(rows, size, 'float32');
  const omega = Float64Array.of(0.01, Infinity, 0.01);
  const removals: [string, Partial<PreferenceLossOptions>, object][] = [
    ['keep', { objective: 'diffusion-dpo' }, { keep: [1, 0, 1] }],
    ['window', { objective: 'sdpo', maskThreshold: 0, timestepWindow: [0, 0] }, { timesteps: [0, 1, 0] }],
    ['no density', { objective: 'diffusion-dpo', timestepWeighting: 'elbo' }, { transition: { omega } }],
  ];
  for (const [name, options, numbers] of removals) {
    const lossOf = (more: object = {}) =>
      lossWith('propagate', { ...options, sftWeight: 0, klWeight: 0, ...more } as Partial<PreferenceLossOptions>);
    const given = { ...batch, ...numbers };
    for (const branch of branches) {
      for (const tensor of tensors) {
        const bad = poisoned(given, branch, tensor, size + 5, NaN, 'float32');
        const [clean, out] = [given, bad].map((each) => lossOf().evaluate(each));
        t.equal(out.loss, clean.loss, `${name}: the loss is that of the other rows`);
        t.same([...out.rows.mask], [1, 0, 1]);
        t.equal(out.metrics.nonFiniteRows, 1, 'it is counted');
        for (const each of branches) t.same(storedOf(out.gradients[each]), storedOf(clean.gradients[each]));
        for (const anchor of [{ klWeight: 1 }, { klWeight: 1, klScope: 'masked' }]) {
          const anchored = lossOf(anchor).evaluate(bad);
          t.ok(Number.isNaN(anchored.loss), `${name}: an anchor reads it`);
          for (const each of branches) {
            const seen = storedOf(anchored.gradients[each]).subarray(size, 2 * size);
            t.ok(seen.every(Number.isNaN));
          }
        }
        t.throws(() => new PreferenceLoss({ ...options, beta: 20 } as PreferenceLossOptions).evaluate(bad), {
          code: 'ERR_SDPO_NON_FINITE',
        });
      }
    }
  }
});

t.test('an element of weight 0 may hold anything', async (t) => {
  const [rows, size] = [2, 4100];
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    const elementWeights = Float32Array.from({ length: size }, (_, i) => (i % 3) / 2);
    const loss = lossWith('throw');
    const expected = loss.evaluate({ ...batch, elementWeights });
    let hidden = batch;
    for (const at of [0, 3, 4098, size]) {
      for (const [i, tensor] of tensors.entries())
        hidden = poisoned(hidden, 'chosen', tensor, at, [NaN, Infinity, -Infinity][i], dtype);
    }
    t.same(digests(loss.evaluate({ ...hidden, elementWeights })), digests(expected), `${dtype}: nothing changes`);
    const cross = loss.moments({ ...hidden, elementWeights }, { cross: true }).cross;
    t.same(
      cross,
      loss.moments({ ...batch, elementWeights }, { cross: true }).cross,
      `${dtype}: nor does the cross moment`,
    );
    const seen = poisoned(hidden, 'rejected', 'target', size + 4, NaN, dtype);
    t.match(
      failureOf(() => loss.evaluate({ ...seen, elementWeights })),
      { row: 1, branch: 'rejected', tensor: 'target', element: 4 },
      'a weighted element is still found, past the hidden ones',
    );
  }
});

t.test('element weights that are not weights are an error of their own', async (t) => {
  const [rows, size] = [3, 20];
  const batch = largeBatch(rows, size, 'float32');
  const perRow = (change: (weights: Float32Array) => void) => {
    const elementWeights = new Float32Array(rows * size).fill(1);
    change(elementWeights);
    return { ...batch, elementWeights };
  };
  const cases: Record<string, (weights: Float32Array) => void> = {
    'sum 0': (weights) => weights.fill(0, size, 2 * size),
    negative: (weights) => weights.fill(-1, size, size + 1),
    NaN: (weights) => weights.fill(NaN, size, size + 1),
    infinite: (weights) => weights.fill(Infinity, size, size + 1),
  };
  for (const [name, change] of Object.entries(cases)) {
    for (const policy of ['throw', 'skip', 'propagate'] as const) {
      t.throws(
        () => lossWith(policy).evaluate(perRow(change)),
        { code: 'ERR_SDPO_ELEMENT_WEIGHTS', message: /elementWeights.*row 1/ },
        `${name}, ${policy}`,
      );
    }
    if (name === 'sum 0') continue;
    t.throws(() => lossWith('throw').moments(perRow(change)), { code: 'ERR_SDPO_ELEMENT_WEIGHTS' }, `${name}, moments`);
  }
});

t.test('a cached reference error that is not finite', async (t) => {
  const { policy, target } = largeBatch(3, 8, 'float32').chosen;
  const batchWith = (value: number, branch: BranchName) => {
    const side = (name: BranchName) => ({ policy, target, referenceError: [0.2, 0.2, name === branch ? value : 0.2] });
    return {
      timesteps: [0, 0, 0],
      chosen: side('chosen'),
      rejected: side('rejected'),
      transition: { omega: [1, 1, 1] },
    };
  };
  const options = { objective: 'diffusion-dpo', beta: 2 } as const;
  for (const branch of branches) {
    for (const value of [NaN, Infinity]) {
      const batch = batchWith(value, branch);
      t.match(
        failureOf(() => new PreferenceLoss(options).evaluate(batch)),
        {
          row: 2,
          branch,
          tensor: 'referenceError',
          element: -1,
          message: new RegExp(`row 2 of ${branch}.referenceError`),
        },
        `${value} in ${branch}`,
      );
      const skipped = new PreferenceLoss({ ...options, nonFinite: 'skip' }).evaluate(batch);
      t.equal(skipped.metrics.nonFiniteRows, 1);
      t.equal(skipped.rows.mask[2], 0);
    }
  }
});

/** Finite inputs whose squares exceed what the arithmetic holds. */
function overflowing(
  t: Test,
  label: string,
  change: (batch: FullBatch) => FullBatch,
  more: Partial<PreferenceLossOptions>,
  branch?: BranchName,
) {
  const batch = change(largeBatch(3, 20, 'float32'));
  const error = failureOf(() => lossWith('throw', more).evaluate(batch));
  t.match(
    error,
    { row: 1, tensor: 'row', element: -1, message: /finite tensors of row 1/, ...(branch && { branch }) },
    label,
  );
  const out = lossWith('skip', more).evaluate(batch);
  t.equal(out.metrics.nonFiniteRows, 1, `${label}: skip`);
  t.ok(Number.isFinite(out.loss));
  t.ok(
    branches.every((name) =>
      storedOf(out.gradients[name])
        .subarray(20, 40)
        .every((value) => value === 0),
    ),
    'with zero gradients',
  );
}

t.test('finite values whose arithmetic overflows are told from non-finite ones', async (t) => {
  for (const branch of branches) {
    overflowing(t, `squares, ${branch}`, (batch) => poisoned(batch, branch, 'policy', 25, 1e30, 'float32'), {}, branch);
  }
  const weights = (batch: FullBatch) => ({ ...batch, rowWeights: [1, 1e300, 1] });
  overflowing(t, 'the loss', weights, { objective: 'diffusion-dpo', sftWeight: 1e10 });
});

t.test('a gradient that leaves the range of its dtype when it is rounded', async (t) => {
  const half = (values: number[]) => Tensor.from(values, { shape: [1, values.length], dtype: 'float16' });
  const branch = (values: number[]) => ({ policy: half(values), reference: half([0, 0]), target: half([1, 1]) });
  const batch = { chosen: branch([1, 300]), rejected: branch([1, 1]) };
  const make = (nonFinite: NonFinitePolicy, options: Partial<PreferenceLossOptions> = {}) =>
    new PreferenceLoss({ objective: 'diffusion-dpo', beta: 5e6, nonFinite, ...options });
  t.match(
    failureOf(() => make('throw').evaluate(batch)),
    { row: 0, branch: 'chosen', tensor: 'gradient', element: 1, code: 'ERR_SDPO_NON_FINITE' },
  );
  t.doesNotThrow(() => make('throw').evaluate(batch, { gradients: false }));
  for (const policy of ['skip', 'propagate'] as const) {
    const result = make(policy).evaluate(batch);
    t.equal(result.metrics.nonFiniteRows, 0);
    t.equal(result.gradients.chosen.toFloat32()[1], Infinity, `${policy}: a loss scaler can see it`);
  }
  // Just within the range, and beyond it by the scale alone.
  const scaled = (gradientScale: number) => () => make('throw', { beta: 1 }).evaluate(batch, { gradientScale });
  const largest = Math.abs(scaled(1)().gradients.chosen.toFloat32()[1]);
  t.doesNotThrow(scaled(2 ** Math.floor(Math.log2(65504 / largest))));
  t.match(failureOf(scaled(2 ** Math.ceil(Math.log2(65504 / largest)))), { tensor: 'gradient' });
  const weights = Float32Array.of(1, 0);
  t.doesNotThrow(() => make('throw').evaluate({ ...batch, elementWeights: weights }), 'an element without weight');
});

t.test('float32 gradients beyond their range, and 0 times infinity', async (t) => {
  const array = (values: number[]) => Float32Array.from(values);
  const zero = () => array([0, 0]);
  const batch = {
    timesteps: [1],
    chosen: { policy: array([1, 0]), reference: zero(), target: zero() },
    rejected: { policy: zero(), reference: zero(), target: zero() },
  };
  const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 });
  const first = { tensor: 'gradient', branch: 'chosen', element: 0 };
  t.match(
    failureOf(() => loss.evaluate(batch, { gradientScale: 1e300 })),
    first,
  );
  const same = { ...batch, chosen: { ...batch.chosen, policy: zero() } };
  t.match(
    failureOf(() => loss.evaluate(same, { gradientScale: 1e300 })),
    first,
  );
});

t.test('the loss of a batch whose rows are finite', async (t) => {
  const array = (value: number) => new Float64Array(2).fill(value);
  const batch = (policy: number) => ({
    timesteps: [0, 0],
    chosen: { policy: array(policy), reference: array(0), target: array(0) },
    rejected: { policy: array(0), reference: array(0), target: array(0) },
  });
  const hinge = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 2, link: 'hinge' });
  t.match(
    failureOf(() => hinge.evaluate(batch(1.2e154))),
    { row: -1, tensor: 'batch', code: 'ERR_SDPO_NON_FINITE' },
  );
  for (const gradients of [true, false]) {
    t.throws(() => hinge.evaluate(batch(1), { denominator: 5e-324, gradients }), { code: 'ERR_SDPO_NON_FINITE' });
  }
  // An overflow of ψ is no infinite ω: such a row is not removed without a word.
  const elbo = { objective: 'diffusion-dpo', beta: 1e308, timestepWeighting: 'elbo' } as const;
  const overflow = { ...batch(1), transition: { omega: [10, 10] } };
  t.match(
    failureOf(() => new PreferenceLoss(elbo).evaluate(overflow)),
    { tensor: 'row', row: 0 },
  );
  t.equal(new PreferenceLoss({ ...elbo, nonFinite: 'skip' }).evaluate(overflow).metrics.nonFiniteRows, 2);
});
