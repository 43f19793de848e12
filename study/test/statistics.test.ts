/** Intervals against values known otherwise, and what the runs of a study answer. */

import t from 'tap';
import { CellTable, choosingValues, pairedDifferences, valuesOf } from '../lib/cells.js';
import { acrossSources, answerQuestions, bestOfBudget, type StudyResults, type StudyRun } from '../lib/index.js';
import { formatNumber } from '../lib/report/format.js';
import { meanInterval, pairedDifference, studentQuantile } from '../lib/statistics.js';
import { config, EFFECTS, inventedResults } from './fixture.js';

const cell = (...differences: number[]) => new Map(differences.map((value, i) => [`${i}`, value]));

t.test("Student's quantiles are those of the printed tables", async (t) => {
  const table = { 1: '12.706', 2: '4.303', 3: '3.182', 4: '2.776', 5: '2.571', 9: '2.262', 30: '2.042', 120: '1.980' };
  for (const [degrees, printed] of Object.entries(table)) t.equal(studentQuantile(Number(degrees)).toFixed(3), printed);
});

t.test('the interval of a mean', async (t) => {
  // Two values make means of 0, ½ and 1 with probabilities ¼, ½ and ¼: both percentiles are in the tails.
  t.same(meanInterval([0, 1]), { mean: 0.5, low: 0, high: 1, count: 2 });
  t.same(meanInterval([0.3, 0.3, 0.3].map(() => 0.5)), { mean: 0.5, low: 0.5, high: 0.5, count: 3 });
  t.same(meanInterval([7]), { mean: 7, low: Number.NaN, high: Number.NaN, count: 1 });
  t.same(meanInterval([1, Number.NaN, 3]), meanInterval([1, 3]), 'what is not a number is left out and not counted');
  t.match(meanInterval([]), { mean: Number.NaN, count: 0 });
  const values = Array.from({ length: 40 }, (_, i) => i);
  const { mean, low, high } = meanInterval(values);
  t.equal(mean, 19.5);
  t.ok(low > 0 && low < mean && mean < high && high < 39);
  meanInterval([5, 6, 7]);
  t.same(meanInterval(values), { mean, low, high, count: 40 }, 'the same whatever was asked before');
});

t.test('paired differences resample whole replicates and weigh cells alike', async (t) => {
  const opposite = pairedDifference([cell(1, -1, 2), cell(-1, 1, -2)]);
  t.match(opposite, { mean: 0, low: 0, high: 0, count: 3, pairs: 6, verdict: 'undecided' });
  const uneven = pairedDifference([cell(1, 1), new Map([['0', 3]])]);
  t.match(uneven, { mean: 2, count: 2, pairs: 3, verdict: 'better' });
  t.same(uneven.student, { low: Number.NaN, high: Number.NaN }, 'one complete replicate has no spread');
  t.equal(uneven.confirmed, false);
  t.match(pairedDifference([cell(), cell(1, 2)]), { mean: 1.5, count: 2, pairs: 2 }, 'a cell without runs is no 0');
});

t.test('verdicts', async (t) => {
  t.match(pairedDifference([cell(1, 1.1, 0.9, 1)]), { verdict: 'better', confirmed: true });
  t.match(pairedDifference([cell(-1, -1.1, -0.9, -1)]), { verdict: 'worse', confirmed: true });
  t.match(pairedDifference([cell(-1, 1, 0.5)]), { verdict: 'undecided', confirmed: true });
  // All positive, so every resampled mean is; but three numbers that differ so much say little.
  t.match(pairedDifference([cell(0.2, 0.3, 1.5)]), { verdict: 'better', confirmed: false });
  t.match(pairedDifference([cell(1)]), { verdict: 'undecided', mean: 1 }, 'one replicate decides nothing');
  t.match(pairedDifference([]), { verdict: 'no data', count: 0, pairs: 0 });
  t.match(pairedDifference([cell()]), { verdict: 'no data' });
});

t.test('cells hold the replicates of one arm, source, β and condition', async (t) => {
  const results = inventedResults();
  const table = new CellTable(results);
  const plain = table.get('N1', 3, 'dpo');
  const slow = table.get('N1', 3, 'dpo', 'learningRateFactor 0.333');
  t.same([...plain!.runs.keys()], ['0', '1', '2', '3', '4']);
  t.same([...slow!.runs.keys()], ['0', '1', '2']);
  t.equal(table.get('N1', 3, 'dpo', 'other'), undefined);
  t.equal(
    table.all.reduce((sum, { runs }) => sum + runs.size, 0),
    results.runs.length,
  );
  t.same([...pairedDifferences(slow, plain, 'good', 'final').keys()], ['0', '1', '2'], 'only what both have');
  t.same([...pairedDifferences(slow, undefined, 'good', 'final').keys()], []);
  const [run] = plain!.runs.values();
  t.equal(valuesOf(plain!, 'good', 'final')[0], run.final.good);
  t.equal(valuesOf(plain!, 'good', 'peak')[0], run.peak.metrics.good);
});

t.test('a base that the settings name is a replicate, not a condition', async (t) => {
  const results = inventedResults();
  const settings = { base: 'other' };
  const group = { ...config.groups[0], name: 'second base', settings };
  const more = results.runs
    .filter(({ cell }) => cell.source === 'N1' && cell.arm === 'dpo' && Object.keys(cell.settings).length === 0)
    .map((run): StudyRun => ({ ...run, cell: { ...run.cell, id: `${run.cell.id}_other`, settings } }));
  const extended = {
    ...results,
    config: { ...config, groups: [...config.groups, group] },
    runs: [...results.runs, ...more],
  };
  t.equal(new CellTable(extended).get('N1', 3, 'dpo')?.runs.size, 10);
});

t.test('answers find the effects that the results were made with', async (t) => {
  const answers = answerQuestions(inventedResults());
  const [sdpo, same, anchor, harm, missing, random] = answers;
  t.match(sdpo.overall.final, { verdict: 'better', confirmed: true, count: 5, pairs: 20 });
  t.match(same.overall, { final: { verdict: 'undecided' }, peak: { verdict: 'undecided' } });
  t.match(anchor.overall.final, { verdict: 'worse', confirmed: true, pairs: 40 });
  const expected = EFFECTS.sdpo - EFFECTS['dpo-kl'];
  t.ok(anchor.overall.final.low < expected && expected < anchor.overall.final.high);
  t.match(harm.bySource, [{ source: 'C', peak: { verdict: 'worse' } }]);
  t.match(missing, { overall: { final: { verdict: 'no data' } }, cells: { found: 0, asked: 1 } });
  t.match(random, { overall: { final: { verdict: 'worse' } }, cells: { found: 2, asked: 2 } });
});

/** Results whose SDPO runs at β = 3 on N1 shine on the choosing samples only. */
function flattered(): StudyResults {
  const results = inventedResults();
  const isChanged = ({ cell }: StudyRun) =>
    cell.arm === 'sdpo' && cell.source === 'N1' && cell.beta === 3 && Object.keys(cell.settings).length === 0;
  const changed = (run: StudyRun): StudyRun => ({
    ...run,
    trajectory: run.trajectory.map((point) => ({ ...point, metrics: { ...point.metrics, good: 2 } })),
    final: { ...run.final, good: 0.1 },
    peak: { step: 100, metrics: { ...run.peak.metrics, good: 0.2 } },
  });
  return { ...results, runs: results.runs.map((run) => (isChanged(run) ? changed(run) : run)) };
}

t.test('the best of the grid is chosen on one sample set and measured on the other', async (t) => {
  const best = bestOfBudget(flattered());
  const of = (source: string, family: string, moment: string) =>
    best.find((entry) => entry.source === source && entry.family === family && entry.moment === moment);
  t.match(of('N1', 'sdpo', 'final'), { beta: 3, condition: '', tried: 8, value: { mean: 0.1 } });
  t.match(of('N1', 'sdpo', 'peak'), { beta: 3, value: { mean: 0.2 }, rival: { difference: { verdict: 'worse' } } });
  t.match(of('N1', 'dpo', 'final'), { tried: 8, rival: undefined });
  // Nobody gave C&M other learning rates, so the baseline is not given them in that comparison.
  t.match(of('N1', 'dpo-cm', 'final'), { tried: 4, rival: { tried: 4, condition: '' } });
  t.match(of('N1', 'dpo-kl', 'final'), { tried: 8, rival: { tried: 4 } }, 'a family of two arms, and it says so');
  t.equal(of('N1', 'mask-only', 'final'), undefined, 'one β is not the grid');
  t.match(of('C', 'sdpo', 'final'), { tried: 2, rival: { difference: { count: 3 } } });
});

t.test('settings over all sources weigh each source alike', async (t) => {
  const results = inventedResults();
  const { sources, settings } = acrossSources(results);
  t.same(sources, ['N1', 'on-policy', 'C']);
  const names = settings.map(({ arm, beta }) => `${arm} ${beta}`);
  t.same(
    [...names].sort(),
    ['dpo 10', 'dpo 100', 'dpo-cm 10', 'dpo-cm 100', 'sdpo 10', 'sdpo 100'],
    'what all sources have',
  );
  const table = new CellTable(results);
  const meanOn = (source: string) => meanInterval(valuesOf(table.get(source, 10, 'dpo')!, 'good', 'final')).mean;
  const dpo = settings.find(({ arm, beta }) => arm === 'dpo' && beta === 10)!;
  t.equal(formatNumber(dpo.final.mean), formatNumber(sources.reduce((sum, source) => sum + meanOn(source), 0) / 3));
  t.match(settings[0].difference, { mean: 0, verdict: 'undecided' }, 'the first against itself');
  t.match(dpo.difference, { verdict: 'worse', count: 5, pairs: 13 });
});

t.test('what is chosen by is the choosing set, without the base', async (t) => {
  const run = (good: readonly number[]): StudyRun => {
    const [any] = inventedResults().runs;
    return { ...any, trajectory: good.map((value, step) => ({ step, metrics: { good: value } })) };
  };
  const { runs: _, ...any } = new CellTable(inventedResults()).all[0];
  const cell = { ...any, runs: new Map([['0', run([0.9, 0.2, 0.5, 0.3])]]) };
  t.same(choosingValues(cell, 'good', 'final'), [0.3]);
  t.same(choosingValues(cell, 'good', 'peak'), [0.5]);
});
