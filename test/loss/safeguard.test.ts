/** The safeguard on the rejected gradient: its factor per pair and per batch, what it leaves alone, and what it promises about a step. */

import t from 'tap';
import { OBJECTIVES, type Objective, PreferenceLoss } from '../../lib/index.js';
import { defaultBeta, randomBatch, uniformNumbers } from '../helpers/cases.js';
import { Comparison, float64Tolerance, largestError } from '../helpers/close.js';
import { type DType, epsilonOf, mapped } from '../helpers/dtypes.js';
import { evaluateWith } from '../helpers/evaluate.js';
import { check } from '../helpers/failures.js';
import type { OracleBatch } from '../oracle/oracle.js';
import { errorsOf, safeguardFactor } from '../oracle/score.js';

const branches = ['chosen', 'rejected'] as const;

/** Options under which `randomBatch` has kept and removed, clipped and free rows. */
function optionsOf(objective: Objective) {
  const weighted = objective === 'sdpo' || objective === 'dpo-cm';
  return {
    objective,
    beta: objective === 'dspo' ? 2 : defaultBeta,
    ...(weighted && { maskThreshold: 0.7, clipRange: [0.8, 0.95] as const, weightGradient: true }),
    ...(objective === 'mapo' && { mapoSteps: 8 }),
  };
}

/** A random batch whose rejected errors are partly those of the chosen branch, so that x has either sign and factors lie on both sides of 1. */
function correlated(rows: number, size: number, seed: number, dtype: DType = 'float64') {
  const batch = randomBatch({ rows, size, seed, dtype });
  const share = (i: number) => [1.5, -0.5, 0.2, 0.8, 3, 0][i % 6];
  const { policy, target } = batch.rejected;
  const { policy: winner, target: aim } = batch.chosen;
  batch.rejected.policy = mapped(policy, (u, at) => {
    const shared = share(Math.floor(at / size)) * (winner[at] - aim[at]);
    const value = target[at] + shared + 0.25 * (u - target[at]);
    return dtype === 'float64' ? value : Math.fround(value);
  });
  return batch;
}

for (const objective of OBJECTIVES) {
  t.test(`${objective}: scales the rejected gradient of each pair, and nothing else`, async (t) => {
    const seen = { whole: 0, reduced: 0 };
    const compared = new Comparison();
    for (const mu of [0, 0.6, 1]) {
      for (const [size, dtype] of [
        [3, 'float64'],
        [4097, 'float64'],
        [9000, 'float32'],
      ] as const) {
        const rows = 6;
        const uniform = uniformNumbers(size);
        const weights = Float64Array.from({ length: size }, () => Math.fround(uniform()));
        for (const elementWeights of [undefined, weights]) {
          const batch: OracleBatch = { ...correlated(rows, size, 1000 + size, dtype), elementWeights };
          const anchors = { sftWeight: 0.3, klWeight: 0.7, klScope: 'masked' as const };
          const off = new PreferenceLoss({ ...optionsOf(objective) });
          const plain = evaluateWith(off, batch, dtype);
          const anchored = evaluateWith(new PreferenceLoss({ ...optionsOf(objective), ...anchors }), batch, dtype);
          const guarded = new PreferenceLoss({ ...optionsOf(objective), ...anchors, safeguard: mu });
          const result = evaluateWith(guarded, batch, dtype);
          const label = `μ = ${mu}, D = ${size}, ${dtype}${elementWeights ? ', element weights' : ''}`;
          t.equal(result.loss, anchored.loss, `${label}: the loss is as it was`);
          t.same(result.rows, anchored.rows, `${label}: and every statistic`);
          t.same(result.metrics, anchored.metrics);
          const chosen = largestError(result.gradients.chosen, anchored.gradients.chosen);
          t.equal(chosen, 0, `${label}: and the chosen gradient`);
          const factors = Array.from({ length: rows }, (_, i) => {
            const { chosen, rejected } = errorsOf(batch, i, rows);
            return safeguardFactor(mu, chosen, rejected, elementWeights);
          });
          for (const factor of factors) factor < 1 ? seen.reduced++ : seen.whole++;
          const expected = anchored.gradients.rejected.map((value, at) => {
            const own = plain.gradients.rejected[at];
            return factors[Math.floor(at / size)] * own + (value - own);
          });
          // A running mean of D terms, and the gradients themselves, in the dtype.
          const allowed = Math.sqrt(size) * epsilonOf(dtype) * (dtype === 'float64' ? 1 : 4);
          compared.check(label, result.gradients.rejected, expected, {
            relative: Math.max(allowed, Number.EPSILON ** 0.75),
            absolute: mapped(
              plain.gradients.rejected,
              (own, at) => 4 * allowed * (Math.abs(own) + Math.abs(expected[at])),
            ),
          });
        }
      }
    }
    compared.end(t, 'rejected gradient');
    t.ok(seen.whole > 0 && seen.reduced > 0, 'the cases reach both', seen);
  });
}

t.test('the factor, case by case', async (t) => {
  const [d, mu] = [[1, -2, 3, 0.5], 0.5];
  const factorOf = (loser: number[], chosen = d, safeguard = mu) => {
    const branch = (error: number[]) => ({
      policy: Float64Array.from(error, (value) => 1 + value),
      reference: new Float64Array(4),
      target: new Float64Array(4).fill(1),
    });
    const batch = {
      timesteps: [1],
      transition: { omega: [1] },
      chosen: branch(chosen),
      rejected: branch(loser),
    };
    const base = { objective: 'diffusion-dpo', beta: 1 } as const;
    const [off, on] = [new PreferenceLoss(base), new PreferenceLoss({ ...base, safeguard })].map(
      (loss) => loss.evaluate(batch).coefficients.rejected.a[0],
    );
    return on / off;
  };
  const times = (factor: number) => d.map((value) => factor * value);
  t.equal(factorOf(times(-1)), 1, 'opposite errors: x < 0');
  t.equal(factorOf([2, 1, 0, 0]), 1, 'orthogonal errors: x = 0');
  t.equal(factorOf(times(0)), 1, 'no rejected error');
  t.equal(factorOf(times(2), times(0)), 1, 'no chosen error');
  t.equal(factorOf(times(1)), 0.5, 'equal errors: 1 - μ');
  t.equal(factorOf(times(2)), 0.25, 'twice the error: (1 - μ)/2');
  t.equal(factorOf(times(0.5)), 1, 'half the error: exactly 1');
  t.equal(factorOf(times(0.25)), 1, 'the bound: never above 1');
  t.equal(factorOf(times(1), d, 0), 1, 'μ = 0 and equal errors: exactly 1');
  t.equal(factorOf(times(1), d, 1), 0, 'μ = 1: none of it');
});

t.test('one factor for the batch, through the two passes', async (t) => {
  const rows = 6;
  const compared = new Comparison();
  for (const objective of OBJECTIVES) {
    for (const mu of [0, 0.6, 0.9]) {
      const batch = correlated(rows, 5, 1100);
      const loss = new PreferenceLoss({ ...optionsOf(objective), sftWeight: 0.3 });
      const { chosen, cross } = loss.moments(batch, { cross: true });
      const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0);
      const inner = total(cross as Float64Array);
      const factor = inner > 0 ? Math.min(1, ((1 - mu) * total(chosen.error)) / inner) : 1;

      // All winners against all losers of the batch as two long vectors.
      const pairs = Array.from({ length: rows }, (_, i) => errorsOf(batch, i, rows));
      const [winners, losers] = branches.map((branch) => pairs.flatMap((pair) => [...pair[branch]]));
      const naive = safeguardFactor(mu, winners, losers);
      t.ok(naive < 1, 'the case is one where it matters');
      compared.check(`${objective}: factor`, [factor], [naive], float64Tolerance([naive]));

      const { coefficients, gradients } = loss.evaluate(batch);
      const scaled = loss.gradients(batch, {
        chosen: coefficients.chosen,
        rejected: { a: coefficients.rejected.a.map((a) => a * factor), b: coefficients.rejected.b },
      });
      const expected = gradients.rejected.map((value) => naive * value);
      compared.check(`${objective}: rejected`, scaled.rejected, expected, float64Tolerance(expected));
      compared.check(`${objective}: chosen`, scaled.chosen, gradients.chosen, { relative: 0 });
    }
  }
  compared.end(t, 'factor and gradients');
});

// ---- What a step does to the winner's error, for a model whose two predictions share an additive parameter

/** Change of m_c of every row, to first order, in a step along minus the sum of the two gradients, per change by the chosen gradient alone. */
function shares(loss: PreferenceLoss, batch: OracleBatch, rows: number) {
  const { gradients } = evaluateWith(loss, batch);
  return Array.from({ length: rows }, (_, i) => {
    const { chosen: d } = errorsOf(batch, i, rows);
    const start = i * d.length;
    const along = (gradient: ArrayLike<number>) => d.reduce((sum, value, j) => sum - value * gradient[start + j], 0);
    return { total: along(gradients.chosen) + along(gradients.rejected), own: along(gradients.chosen) };
  });
}

const rounding = Number.EPSILON ** 0.75;

t.test('opposite coefficients: at least the share μ of the improvement is kept', async (t) => {
  const rows = 24;
  for (const objective of ['diffusion-dpo', 'dpo-cm', 'dmpo'] as const) {
    for (const sftWeight of [0, 0.5]) {
      const weighted = objective === 'dpo-cm' && { maskThreshold: 0, clipRange: [0.8, 0.95] as const };
      const options = { objective, beta: 1, sftWeight, ...weighted };
      const batch = correlated(rows, 5, 1200);
      const without = shares(new PreferenceLoss(options), batch, rows);
      const raised = without.some(({ total, own }) => own < 0 && total > 0);
      if (sftWeight === 0) t.ok(raised, `${objective}: without it some steps raise the winner's error`);
      for (const safeguard of [0, 0.4, 0.9, 1]) {
        const loss = new PreferenceLoss({ ...options, safeguard });
        const kept = shares(loss, batch, rows);
        const lowest = Math.min(...kept.map(({ total, own }) => total / own));
        t.ok(lowest >= safeguard - rounding, `${objective}, μ = ${safeguard}: ${lowest}`);
        if (sftWeight === 0)
          t.ok(lowest <= safeguard + rounding, 'and no more is taken from the rejected gradient than that');
      }
    }
  }
});

t.test('unequal coefficients: the share is bounded by their ratio', async (t) => {
  const rows = 24;
  for (const options of [
    { objective: 'sdpo', beta: 1, maskThreshold: 0, clipRange: [0.2, 0.95] },
    { objective: 'diffusion-dpo', beta: 1, timestepWeighting: 'elbo' },
    { objective: 'mapo', beta: 1, mapoSteps: 8 },
  ] as const) {
    const batch = correlated(rows, 5, 1300);
    batch.transition.omega.rejected = batch.transition.omega.rejected.map((omega, i) => omega * (i % 2 ? 0.3 : 2));
    for (const safeguard of [0, 0.6]) {
      const { coefficients } = new PreferenceLoss(options).evaluate(batch);
      const kept = shares(new PreferenceLoss({ ...options, safeguard }), batch, rows);
      for (const [i, { total, own }] of kept.entries()) {
        const bound = 1 - (1 - safeguard) * Math.abs(coefficients.rejected.a[i] / coefficients.chosen.a[i]);
        if (total / own < bound - rounding) t.fail(`${options.objective}, row ${i}: ${total / own} < ${bound}`);
      }
      t.pass(`${options.objective}, μ = ${safeguard}`);
    }
  }
});

t.test('a small step of the shared parameter lowers the winner error that it would have raised', async (t) => {
  const rows = 1;
  const batch = correlated(rows, 5, 1400); // the rejected error is 1.5 times the chosen one, and more
  const after = (options: { safeguard?: number }) => {
    const loss = new PreferenceLoss({ objective: 'diffusion-dpo', beta: 1, ...options });
    const { gradients, rows: before } = loss.evaluate(batch);
    const rate = 1e-3;
    const step = mapped(gradients.chosen, (g, j) => -rate * (g + gradients.rejected[j]));
    const move = (branch: (typeof branches)[number]) => ({
      ...batch[branch],
      policy: mapped(batch[branch].policy, (u, j) => u + step[j]),
    });
    const { rows: now } = loss.evaluate({ ...batch, chosen: move('chosen'), rejected: move('rejected') });
    return now.errorChosen[0] - before.errorChosen[0];
  };
  t.ok(after({}) > 0, 'without the safeguard it rises');
  t.ok(after({ safeguard: 0.1 }) < 0, 'with it, it falls');
});

check(
  'values out of range',
  [-0.1, 1.1, Number.NaN].map((safeguard) => [
    () => new PreferenceLoss({ objective: 'sdpo', beta: 1, safeguard }),
    'ARG_VALUE',
    'options.safeguard',
    String(safeguard),
  ]),
);
