/** Behaviour exactly on every edge of the losses, just inside and just outside: mask, clip, hinge, ties, and transitions without a density ratio. */

import t, { type Test } from 'tap';
import { NoiseSchedule, PreferenceLoss } from '../../lib/index.js';
import { Comparison, float64Tolerance } from '../helpers/close.js';
import { dtypes } from '../helpers/dtypes.js';
import { evaluate } from '../helpers/evaluate.js';
import {
  type OracleBatch,
  type OracleOptions,
  objectives,
  oracle,
  type PerBranch,
  pairWeights,
} from '../oracle/oracle.js';

/** Errors that are powers of two, so that m = d² is exact in every dtype; one element per row. */
const error: PerBranch<number> = { chosen: 0.5, rejected: 0.25 };
const referenceError: PerBranch<number> = { chosen: 1.5, rejected: 0.75 };

/** One row of one element with the given log weights, exactly: ω = -λ / m is a division by a power of two. */
function rowWith(lambda: PerBranch<number>): OracleBatch {
  const branch = (name: 'chosen' | 'rejected') => ({
    policy: [error[name]],
    reference: [referenceError[name]],
    target: [0],
  });
  const omega = (name: 'chosen' | 'rejected') => [(0 - lambda[name]) / error[name] ** 2];
  return {
    timesteps: [500],
    chosen: branch('chosen'),
    rejected: branch('rejected'),
    transition: { omega: { chosen: omega('chosen'), rejected: omega('rejected') } },
  };
}

/** A log weight whose exponential has exactly this logarithm, so that a threshold can be put on it to the last bit. */
const edge = [-1 / 4, -1 / 8, -3 / 16, -5 / 16, -3 / 8].find(
  (lambda) => Math.log(Math.exp(lambda)) === lambda,
) as number;
const threshold = Math.exp(edge);

/** The neighbouring float64 towards zero (`+1`) or away from it (`-1`): one ulp of the negative number `value` up or down. */
function neighbour(value: number, direction: 1 | -1): number {
  const bits = new BigInt64Array(Float64Array.of(value).buffer);
  bits[0] -= BigInt(direction);
  return new Float64Array(bits.buffer)[0];
}

/** Far enough from the edge that the exponentials differ too, near enough that everything else is the same. */
const nudge = 2 ** -40;
const above = edge * (1 - nudge);
const below = edge * (1 + nudge);

t.test('an exact edge exists', (t) => {
  t.equal(Math.log(threshold), edge);
  t.ok(neighbour(edge, 1) > edge && neighbour(edge, -1) < edge);
  t.end();
});

for (const objective of ['dpo-cm', 'sdpo'] as const) {
  t.test(`${objective}: mask`, (t) => {
    const options: OracleOptions = { objective, beta: 2, maskThreshold: threshold, clipRange: [0.5, 1.5], klWeight: 0 };
    const cases: [string, number, number][] = [
      ['on the edge', edge, 1],
      ['one ulp above', neighbour(edge, 1), 1],
      ['one ulp below', neighbour(edge, -1), 0],
    ];
    for (const dtype of dtypes) {
      for (const [where, lambda, mask] of cases) {
        for (const [which, batch] of [
          ['chosen', rowWith({ chosen: lambda, rejected: edge / 2 })],
          ['rejected', rowWith({ chosen: edge / 2, rejected: lambda })],
          ['both', rowWith({ chosen: lambda, rejected: lambda })],
        ] as const) {
          const { rows, gradients, loss, metrics } = evaluate(batch, options, dtype);
          const label = `${dtype}, ${which} ${where}`;
          t.equal(rows.mask[0], mask, `${label}: mask`);
          t.equal(metrics.maskFraction, 1 - mask, `${label}: maskFraction`);
          t.equal(loss > 0, mask === 1, `${label}: loss`);
          for (const gradient of [gradients.chosen[0], gradients.rejected[0]]) {
            t.equal(gradient !== 0, mask === 1, `${label}: a removed row has the gradient 0, a kept one has not`);
          }
        }
      }
    }
    t.end();
  });

  t.test(`${objective}: mask threshold 0 keeps everything, 1 only a perfect policy`, (t) => {
    const far = rowWith({ chosen: -1e4, rejected: -Infinity });
    t.equal(evaluate(far, { objective, beta: 2, maskThreshold: 0 }).rows.mask[0], 1);
    const near = rowWith({ chosen: -Number.MIN_VALUE, rejected: 0 });
    t.equal(evaluate(near, { objective, beta: 2, maskThreshold: 1 }).rows.mask[0], 0, 'any error at all');
    const perfect = rowWith({ chosen: 0, rejected: 0 });
    t.equal(evaluate(perfect, { objective, beta: 2, maskThreshold: 1 }).rows.mask[0], 1, 'no error');
    t.end();
  });
}

t.test('sdpo: clip edges of each branch', (t) => {
  const lambda = { chosen: edge, rejected: edge };
  for (const branch of ['chosen', 'rejected'] as const) {
    for (const [bound, clipRange, outside, within] of [
      ['low', [threshold, 2], below, above],
      ['high', [threshold / 2, threshold], above, below],
    ] as const) {
      const other = branch === 'chosen' ? 'rejected' : 'chosen';
      // The other branch sits where its weight is surely free of the clip.
      const rest = { [other]: bound === 'low' ? edge / 2 : edge + Math.log(0.75) };
      const options: OracleOptions = { objective: 'sdpo', beta: 2, maskThreshold: 0, clipRange, weightGradient: true };
      const at = (value: number) => evaluate(rowWith({ ...lambda, ...rest, [branch]: value }), options);
      const [on, out, free] = [at(edge), at(outside), at(within)];
      const label = `${branch}, ${bound}`;
      sameGradient(t, `${label}: on the edge the derivative is the one outside`, on, out);
      differentGradient(t, `${label}: inside it is another`, on, free, branch);
      t.equal(on.metrics.clipFraction, 0, `${label}: a weight on the edge is not changed by the clip`);
      t.equal(out.metrics.clipFraction, 1 / 2, `${label}: outside one of the two weights is`);
      t.equal(free.metrics.clipFraction, 0, `${label}: inside none`);
      for (const [value, result] of [
        [edge, on],
        [outside, out],
        [within, free],
      ] as const) {
        agreesWithOracle(t, `${label} at ${value}`, rowWith({ ...lambda, ...rest, [branch]: value }), options, result);
      }
    }
  }
  t.end();
});

t.test('dpo-cm: clip edges of the pair weight', (t) => {
  for (const pairWeight of pairWeights) {
    const pair = (value: number) => {
      switch (pairWeight) {
        case 'geometric':
          return { chosen: value, rejected: value };
        case 'product':
          return { chosen: value / 2, rejected: value / 2 };
        case 'min':
          return { chosen: value, rejected: value / 2 };
        case 'max':
          return { chosen: value, rejected: value * 2 };
      }
    };
    for (const [bound, clipRange, outside, within] of [
      ['low', [threshold, 2], below, above],
      ['high', [threshold / 2, threshold], above, below],
    ] as const) {
      const options: OracleOptions = {
        objective: 'dpo-cm',
        beta: 2,
        maskThreshold: 0,
        clipRange,
        weightGradient: true,
        pairWeight,
      };
      const [on, out, free] = [edge, outside, within].map((value) => evaluate(rowWith(pair(value)), options));
      const label = `${pairWeight}, ${bound}`;
      sameGradient(t, `${label}: on the edge the derivative is the one outside`, on, out);
      differentGradient(t, `${label}: inside it is another`, on, free, 'chosen');
      t.same(
        [on, out, free].map(({ metrics }) => metrics.clipFraction),
        [0, 1, 0],
        `${label}: clipFraction`,
      );
      for (const [value, result] of [
        [edge, on],
        [outside, out],
        [within, free],
      ] as const) {
        agreesWithOracle(t, `${label} at ${value}`, rowWith(pair(value)), options, result);
      }
    }
  }
  t.end();
});

t.test('a weight of exactly 1 on a bound of exactly 1, by a stored transition', (t) => {
  // offset = ω m makes λ = 0 although the policy has an error, so that a gradient through the weight would show.
  const base = rowWith({ chosen: -0.5, rejected: -0.25 });
  const transition = {
    ...(base.transition as { omega: PerBranch<number[]> }),
    offsetChosen: [0.5],
    offsetRejected: [0.25],
  };
  const batch = { ...base, transition };
  for (const clipRange of [
    [1, 2],
    [0.5, 1],
  ] as const) {
    for (const objective of ['dpo-cm', 'sdpo'] as const) {
      const options: OracleOptions = { objective, beta: 2, maskThreshold: 1, clipRange };
      const held = evaluate(batch, { ...options, weightGradient: false });
      const through = evaluate(batch, { ...options, weightGradient: true });
      t.same([...through.rows.weightChosen, ...through.rows.weightRejected, ...through.rows.mask], [1, 1, 1]);
      sameGradient(t, `${objective} [${clipRange}]`, through, held);
      t.not(through.gradients.chosen[0], 0);
      const open = evaluate(batch, { ...options, clipRange: [0.5, 2], weightGradient: true });
      differentGradient(t, `${objective}: and with the bound away`, through, open, 'chosen');
    }
  }
  t.end();
});

t.test('hinge', (t) => {
  // ψ_c = -(β/2) (1/4 - 9/4) = β and ψ_r = 0, so that z = β.
  const batch: OracleBatch = {
    ...rowWith({ chosen: -0.1, rejected: -0.1 }),
    rejected: { policy: [0.25], reference: [0.25], target: [0] },
  };
  const options = (beta: number): OracleOptions => ({ objective: 'diffusion-dpo', beta, link: 'hinge' });
  const [on, before, after] = [1, 1 - Number.EPSILON, 1 + Number.EPSILON].map((beta) => evaluate(batch, options(beta)));
  t.equal(on.rows.logit[0], 1);
  t.same([on.loss, on.gradients.chosen[0], on.gradients.rejected[0]], [0, 0, 0], 'z = 1 has the derivative 0');
  t.equal(before.loss, Number.EPSILON);
  t.not(before.gradients.chosen[0], 0);
  t.not(before.gradients.rejected[0], 0);
  t.same([after.loss, after.gradients.chosen[0], after.gradients.rejected[0]], [0, 0, 0]);
  t.end();
});

t.test('a tie of min and max counts as chosen', (t) => {
  for (const pairWeight of ['min', 'max'] as const) {
    const options: OracleOptions = { objective: 'dpo-cm', beta: 2, maskThreshold: 0, clipRange: [0.1, 2], pairWeight };
    const at = (lambda: PerBranch<number>, weightGradient: boolean) =>
      evaluate(rowWith(lambda), { ...options, weightGradient });
    const tie = { chosen: edge, rejected: edge };
    const [held, through] = [at(tie, false), at(tie, true)];
    t.not(through.gradients.chosen[0], held.gradients.chosen[0], `${pairWeight}: the weight moves with chosen`);
    t.equal(through.gradients.rejected[0], held.gradients.rejected[0], `${pairWeight}: and not with rejected`);
    const other = pairWeight === 'min' ? below : above;
    const decided = { chosen: edge, rejected: other };
    t.equal(
      at(decided, true).gradients.chosen[0],
      at(decided, false).gradients.chosen[0],
      `${pairWeight}: rejected decides`,
    );
    t.not(at(decided, true).gradients.rejected[0], at(decided, false).gradients.rejected[0]);
    agreesWithOracle(t, pairWeight, rowWith(tie), { ...options, weightGradient: true }, through);
  }
  t.end();
});

t.test('transitions without a density ratio', (t) => {
  const batch = rowWith({ chosen: -Infinity, rejected: -Infinity });
  const perfect = { ...batch, chosen: { ...batch.chosen, policy: [0] } };
  for (const [which, rows] of [
    ['m > 0', batch],
    ['m = 0', perfect],
  ] as const) {
    for (const weightRatio of ['policy/data', 'policy/reference', 'reference/data'] as const) {
      for (const objective of ['dpo-cm', 'sdpo'] as const) {
        const label = `${objective} ${weightRatio}, ${which}`;
        const options: OracleOptions = { objective, beta: 2, clipRange: [0.5, 1.5], weightRatio, weightGradient: true };
        const masked = evaluate(rows, options);
        t.same(
          [...masked.rows.logWeightChosen, ...masked.rows.weightChosen, ...masked.rows.mask],
          [-Infinity, 0, 0],
          label,
        );
        t.ok(
          [masked.loss, ...masked.gradients.chosen, ...masked.gradients.rejected].every((x) => x === 0),
          `${label}: removed`,
        );
        const open = { ...options, maskThreshold: 0 };
        const result = evaluate(rows, open);
        t.equal(result.rows.mask[0], 1);
        agreesWithOracle(t, `${label}: mask off`, rows, open, result);
        sameGradient(
          t,
          `${label}: no gradient through the weight`,
          result,
          evaluate(rows, { ...open, weightGradient: false }),
        );
      }
    }
  }
  t.end();
});

t.test('elbo without a finite ω is removed for every objective, its anchors are not', (t) => {
  for (const objective of objectives) {
    for (const which of ['chosen', 'rejected', 'both'] as const) {
      const lambda = { chosen: -0.1, rejected: -0.1 };
      if (which !== 'rejected') lambda.chosen = -Infinity;
      if (which !== 'chosen') lambda.rejected = -Infinity;
      const options: OracleOptions = {
        objective,
        beta: 2,
        timestepWeighting: 'elbo',
        ...(objective !== 'diffusion-dpo' && { maskThreshold: 0 }),
      };
      const label = `${objective}, ${which}`;
      const plain = evaluate(rowWith(lambda), options);
      t.same([plain.loss, plain.rows.mask[0], plain.metrics.maskFraction], [0, 0, 1], label);
      t.ok(
        [...plain.gradients.chosen, ...plain.gradients.rejected].every((x) => x === 0),
        `${label}: gradient 0`,
      );
      t.ok(Number.isNaN(plain.rows.logit[0]), `${label}: there is no logit`);
      for (const scope of ['masked', 'all'] as const) {
        const anchored = { ...options, sftWeight: 0.5, sftScope: scope, klWeight: 0.125, klScope: scope };
        const result = evaluate(rowWith(lambda), anchored);
        t.ok(
          result.loss > 0 && result.gradients.chosen[0] !== 0 && result.gradients.rejected[0] !== 0,
          `${label}: anchors ${scope}`,
        );
        agreesWithOracle(t, `${label}: anchors ${scope}`, rowWith(lambda), anchored, result);
      }
    }
  }
  t.end();
});

t.test('last transitions and zero terminal SNR of real schedules', (t) => {
  const cog = NoiseSchedule.preset('cogvideox-2b', { inferenceSteps: 50 });
  t.equal(cog.signal(999), 0, 'zero terminal SNR');
  t.ok(Number.isFinite(cog.transition(999).omega), 'which v-prediction survives');
  t.equal(cog.transition(19).omega, Infinity, 'the last transition ends on clean data');
  t.ok(Number.isFinite(cog.transition(20).omega));
  const noise = NoiseSchedule.preset('cogvideox-2b', { inferenceSteps: 50, predictionType: 'epsilon' });
  t.equal(noise.transition(999).omega, Infinity, 'pure noise says nothing about x_0 to an epsilon model');
  const flow = NoiseSchedule.preset('wan2.1-1.3b', { inferenceSteps: 50 });
  t.equal(flow.transition(1).omega, Infinity);

  const branch = { policy: Float64Array.of(0.5, 0.5), reference: Float64Array.of(1, 1), target: Float64Array.of(0, 0) };
  for (const [schedule, timesteps] of [
    [cog, [19, 999]],
    [noise, [999, 500]],
    [flow, [1, 500]],
  ] as const) {
    for (const objective of objectives) {
      const loss = new PreferenceLoss({ objective, schedule, beta: 2, timestepWeighting: 'elbo' });
      const { rows, gradients } = loss.evaluate({ timesteps, chosen: branch, rejected: branch });
      t.equal(rows.mask[0], 0, 'removed');
      t.ok(Number.isFinite(rows.logit[1]), 'the other row has a logit');
      t.same([gradients.chosen[0], gradients.rejected[0]], [0, 0]);
    }
  }
  t.end();
});

type Result = ReturnType<typeof evaluate>;

/** Equal up to what a nudge of the log weight changes smoothly. */
function sameGradient(t: Test, label: string, left: Result, right: Result): void {
  const compared = new Comparison();
  const tolerance = { relative: 4 * nudge };
  compared.check('chosen', left.gradients.chosen, right.gradients.chosen, tolerance);
  compared.check('rejected', left.gradients.rejected, right.gradients.rejected, tolerance);
  compared.end(t, label);
}

function differentGradient(t: Test, label: string, left: Result, right: Result, branch: 'chosen' | 'rejected'): void {
  const [a, b] = [left.gradients[branch][0], right.gradients[branch][0]];
  t.ok(Math.abs(a - b) > Math.sqrt(nudge) * Math.abs(a), label, { a, b });
}

function agreesWithOracle(t: Test, label: string, batch: OracleBatch, options: OracleOptions, result: Result): void {
  const expected = oracle(batch, options);
  const compared = new Comparison();
  compared.check('loss', [result.loss], [expected.loss], float64Tolerance([expected.loss]));
  for (const branch of ['chosen', 'rejected'] as const) {
    compared.check(
      branch,
      result.gradients[branch],
      expected.gradients[branch],
      float64Tolerance(expected.gradients[branch]),
    );
  }
  compared.end(t, `${label}: the oracle agrees`);
}
