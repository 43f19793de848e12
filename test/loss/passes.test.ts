/** The two passes by themselves, the options of a call, and what a batch may bring along in place of the schedule's scalars. */

import t from 'tap';
import {
  type Batch,
  type LatentArray,
  NoiseSchedule,
  PreferenceLoss,
  type Statistics,
  type Tensor,
} from '../../lib/index.js';
import { branches, digestOf, digests, type FullBatch, largeBatch, storedOf, tensors } from '../helpers/batches.js';
import { close, float64Tolerance } from '../helpers/close.js';
import { decode, dtypes, encode, smallestNormal } from '../helpers/dtypes.js';

const [rows, size] = [4, 37];
const options = { objective: 'sdpo', beta: 20, sftWeight: 0.3, klWeight: 0.5, klScope: 'masked' } as const;
const loss = new PreferenceLoss(options);

/** Weighted mean over the elements of a row, in plain sums. */
function rowMeans(value: (at: number) => number, weight: (at: number) => number = () => 1): Float64Array {
  return Float64Array.from({ length: rows }, (_, row) => {
    let [sum, total] = [0, 0];
    for (let at = row * size; at < (row + 1) * size; at++) {
      const e = weight(at);
      total += e;
      if (e !== 0) sum += e * value(at);
    }
    return sum / total;
  });
}

t.test('moments are the sums they are said to be', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const elementWeights = Float64Array.from({ length: rows * size }, (_, i) => (i % 4) / 3);
  for (const [name, weighted, weight] of [
    ['plain', batch, undefined],
    ['weighted', { ...batch, elementWeights }, (at: number) => elementWeights[at]],
  ] as const) {
    const moments = loss.moments(weighted, { cross: true });
    const error = { chosen: (_: number) => 0, rejected: (_: number) => 0 };
    for (const branch of branches) {
      const [u, reference, target] = tensors.map((tensor) => storedOf(batch[branch][tensor]));
      const d = (at: number) => u[at] - target[at];
      const h = (at: number) => u[at] - reference[at];
      error[branch] = d;
      const expected = {
        error: rowMeans((at) => d(at) ** 2, weight),
        delta: rowMeans((at) => d(at) ** 2 - (reference[at] - target[at]) ** 2, weight),
        drift: rowMeans((at) => h(at) ** 2, weight),
      };
      for (const moment of ['error', 'delta', 'drift'] as const) {
        close(
          t,
          `${name} ${branch} ${moment}`,
          moments[branch][moment],
          expected[moment],
          float64Tolerance(expected.error),
        );
      }
    }
    const cross = rowMeans((at) => error.chosen(at) * error.rejected(at), weight);
    close(t, `${name} cross`, moments.cross!, cross, float64Tolerance(moments.chosen.error));
  }
  t.notOk('cross' in loss.moments(batch), 'cross is there only where it was asked for');
});

t.test('moments of a cached reference error have no drift', async (t) => {
  const { chosen, ...rest } = largeBatch(rows, size, 'float64');
  const referenceError = [0.1, 0.2, 0.3, 0.4];
  const plain = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1 });
  const moments = plain.moments({ ...rest, chosen: { policy: chosen.policy, target: chosen.target, referenceError } });
  t.same(
    moments.chosen.delta,
    moments.chosen.error.map((m, i) => m - referenceError[i]),
  );
  t.ok(moments.chosen.drift.every(Number.isNaN));
  t.ok(moments.rejected.drift.every(Number.isFinite), 'the other branch has its reference tensor');
});

t.test('the two passes one after the other give what evaluate gives, bitwise', async (t) => {
  for (const dtype of dtypes) {
    const batch = largeBatch(rows, size, dtype);
    const whole = loss.evaluate(batch);
    const { coefficients, ...statistics } = loss.evaluate(batch, { gradients: false });
    const gradients = loss.gradients(batch, coefficients);
    const { chosen, rejected, ...rest } = digests(whole);
    t.match(digests(statistics as Statistics), rest, `${dtype}: statistics`);
    t.equal(digestOf(storedOf(gradients.chosen)), chosen, `${dtype}: chosen`);
    t.equal(digestOf(storedOf(gradients.rejected)), rejected, `${dtype}: rejected`);
    t.same(loss.moments(batch).chosen.error, whole.rows.errorChosen, `${dtype}: moments`);
  }
});

t.test('coefficients of a batch without a reference tensor give its gradient', async (t) => {
  const { chosen, rejected, ...rest } = largeBatch(rows, size, 'float64');
  const bare = ({ policy, target }: typeof chosen) => ({ policy, target });
  const cached = ({ policy, target }: typeof chosen) => ({ policy, target, referenceError: [0.1, 0.2, 0.3, 0.4] });
  for (const [objective, without] of [
    ['sdpo', cached],
    ['mapo', bare],
  ] as const) {
    const loss = new PreferenceLoss({ objective, beta: 2, maskThreshold: objective === 'sdpo' ? 0 : undefined });
    const batch = { ...rest, chosen: without(chosen), rejected: without(rejected) };
    const whole = loss.evaluate(batch);
    const gradients = loss.gradients(batch, whole.coefficients);
    for (const branch of branches) {
      t.equal(
        digestOf(storedOf(gradients[branch])),
        digestOf(storedOf(whole.gradients[branch])),
        `${objective} ${branch}`,
      );
    }
  }
});

t.test('gradients of coefficients of the caller', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const a = [1, 0, -2, 0.5];
  const b = [0, 3, 1, 0];
  const out = loss.gradients(batch, { chosen: { a, b }, rejected: { a } });
  const expected = (branch: 'chosen' | 'rejected', useB: boolean) => {
    const [u, reference, target] = tensors.map((tensor) => storedOf(batch[branch][tensor]));
    return Float64Array.from(u, (value, at) => {
      const row = Math.floor(at / size);
      return (2 / size) * (a[row] * (value - target[at]) + (useB ? b[row] * (value - reference[at]) : 0));
    });
  };
  for (const [branch, useB] of [
    ['chosen', true],
    ['rejected', false],
  ] as const) {
    const values = expected(branch, useB);
    close(t, branch, storedOf(out[branch]), values, float64Tolerance(values));
  }
  const { coefficients } = loss.evaluate(batch, { gradients: false });
  const doubled = (value: Float64Array) => value.map((x) => 2 * x);
  const scaled = loss.gradients(batch, {
    chosen: { a: doubled(coefficients.chosen.a), b: doubled(coefficients.chosen.b) },
    rejected: { a: doubled(coefficients.rejected.a), b: doubled(coefficients.rejected.b) },
  });
  t.same(
    scaled.chosen,
    doubled(loss.evaluate(batch).gradients.chosen as Float64Array),
    'twice the coefficients, twice the gradient',
  );
});

t.test('a row whose coefficients are 0 is written without being read', async (t) => {
  const batch = largeBatch(rows, size, 'float32');
  (batch.chosen.policy as Float32Array).fill(NaN, 0, size);
  const a = [0, 1, 1, 1];
  const gradient = loss.gradients(batch, { chosen: { a }, rejected: { a } }).chosen as Float32Array;
  t.ok(gradient.subarray(0, size).every((value) => Object.is(value, 0)));
  t.ok(gradient.subarray(size).every(Number.isFinite));
});

t.test('into writes the buffers of a result again and leaves nothing of it', async (t) => {
  for (const dtype of dtypes) {
    const first = largeBatch(rows, size, dtype);
    const second: FullBatch = { ...largeBatch(rows, size, dtype), chosen: first.rejected, rejected: first.chosen };
    const result = loss.evaluate(first);
    const { rows: columns, metrics, coefficients, gradients } = result;
    const again = loss.evaluate(second, { into: result });
    t.equal(again, result, `${dtype}: the same object`);
    t.equal(again.rows, columns);
    t.equal(again.metrics, metrics);
    t.equal(again.coefficients, coefficients);
    t.equal(again.gradients.chosen, gradients.chosen, 'the same arrays');
    t.same(digests(again), digests(loss.evaluate(second)), `${dtype}: nothing stale`);
    t.same(again.coefficients.chosen.a, loss.evaluate(second).coefficients.chosen.a);
  }
  const statistics = loss.evaluate(largeBatch(rows, size, 'float32'), { gradients: false });
  t.equal((statistics as { gradients?: unknown }).gradients, undefined);
  const full = loss.evaluate(largeBatch(rows, size, 'float32'), { into: statistics });
  t.same(
    digests(full),
    digests(loss.evaluate(largeBatch(rows, size, 'float32'))),
    'gradients are made where there were none',
  );
  const without = loss.evaluate(largeBatch(rows, size, 'float32'), { into: full, gradients: false });
  t.equal((without as { gradients?: unknown }).gradients, undefined, 'and are gone where none were asked for');
});

t.test('into overwrites removed rows and rows of an earlier NaN', async (t) => {
  const lenient = new PreferenceLoss({ ...options, nonFinite: 'propagate' });
  const bad = largeBatch(rows, size, 'float32');
  (bad.chosen.policy as Float32Array).fill(NaN);
  const result = lenient.evaluate(bad);
  t.ok(Number.isNaN(result.loss));
  const good = largeBatch(rows, size, 'float32');
  t.same(digests(lenient.evaluate(good, { into: result })), digests(lenient.evaluate(good)));
});

t.test('gradientScale multiplies before rounding, so that float16 gradients do not underflow', async (t) => {
  const batch = largeBatch(rows, 4096, 'float16');
  const gentle = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1e-3 });
  const scale = 2 ** 14;
  const plain = gentle.evaluate(batch);
  const scaled = gentle.evaluate(batch, { gradientScale: scale });
  const wide = Object.fromEntries(
    branches.map((branch) => [
      branch,
      Object.fromEntries(tensors.map((name) => [name, encode('float32', (batch[branch][name] as Tensor).toFloat64())])),
    ]),
  ) as unknown as Pick<FullBatch, 'chosen' | 'rejected'>;
  const exact = storedOf(gentle.evaluate({ ...batch, ...wide }, { gradientScale: scale }).gradients.chosen);
  const zeros = (value: LatentArray) => decode('float16', storedOf(value)).filter((x) => x === 0).length;
  const lost = Array.from(exact).filter((x) => Math.abs(x / scale) < smallestNormal('float16') * 2 ** -11).length;
  t.ok(lost > 0 && zeros(plain.gradients.chosen) >= lost, 'without it small entries become 0', { lost });
  t.equal(
    zeros(scaled.gradients.chosen),
    Array.from(exact).filter((x) => x === 0).length,
    'with it only true zeros are 0',
  );
  t.same(storedOf(scaled.gradients.chosen), encode('float16', exact), 'rounded once, after the multiplication');
  t.equal(scaled.loss, plain.loss, 'the loss is not scaled');
  t.same(
    scaled.coefficients.chosen.a,
    plain.coefficients.chosen.a.map((x) => x * scale),
    'the coefficients are',
  );
});

t.test('denominator takes the place of the number of rows', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const mean = loss.evaluate(batch);
  const sum = loss.evaluate(batch, { denominator: 1 });
  close(t, 'loss', [sum.loss], [mean.loss * rows], float64Tolerance([mean.loss * rows]));
  t.same(sum.rows, mean.rows, 'row statistics stay');
  t.same(
    sum.gradients.chosen,
    (mean.gradients.chosen as Float64Array).map((x) => x * rows),
    'a power of two is exact',
  );
  const none = loss.evaluate(
    {
      timesteps: [],
      chosen: { policy: new Float32Array(0), reference: new Float32Array(0), target: new Float32Array(0) },
      rejected: { policy: new Float32Array(0), reference: new Float32Array(0), target: new Float32Array(0) },
      transition: { omega: [] },
    },
    { denominator: 8 },
  );
  t.equal(none.loss, 0, 'a rank without rows adds nothing');
  t.equal(none.gradients.chosen.length, 0);
  t.equal(none.metrics.nonFiniteRows, 0);
});

t.test('maskThreshold of a call, as one number and per row', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const masks = (maskThreshold?: number | number[]) => Array.from(loss.evaluate(batch, { maskThreshold }).rows.mask);
  const { logWeightChosen, logWeightRejected } = loss.evaluate(batch).rows;
  const least = Array.from(logWeightChosen, (value, i) => Math.exp(Math.min(value, logWeightRejected[i])));
  t.same(masks(0), [1, 1, 1, 1], '0 switches the mask off');
  t.same(masks(1), [0, 0, 0, 0], 'at 1 only a weight of 1 is kept');
  t.same(
    masks(),
    least.map((w) => Number(w >= 0.9)),
    'without it the option counts',
  );
  const either = least.map((w, i) => (i % 2 === 0 ? w * 0.99 : w * 1.01));
  t.same(masks(either), [1, 0, 1, 0], 'per row, on either side of the weight');
  t.same(
    masks(),
    least.map((w) => Number(w >= 0.9)),
    'a call leaves nothing for the next',
  );
});

t.test('rowWeights multiply loss and gradient of a row', async (t) => {
  const batch = largeBatch(rows, size, 'float64');
  const one = loss.evaluate(batch);
  const weighted = loss.evaluate({ ...batch, rowWeights: [1, 0, 2, 4] });
  t.same(
    Array.from(weighted.rows.loss),
    [1, 0, 2, 4].map((w, i) => w * one.rows.loss[i]),
  );
  t.same(
    weighted.gradients.rejected,
    (one.gradients.rejected as Float64Array).map((x, at) => x * [1, 0, 2, 4][Math.floor(at / size)] + 0),
  );
});

t.test('branches can have their own timesteps and their own omega', async (t) => {
  const schedule = NoiseSchedule.preset('sd15');
  const scheduled = new PreferenceLoss({ objective: 'sdpo', beta: 20, schedule });
  const { transition: _, ...batch } = largeBatch(rows, size, 'float64');
  const [chosen, rejected] = [
    [800, 900, 700, 950],
    [850, 600, 999, 640],
  ];
  const omegas = (list: number[]) => list.map((timestep) => schedule.transition(timestep).omega);
  const byTimesteps = scheduled.evaluate({ ...batch, timesteps: { chosen, rejected } });
  const omega = { chosen: omegas(chosen), rejected: omegas(rejected) };
  t.same(
    digests(byTimesteps),
    digests(scheduled.evaluate({ ...batch, transition: { omega } })),
    'both ways give the same',
  );
  const rewritten: Batch = { ...batch, transition: { omega: omega.chosen } };
  t.same(
    digests(scheduled.evaluate({ ...batch, timesteps: chosen })),
    digests(scheduled.evaluate(rewritten)),
    'one list is for both branches',
  );
  const { rows: out } = byTimesteps;
  close(
    t,
    'log weights',
    out.logWeightChosen,
    out.errorChosen.map((m, i) => -omega.chosen[i] * m),
    float64Tolerance(out.logWeightChosen),
  );
  close(
    t,
    'of the other branch',
    out.logWeightRejected,
    out.errorRejected.map((m, i) => -omega.rejected[i] * m),
    float64Tolerance(out.logWeightRejected),
  );
});

t.test('offsets and sampled weights enter the log weight alone', async (t) => {
  const sharp = new PreferenceLoss({ objective: 'sdpo', beta: 20, weightSharpness: 3 });
  const batch = largeBatch(rows, size, 'float64');
  const omega = batch.transition!.omega as Float64Array;
  const plain = sharp.evaluate(batch);
  const offset = [0, 0.1, 0.2, -0.1];
  const xi = [0, 1, -2, 0.5];
  const out = sharp.evaluate({
    ...batch,
    transition: { omega, offsetChosen: offset },
    weightNoise: { chosen: [0, 0, 0, 0], rejected: xi },
  });
  const expectedChosen = plain.rows.errorChosen.map((m, i) => 3 * (offset[i] - omega[i] * m));
  const expectedRejected = plain.rows.errorRejected.map(
    (m, i) => 3 * (-omega[i] * m + Math.sqrt((2 * omega[i] * m) / size) * xi[i]),
  );
  close(t, 'offset', out.rows.logWeightChosen, expectedChosen, float64Tolerance(expectedChosen));
  close(t, 'noise', out.rows.logWeightRejected, expectedRejected, float64Tolerance(expectedRejected));
  for (const name of ['rewardChosen', 'rewardRejected', 'errorChosen', 'driftRejected'] as const) {
    t.same(out.rows[name], plain.rows[name], `${name} is as it was`);
  }
});

t.test('a batch without errors has logit 0 and the loss of a coin', async (t) => {
  const zeros = new Float64Array(rows * size);
  const side = { policy: zeros, reference: zeros, target: zeros };
  const batch = { timesteps: [0, 0, 0, 0], chosen: side, rejected: side, transition: { omega: [1, 1, Infinity, 0] } };
  const out = new PreferenceLoss({ objective: 'sdpo', beta: 20 }).evaluate(batch);
  t.same(Array.from(out.rows.mask), [1, 1, 0, 1], 'without a density ratio the row is removed, though its error is 0');
  t.same(Array.from(out.rows.loss), [Math.LN2, Math.LN2, 0, Math.LN2]);
  t.same(out.metrics.implicitAccuracy, 0.5, 'ties count one half');
});
