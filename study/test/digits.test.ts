/** The digits experiment as a study runs it: its own sources and controls, and that every declared arm runs. */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import type { Batch } from 'sdpo';
import type { TrainingRows } from 'sdpo/trainer';
import t from 'tap';
import { maskControl } from '../../examples/digits/controls.js';
import { CLASSES, PIXELS } from '../../examples/digits/data.js';
import { isPreferred } from '../../examples/digits/evaluation.js';
import experiment from '../../examples/digits/experiment.js';
import { classify, JUDGE_SHAPES } from '../../examples/digits/judge.js';
import { DENOISER_SHAPES } from '../../examples/digits/model.js';
import { ownSamplePairs } from '../../examples/digits/own-samples.js';
import { seedsOf } from '../../examples/digits/seeds.js';
import { loadWeights, WEIGHTS_FOLDER } from '../../examples/digits/weights.js';
import { RESULTS } from '../../scripts/study-docs.js';
import { planCells, readResults, readStudy, type StudyCell } from '../lib/index.js';

const folder = fileURLToPath(new URL('../../examples/digits/', import.meta.url));
const study = readStudy(`${folder}study.json`);
const small = readStudy(`${folder}study-small.json`);

t.test('the declarations', (t) => {
  const cells = planCells(study);
  t.equal(cells.length, 902, 'the grid that docs/study.md counts');
  t.match(readFileSync(new URL('../docs/study.md', import.meta.url), 'utf8'), 'declared');
  const known = new Map(cells.map((cell) => [cell.id, JSON.stringify(cell)]));
  for (const cell of planCells(small))
    t.equal(known.get(cell.id), JSON.stringify(cell), `${cell.id} is a cell of the study`);
  const { bases, otherModelSteps, ...rest } = small.options;
  t.match(study.options, rest);
  t.ok(
    planCells(small).every(({ seed }) => seed % (study.options.bases as number) === seed % (bases as number)),
    'on the same base',
  );
  t.equal(otherModelSteps, 0);
  for (const { sources } of study.groups) for (const source of sources) t.ok(source in experiment.sources, source);
  t.end();
});

t.test('controls of the mask', (t) => {
  const rows = 32;
  const timesteps = Float64Array.from({ length: rows }, (_, row) => (row * 389) % 1000);
  const mask = Float64Array.from(timesteps, (time, row) => (time > 300 && row % 3 > 0 ? 1 : 0));
  const weigh = (control: 'permuted' | 'random' | 'static', seed = 1, step = 3) => {
    const changed = maskControl(control, seed, 500)(
      {} as never,
      { timesteps, step } as TrainingRows,
      () => ({ rows: { mask } }) as never,
    ) as { batch: Batch; call: { maskThreshold: number } };
    t.equal(changed.call.maskThreshold, 0, 'the mask itself is off');
    return Array.from(changed.batch.rowWeights as Float64Array);
  };
  const sum = (values: ArrayLike<number>) => Array.from(values).reduce((total, value) => total + value, 0);
  t.same(
    weigh('static'),
    Array.from(timesteps, (time) => (time >= 500 ? 1 : 0)),
  );
  const order = Array.from(timesteps.keys()).sort((a, b) => timesteps[a] - timesteps[b]);
  const permuted = weigh('permuted');
  for (let first = 0; first < rows; first += 4) {
    const group = order.slice(first, first + 4);
    t.equal(
      sum(group.map((row) => permuted[row])),
      sum(group.map((row) => mask[row])),
      'as many of these neighbours are kept',
    );
  }
  t.notSame(permuted, Array.from(mask));
  t.equal(sum(weigh('random')), sum(mask));
  t.notSame(weigh('random'), permuted);
  t.same(weigh('permuted'), permuted, 'the same again');
  t.notSame(weigh('permuted', 1, 4), permuted, 'another step, another permutation');
  t.end();
});

t.test("a model's own samples", (t) => {
  const judge = loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES);
  const model = loadWeights(new URL('base.safetensors', WEIGHTS_FOLDER), DENOISER_SHAPES);
  const make = (seed: number) =>
    ownSamplePairs({ model, judge, images: 50, pairs: 40, seeds: seedsOf('training pairs', seed), swapped: 0.25 });
  const pairs = make(0);
  const rewards = (images: Float32Array) => {
    const probabilities = classify(judge, images);
    return Array.from({ length: pairs.count }, (_, row) => {
      let reward = 0;
      for (let digit = 0; digit < CLASSES; digit++)
        if (isPreferred(digit)) reward += probabilities[row * CLASSES + digit];
      return reward;
    });
  };
  const [chosen, rejected] = [rewards(pairs.chosen), rewards(pairs.rejected)];
  const wrong = chosen.map((reward, row) => reward < rejected[row]);
  t.ok(wrong.slice(0, 10).every(Boolean), 'a quarter is labelled the wrong way round');
  t.notOk(wrong.slice(10).some(Boolean), 'the rest is not');
  t.same(make(0), pairs);
  t.notSame(make(1).chosen, pairs.chosen);
  t.equal(pairs.chosen.length, 40 * PIXELS);
  t.end();
});

t.test(
  'a run again gives what the committed results say',
  { skip: !existsSync(RESULTS) && 'no results are committed' },
  async (t) => {
    const { runs, config } = readResults(RESULTS);
    const cell = planCells(small).find(({ arm, source, beta }) => arm === 'sdpo' && source === 'N1' && beta === 10)!;
    const committed = runs.find((run) => run.cell.id === cell.id)!;
    const signal = new AbortController().signal;
    // The bases other than the committed one are not needed for this cell.
    const context = {
      options: { ...config.options, bases: 1 },
      shared: t.testdir(),
      decidingMetric: 'good',
      signal,
      progress() {},
    };
    const { final, peak } = await experiment.run(cell, context);
    for (const [name, value, before] of [
      ['final', final.good, committed.final.good],
      ['peak', peak.metrics.good, committed.peak.metrics.good],
    ] as const) {
      // On the same machine they are equal; elsewhere sums may round otherwise, and a share of n samples has this standard error.
      const error = Math.sqrt((before * (1 - before)) / (config.options.reportingSamples as number));
      t.ok(Math.abs(value - before) <= 2 * error, `${name}: ${value}, ${before} in the results`);
    }
  },
);

t.test('every arm runs and measures what it says', async (t) => {
  const options = {
    ...study.options,
    steps: 2,
    evaluateEvery: 1,
    choosingSamples: 16,
    reportingSamples: 24,
    bases: 1,
    otherModelSteps: 2,
  };
  const progress: [number, number][] = [];
  const context = {
    options,
    shared: t.testdir(),
    decidingMetric: 'good',
    signal: new AbortController().signal,
    progress: (done: number, total: number) => void progress.push([done, total]),
  };
  await experiment.prepare(context);
  t.same(progress.at(-1), [2, 2], 'the weaker model was trained');
  const before = progress.length;
  await experiment.prepare(context);
  t.equal(progress.length, before, 'and is not trained again');
  const first = new Map<string, StudyCell>();
  for (const cell of planCells(study)) {
    if (!first.has(cell.arm)) first.set(cell.arm, cell);
    if (!first.has(cell.source)) first.set(cell.source, cell);
  }
  for (const cell of first.values()) {
    const run = await experiment.run(cell, context);
    t.same(
      run.trajectory.map(({ step }) => step),
      [0, 1, 2],
      cell.id,
    );
    t.equal(run.steps, 2);
    for (const metrics of [run.final, run.peak.metrics, ...run.trajectory.map(({ metrics }) => metrics)]) {
      t.same(Object.keys(metrics).sort(), Object.keys(experiment.metrics).sort());
      t.ok(Object.values(metrics).every((value) => value >= 0 && value <= 1));
    }
    t.equal(
      run.bins.rows.reduce((sum: number, rows) => sum + rows!, 0),
      64,
      'statistics of every row',
    );
    t.ok(run.samples.every((image) => image.length === PIXELS && image.every((value) => value >= 0 && value <= 255)));
  }
  const [cell] = first.values();
  const [one, again] = [await experiment.run(cell, context), await experiment.run(cell, context)];
  t.same({ ...one, seconds: 0 }, { ...again, seconds: 0 }, 'the same cell gives the same numbers');
  const calibrated = [...first.values()].find(({ arm }) => arm === 'sdpo')!;
  const { bins } = await experiment.run(calibrated, {
    ...context,
    options: { ...options, pairsPerStep: 256, steps: 1 },
  });
  const kept = bins.kept.reduce((sum: number, share, i) => sum + (share ?? 0) * bins.rows[i]!, 0) / 256;
  // Half of the rows are kept in expectation; four standard deviations of a mean of 256.
  t.ok(Math.abs(kept - 0.5) <= 4 * Math.sqrt(0.25 / 256), `a calibrated κ keeps half of the rows: ${kept}`);
  await t.rejects(experiment.run({ ...cell, settings: { control: 'other' } }, context), /control .* to be one of/);
  await t.rejects(experiment.run({ ...cell, settings: { speed: 1 } }, context), /settings of .* among/);
});
