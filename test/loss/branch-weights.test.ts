/** Element weights of each branch: every number of a branch is by its own weights, whole and in parts, and what needs one weighting is refused. */

import t from 'tap';
import {
  type Batch,
  combineMoments,
  type ElementWeights,
  type Evaluation,
  type Moments,
  PreferenceLoss,
  type RowElements,
  Tensor,
} from '../../lib/index.js';
import { branches, digestOf, digests, largeBatch, storedOf, tensors } from '../helpers/batches.js';
import { close } from '../helpers/close.js';
import { dtypes } from '../helpers/dtypes.js';
import { failureOf } from '../helpers/failures.js';

const [rows, size] = [4, 37];
const options = { objective: 'sdpo', beta: 20, sftWeight: 0.3, klWeight: 0.5, klScope: 'masked' } as const;
const loss = new PreferenceLoss(options);

const chosen = Float32Array.from({ length: rows * size }, (_, i) => (i % 4) / 3);
const rejected = Float32Array.from({ length: size }, (_, i) => (i % 3 === 1 ? 0 : 1 + (i % 5)));
const elementWeights = { chosen, rejected };

t.test('two calls with one weighting each, put together by hand', async (t) => {
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    const whole = loss.evaluate({ ...batch, elementWeights });
    const one = { ...batch, elementWeights: chosen };
    const other = { ...batch, elementWeights: rejected };
    const [a, b] = [loss.moments(one), loss.moments(other)];
    const moments = { chosen: a.chosen, rejected: b.rejected, elements: { chosen: a.elements, rejected: b.elements } };
    t.same(loss.moments({ ...batch, elementWeights }), moments, `${dtype}: moments`);
    const { coefficients, ...statistics } = loss.objective(moments, { transition: batch.transition });
    const { chosen: gradient, rejected: otherGradient, ...expected } = digests(whole);
    t.same(digests({ ...statistics, coefficients }), expected, `${dtype}: statistics`);
    t.equal(digestOf(storedOf(loss.gradients(one, coefficients).chosen)), gradient, `${dtype}: chosen`);
    t.equal(digestOf(storedOf(loss.gradients(other, coefficients).rejected)), otherGradient, `${dtype}: rejected`);
    const alone = loss.gradients({ ...batch, elementWeights }, coefficients);
    t.equal(digestOf(storedOf(alone.chosen), storedOf(alone.rejected)), digestOf(...gradientsOf(whole)), `${dtype}: D`);
    t.same(digests(await loss.evaluateAsync({ ...batch, elementWeights })), digests(whole), `${dtype}: async`);
    t.not(whole.loss, loss.evaluate(one).loss, `${dtype}: the weights of rejected are read`);
    t.not(whole.loss, loss.evaluate(other).loss, `${dtype}: the weights of chosen are read`);
  }
});

function gradientsOf({ gradients }: Evaluation): ArrayBufferView[] {
  return branches.map((branch) => storedOf(gradients[branch]));
}

t.test('the sum of log-ratios multiplies by the sum of the branch', async (t) => {
  const batch = { ...largeBatch(rows, size, 'float64'), elementWeights };
  const make = (logRatioReduction: 'mean' | 'sum') =>
    new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, timestepWeighting: 'elbo', logRatioReduction });
  const [mean, sum] = [make('mean').evaluate(batch), make('sum').evaluate(batch)];
  const { elements } = loss.moments(batch) as Moments<{ chosen: Float64Array; rejected: Float64Array }>;
  for (const [name, branch] of [
    ['rewardChosen', 'chosen'],
    ['rewardRejected', 'rejected'],
  ] as const) {
    const expected = mean.rows[name].map((value, i) => value * elements[branch][i]);
    close(t, name, sum.rows[name], expected, { relative: 1e-14 });
  }
  t.same([...elements.rejected], new Array(rows).fill(rejected.reduce((total, e) => total + e)));
});

t.test('cut rows equal whole rows', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const whole = loss.evaluate({ ...batch, elementWeights });
  const cut = (values: ArrayLike<number>, first: number, width: number) =>
    Float64Array.from({ length: (values.length / size) * width }, (_, i) => {
      return values[Math.floor(i / width) * size + first + (i % width)];
    });
  // The first part has no weight in rejected at all: it is a part of rows that have some.
  const widths = [1, 20, 16];
  const inParts = { chosen, rejected: Float32Array.from(rejected, (e, i) => (i === 0 ? 0 : e)) };
  const expected = loss.evaluate({ ...batch, elementWeights: inParts });
  t.not(expected.loss, whole.loss);
  const parts = widths.map((width, k) => {
    const first = widths.slice(0, k).reduce((sum, each) => sum + each, 0);
    const branch = (name: 'chosen' | 'rejected') => {
      const [policy, reference, target] = tensors.map((name_) => cut(storedOf(batch[name][name_]), first, width));
      return { policy, reference, target };
    };
    const weights = {
      chosen: cut(inParts.chosen, first, width),
      rejected: cut(inParts.rejected, first, width),
    };
    return {
      first,
      width,
      batch: { ...batch, chosen: branch('chosen'), rejected: branch('rejected'), elementWeights: weights },
    };
  });
  const moments = combineMoments(parts.map((part) => loss.moments(part.batch)));
  const result = loss.objective(moments, { transition: batch.transition });
  close(t, 'loss', [result.loss], [expected.loss], { relative: 1e-12 });
  for (const { first, width, batch: part } of parts) {
    const gradients = loss.gradients(part, result.coefficients, { elements: moments.elements });
    for (const branch of branches) {
      const want = cut(storedOf(expected.gradients[branch]), first, width);
      close(t, `${branch} from ${first} on`, gradients[branch], want, { relative: 1e-12, absolute: 1e-15 });
    }
  }
  // One weighting in some parts and one of each branch in others.
  const mixed = combineMoments<RowElements>([
    loss.moments({ ...batch, elementWeights: chosen }),
    loss.moments({ ...batch, elementWeights }),
  ]);
  const { elements } = mixed as Moments<{ chosen: Float64Array; rejected: Float64Array }>;
  t.ok(elements.chosen.every((n, i) => n !== elements.rejected[i]));
});

t.test('one weighting by two names', async (t) => {
  const batch = largeBatch(rows, size, 'float32');
  const guarded = new PreferenceLoss({ objective: 'sdpo', beta: 20, safeguard: 0.5 });
  const named = guarded.evaluate({ ...batch, elementWeights: { chosen, rejected: chosen } });
  t.same(digests(named), digests(guarded.evaluate({ ...batch, elementWeights: chosen })));
});

t.test('what pairs the elements of both branches is refused', async (t) => {
  const batch = { ...largeBatch(rows, size, 'float32'), elementWeights };
  const refused = (asker: string) => ({
    code: 'ERR_SDPO_INVALID_OPTION',
    message: new RegExp(`elementWeights to be one weighting of both branches where ${asker} is given`),
  });
  for (const safeguardScope of ['pair', 'batch'] as const) {
    const guarded = new PreferenceLoss({ ...options, safeguard: 0.5, safeguardScope });
    t.match(await failureOf(() => guarded.evaluate(batch)), refused('options.safeguard'));
    t.match(await failureOf(() => guarded.evaluateAsync(batch)), refused('options.safeguard'));
    t.match(await failureOf(() => guarded.moments(batch)), refused('options.safeguard'));
    t.match(await failureOf(() => guarded.objective(loss.moments(batch))), {
      code: 'ERR_SDPO_INVALID_OPTION',
      message: /moments\.elements to be one list for both branches where options\.safeguard/,
    });
    t.ok(guarded.gradients(batch, loss.evaluate(batch).coefficients), 'a gradient pass needs no such mean');
  }
  t.match(await failureOf(() => loss.moments(batch, { cross: true })), refused('call.cross'));
  const moments = loss.moments(batch);
  t.throws(() => combineMoments([{ ...moments, cross: moments.chosen.error }]), /parts\[0\]\.cross to be left out/);
});

t.test('weights that are wrong, and values that they hide', async (t) => {
  const batch = largeBatch(rows, size, 'float32');
  const propagating = new PreferenceLoss({ ...options, nonFinite: 'propagate' });
  for (const bad of [-1, Number.NaN, Infinity]) {
    const weights = rejected.slice();
    weights[7] = bad;
    for (const given of [
      { chosen, rejected: weights },
      { chosen: weights, rejected: chosen },
    ]) {
      t.match(await failureOf(() => propagating.evaluate({ ...batch, elementWeights: given })), {
        code: 'ERR_SDPO_ELEMENT_WEIGHTS',
        message: /row 0/,
      });
    }
  }
  const zeros = chosen.slice().fill(0, 2 * size, 3 * size);
  t.match(await failureOf(() => loss.evaluate({ ...batch, elementWeights: { chosen, rejected: zeros } })), {
    code: 'ERR_SDPO_ELEMENT_WEIGHTS',
    message: /row 2/,
  });

  const throwing = new PreferenceLoss({ ...options, nonFinite: 'throw' });
  for (const branch of branches) {
    const spoilt = largeBatch(rows, size, 'float32');
    const hidden = branch === 'chosen' ? 8 : 1; // where its own weight is 0 and that of the other is not
    (spoilt[branch].target as Float32Array)[hidden] = Number.NaN;
    t.same(
      digests(throwing.evaluate({ ...spoilt, elementWeights })),
      digests(throwing.evaluate({ ...batch, elementWeights })),
    );
    const swapped = { chosen: rejected, rejected: chosen };
    t.match(await failureOf(() => throwing.evaluate({ ...spoilt, elementWeights: swapped })), {
      code: 'ERR_SDPO_NON_FINITE',
      row: 0,
      branch,
      tensor: 'target',
      element: hidden,
    });
  }
});

t.test('axes of size 1, masks and arguments by branch', async (t) => {
  const shape = [2, 3, 4];
  const tensor = (seed: number) =>
    Tensor.from(
      Float64Array.from({ length: 24 }, (_, i) => Math.sin(i + seed)),
      { shape, dtype: 'float64' },
    );
  const branch = (seed: number) => ({ policy: tensor(seed), reference: tensor(seed + 1), target: tensor(seed + 2) });
  const batch: Batch = { chosen: branch(1), rejected: branch(4) };
  const plain = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1.5 });
  const perChannel = Tensor.from([1, 2, 3], { shape: [1, 3, 1], dtype: 'float64' });
  const mask = Uint8Array.from({ length: 24 }, (_, i) => i % 2);
  const full = {
    chosen: Float64Array.from({ length: 12 }, (_, i) => 1 + Math.floor(i / 4)),
    rejected: Float64Array.from(mask),
  };
  const given = { chosen: perChannel, rejected: mask };
  t.equal(
    plain.evaluate({ ...batch, elementWeights: given }).loss,
    plain.evaluate({ ...batch, elementWeights: full }).loss,
  );
  const wrong = (weights: unknown, message: RegExp) =>
    t.throws(() => plain.evaluate({ ...batch, elementWeights: weights as ElementWeights }), { message }, `${message}`);
  wrong({ chosen: mask }, /elementWeights\.rejected to be a Float32Array/);
  wrong({ ...given, chosen: new Float32Array(5) }, /elementWeights\.chosen to be of 12 or 2 x 12 elements|length 5/);
  wrong({ ...given, rejected: [1, 2] }, /elementWeights\.rejected/);
  wrong({ ...given, both: mask }, /elementWeights.*chosen.*rejected/);
  const { coefficients } = plain.evaluate(batch);
  const elements = { chosen: [12, 12], rejected: [12, 0] };
  t.throws(() => plain.gradients(batch, coefficients, { elements }), /call\.elements\.rejected\[1\].*> 0/);
  t.throws(
    () => plain.gradients(batch, coefficients, { elements: { chosen: [12, 12] } as never }),
    /call\.elements\.rejected/,
  );
  t.throws(() => plain.gradients(batch, coefficients, { elements: { chosen: [12, 12], rejected: [1] } }), /length 1/);
});
