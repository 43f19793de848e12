/** The package against the golden cases: every row statistic and both gradients, in float64 and in float32. */

import t from 'tap';
import { Comparison, goldenTolerance, largest, roundingOf } from '../helpers/close.js';
import { rounding } from '../helpers/dtypes.js';
import { evaluate, scheduleOf } from '../helpers/evaluate.js';
import { type GoldenCase, goldenCases } from '../helpers/golden.js';
import { naiveStatistics, naiveTolerances } from '../oracle/naive.js';
import { oracle, statistics } from '../oracle/oracle.js';
import { levelAt, transitionWeight } from '../oracle/schedule.js';

t.test('float64', (t) => {
  for (const { name, schedule, size, options, batch, expected } of goldenCases) {
    const result = evaluate(withoutSources(batch), { ...options, schedule });
    const compared = new Comparison();
    // Where the exact value is 0 (a policy that equals the target) the files hold rounding residue of numbers of unit size.
    const allowed = (values: ArrayLike<number>) => ({
      relative: goldenTolerance,
      absolute: size * Number.EPSILON * largest(values),
    });
    compared.check('loss', [result.loss], [expected.loss], { relative: goldenTolerance });
    for (const statistic of statistics) {
      compared.check(statistic, result.rows[statistic], expected.rows[statistic], allowed(expected.rows[statistic]));
    }
    for (const branch of ['chosen', 'rejected'] as const) {
      compared.check(branch, result.gradients[branch], expected.gradients[branch], allowed(expected.gradients[branch]));
    }
    compared.end(t, name);
  }
  t.end();
});

t.test('float32: at most twice the error of the naive formula', (t) => {
  for (const { name, schedule, options, batch } of goldenCases) {
    const single = roundedBatch(batch);
    const withSchedule = { ...options, schedule };
    const result = evaluate(single, withSchedule, 'float32');
    const exact = oracle(single, withSchedule);
    const omega = batch.timesteps.map((timestep) => transitionWeight(schedule, timestep));
    const allowed = naiveTolerances(
      { ...single, transition: { omega: { chosen: omega, rejected: omega } } },
      options,
      'float32',
    );
    const compared = new Comparison();
    compared.check('loss', [result.loss], [exact.loss], allowed.loss);
    compared.check('mask', result.rows.mask, exact.rows.mask, { relative: 0 });
    for (const statistic of naiveStatistics) {
      compared.check(statistic, result.rows[statistic], exact.rows[statistic], allowed.rows[statistic]);
    }
    for (const branch of ['chosen', 'rejected'] as const) {
      const { absolute } = allowed.gradients[branch];
      const { relative } = roundingOf('float32');
      compared.check(branch, result.gradients[branch], exact.gradients[branch], { relative, absolute });
    }
    compared.end(t, name);
  }
  t.end();
});

t.test('the schedules: targets and noised samples of the golden cases', (t) => {
  for (const { name, schedule, size, batch } of goldenCases) {
    const noiseSchedule = scheduleOf(schedule);
    const compared = new Comparison();
    for (const branch of ['chosen', 'rejected'] as const) {
      const [x0, noise] = [Float64Array.from(batch[branch].x0), Float64Array.from(batch[branch].noise)];
      const allowed = { relative: goldenTolerance, absolute: Number.EPSILON * largest(noise) };
      compared.check(
        `target ${branch}`,
        noiseSchedule.target(x0, noise, batch.timesteps),
        batch[branch].target,
        allowed,
      );
      const noised = x0.map((value, at) => {
        const { signal, sigma } = levelAt(schedule.config, batch.timesteps[Math.floor(at / size)]);
        return signal * value + sigma * noise[at];
      });
      compared.check(`noised ${branch}`, noiseSchedule.addNoise(x0, noise, batch.timesteps), noised, allowed);
    }
    compared.end(t, name);
  }
  t.end();
});

/** The batch as a caller passes it: x_0 and noise are not part of it. */
function withoutSources(batch: GoldenCase['batch'], round = (value: number) => value) {
  const branch = (name: 'chosen' | 'rejected') => ({
    policy: batch[name].policy.map(round),
    reference: batch[name].reference.map(round),
    target: batch[name].target.map(round),
  });
  return { timesteps: batch.timesteps, chosen: branch('chosen'), rejected: branch('rejected') };
}

function roundedBatch(batch: GoldenCase['batch']) {
  return withoutSources(batch, rounding('float32'));
}
