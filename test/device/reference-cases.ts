/**
 * The golden cases on cuda:0 through the public API: targets made there, calls as every caller may make them, and the same bits from all of them.
 * Run by run.ts with the dtype as argument; it prints TAP.
 */

import t from 'tap';
import { PreferenceLoss, Tensor } from '../../lib/index.js';
import { Comparison, goldenTolerance, largest, roundingOf } from '../helpers/close.js';
import { type DType, encode, rounding } from '../helpers/dtypes.js';
import { scheduleOf } from '../helpers/evaluate.js';
import { type GoldenCase, goldenCases } from '../helpers/golden.js';
import { naiveStatistics, naiveTolerances } from '../oracle/naive.js';
import { oracle, statistics } from '../oracle/oracle.js';
import { transitionWeight } from '../oracle/schedule.js';

const device = 'cuda:0';
const dtype = process.argv[2] as DType;
const branches = ['chosen', 'rejected'] as const;

interface Numbers {
  loss: number;
  rows: Record<string, ArrayLike<number>>;
  gradients: Record<'chosen' | 'rejected', Float64Array>;
}

for (const golden of goldenCases) {
  const { name, schedule, options, size, batch } = golden;
  const compared = new Comparison();
  const noiseSchedule = scheduleOf(schedule);
  const rows = batch.timesteps.length;
  const owned: Tensor[] = [];
  const tensor = (values: number[]) => {
    const made = Tensor.from(encode(dtype, values), { shape: [rows, size], dtype }).to(device);
    owned.push(made);
    return made;
  };
  const branch = (b: GoldenCase['batch']['chosen']) => ({
    policy: tensor(b.policy),
    reference: tensor(b.reference),
    target: tensor(b.target),
  });
  const given = { timesteps: batch.timesteps, chosen: branch(batch.chosen), rejected: branch(batch.rejected) };

  if (dtype === 'float64') {
    for (const which of branches) {
      const { x0, noise, target } = batch[which];
      const made = noiseSchedule.target(tensor(x0), tensor(noise), batch.timesteps);
      const absolute = Number.EPSILON * largest(noise);
      compared.check(`target ${which}`, made.toFloat64(), target, { relative: goldenTolerance, absolute });
      owned.push(made);
    }
  }

  const loss = new PreferenceLoss({ ...options, schedule: noiseSchedule });
  const first = loss.evaluate(given);
  const result = numbersOf(first, first.gradients);
  if (dtype === 'float64') againstFile(golden, result, compared);
  else againstOracle(golden, result, compared);

  // Every other way has the bits of the first.
  const same = (what: string, other: Numbers) => {
    const exact = { relative: 0 };
    compared.check(`${what}: loss`, [other.loss], [result.loss], exact);
    for (const statistic of statistics) {
      compared.check(`${what}: ${statistic}`, other.rows[statistic], result.rows[statistic], exact);
    }
    for (const which of branches) {
      compared.check(`${what}: gradient ${which}`, other.gradients[which], result.gradients[which], exact);
    }
  };
  const later = await loss.evaluateAsync(given);
  same('a promise', numbersOf(later, later.gradients));
  const swapped = loss.evaluate({ ...given, chosen: given.rejected, rejected: given.chosen });
  const into = loss.evaluate(given, { into: swapped });
  same('into an earlier result', numbersOf(into, into.gradients));
  const lazy = new PreferenceLoss({ ...options, schedule: noiseSchedule, nonFinite: 'propagate' });
  const there = lazy.evaluate(given, { results: 'device' });
  same('results on the device', numbersOf(there.toHost(), there.gradients));
  const gradients = lazy.gradients(given, there.coefficients);
  same('gradients by themselves', numbersOf(there.toHost(), gradients));
  compared.end(t, name);
  for (const { chosen, rejected } of [
    first.gradients,
    later.gradients,
    swapped.gradients,
    there.gradients,
    gradients,
  ]) {
    owned.push(chosen, rejected);
  }
  there.dispose();
  for (const made of owned) made.dispose();
}

function numbersOf(
  { loss, rows }: { loss: number; rows: object },
  gradients: Record<'chosen' | 'rejected', Tensor>,
): Numbers {
  return {
    loss,
    // A copy: the arrays of a result are written again by the next call into it.
    rows: structuredClone(rows) as Numbers['rows'],
    gradients: { chosen: gradients.chosen.toFloat64(), rejected: gradients.rejected.toFloat64() },
  };
}

/** As on the CPU (test/loss/golden.test.ts). */
function againstFile({ size, expected }: GoldenCase, result: Numbers, compared: Comparison): void {
  const allowed = (values: ArrayLike<number>) => ({
    relative: goldenTolerance,
    absolute: size * Number.EPSILON * largest(values),
  });
  compared.check('loss', [result.loss], [expected.loss], { relative: goldenTolerance });
  for (const statistic of statistics) {
    compared.check(statistic, result.rows[statistic], expected.rows[statistic], allowed(expected.rows[statistic]));
  }
  for (const which of branches) {
    compared.check(which, result.gradients[which], expected.gradients[which], allowed(expected.gradients[which]));
  }
}

/** Float32: at most twice the error of the naive formula, as on the CPU. */
function againstOracle({ schedule, options, batch }: GoldenCase, result: Numbers, compared: Comparison): void {
  const round = rounding(dtype);
  const branch = (which: 'chosen' | 'rejected') => ({
    policy: batch[which].policy.map(round),
    reference: batch[which].reference.map(round),
    target: batch[which].target.map(round),
  });
  const rounded = { timesteps: batch.timesteps, chosen: branch('chosen'), rejected: branch('rejected') };
  const exact = oracle(rounded, { ...options, schedule });
  const omega = batch.timesteps.map((timestep) => transitionWeight(schedule, timestep));
  const allowed = naiveTolerances(
    { ...rounded, transition: { omega: { chosen: omega, rejected: omega } } },
    options,
    dtype,
  );
  compared.check('loss', [result.loss], [exact.loss], allowed.loss);
  compared.check('mask', result.rows.mask, exact.rows.mask, { relative: 0 });
  for (const statistic of naiveStatistics) {
    compared.check(statistic, result.rows[statistic], exact.rows[statistic], allowed.rows[statistic]);
  }
  for (const which of branches) {
    const { absolute } = allowed.gradients[which];
    compared.check(which, result.gradients[which], exact.gradients[which], {
      relative: roundingOf(dtype).relative,
      absolute,
    });
  }
}
