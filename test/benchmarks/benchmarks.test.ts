/** Benchmarks: committed results match the documents made from them, and the statistics and comparisons behind them can tell slower from noise. */

import { spawnSync } from 'node:child_process';
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { type Case, caseId, casesOf, compulsoryBytes } from '../../benchmarks/cases.js';
import { traffic } from '../../benchmarks/ceilings.js';
import { compare } from '../../benchmarks/compare.js';
import { Arena, judge, makeBatch } from '../../benchmarks/data.js';
import { plots } from '../../benchmarks/plots.js';
import { details, summary } from '../../benchmarks/report-tables.js';
import { emptyResults, type Measurement, type Results, readResults, writeResults } from '../../benchmarks/results.js';
import { medianInterval, pairedRatios, summarize } from '../../benchmarks/statistics.js';
import { sharesOf } from '../../benchmarks/tables.js';
import { uniformNumbers } from '../helpers/cases.js';

const root = fileURLToPath(new URL('../..', import.meta.url));

t.test('the documents and plots are what the committed results say', (t) => {
  const { status, stderr } = spawnSync(process.execPath, ['--import', 'tsx', 'benchmarks/report.ts', '--check'], {
    cwd: root,
    encoding: 'utf8',
  });
  t.equal(status, 0, stderr);
  t.end();
});

t.test('cases have names of their own and the bytes of their tensors', (t) => {
  for (const quick of [true, false]) {
    const cases = casesOf(quick);
    t.equal(new Set(cases.map(caseId)).size, cases.length);
  }
  const c = { rows: 2, size: 100, dtype: 'bfloat16', gradients: true } as const;
  t.equal(compulsoryBytes(c), 2 * (3 + 1) * 2 * 100 * 2, 'three reads and a write of both branches');
  t.equal(compulsoryBytes({ ...c, gradients: false }), 2 * 3 * 2 * 100 * 2);
  t.end();
});

const small: Case = {
  group: 'peers',
  shape: 'D',
  rows: 4,
  size: 12000,
  dtype: 'float32',
  objective: 'sdpo',
  gradients: true,
  participants: [],
};

t.test('validation accepts the exact result of all rows and refuses one wrong element or row', (t) => {
  const batch = makeBatch(small, new Arena());
  const { content } = batch;
  t.ok(content.period < small.size && content.distinct < small.rows, 'the case repeats elements and rows');
  const scale = (content.period * content.distinct) / (small.size * small.rows);
  const gradient = (name: 'chosen' | 'rejected') =>
    Float32Array.from({ length: small.rows * small.size }, (_, i) => {
      const row = Math.floor(i / small.size) % content.distinct;
      return scale * content.expected.gradients[name][row * content.period + ((i % small.size) % content.period)];
    });
  const exact = {
    loss: content.expected.loss,
    gradients: { chosen: gradient('chosen'), rejected: gradient('rejected') },
  };
  const verdict = judge(batch, exact, 1);
  t.ok(verdict.loss <= 1 && verdict.gradient <= 1, 'exact', verdict);
  t.ok(judge(batch, { ...exact, loss: exact.loss * 1.001 }, 1).loss > 1, 'another loss');
  exact.gradients.rejected[exact.gradients.rejected.length - 1] *= 1.001;
  t.ok(judge(batch, exact, 1).gradient > 1, 'another last element');
  exact.gradients.rejected[exact.gradients.rejected.length - 1] = Number.NaN;
  t.equal(judge(batch, exact, 1).gradient, Infinity, 'NaN');
  t.end();
});

t.test('the interval of a median holds it as often as it says', (t) => {
  const uniform = uniformNumbers(7);
  const draws = 2000;
  for (const count of [7, 11, 31]) {
    let inside = 0;
    let confidence = 0;
    for (let i = 0; i < draws; i++) {
      const values = Array.from({ length: count }, () => uniform() ** 3);
      const interval = medianInterval(values);
      if (interval.low <= 0.125 && interval.high >= 0.125) inside++;
      confidence = interval.confidence;
    }
    const deviation = Math.sqrt((confidence * (1 - confidence)) / draws);
    t.ok(Math.abs(inside / draws - confidence) < 4 * deviation, `${count} values`, { inside, draws, confidence });
  }
  t.same(
    medianInterval([3, 1, 2]),
    { low: 1, median: 2, high: 3, confidence: 0.75 },
    'too few values for the confidence',
  );
  t.same(summarize([1, 2, 3, 4, 5]), { count: 5, median: 3, spread: 2 / 3 });
  t.same(pairedRatios([2, null, 9, 8], [1, 5, 3]), [2, 3], 'rounds that both took part in');
  t.end();
});

/** Results as a run would leave them: `slowness` multiplies the package's times, `drift` everything. */
function invented(seed: number, { slowness = 1, drift = 1 } = {}): Results {
  const uniform = uniformNumbers(seed);
  const machine = {
    processor: 'processor',
    cores: 2,
    memoryBytes: 2 ** 34,
    system: 'Linux',
    instructionSet: 'avx2',
    versions: {},
  };
  const results = emptyResults(machine, false, 0);
  const { participants: _, ...plain } = small;
  for (const group of ['peers', 'shapes', 'calls', 'size'] as const) {
    const c = { ...plain, group };
    const rounds = Array.from({ length: 21 }, () => drift * (1 + 0.2 * uniform()));
    const add = (provider: string, kind: Measurement['kind'], time: number) =>
      results.measurements.push({
        case: c,
        provider,
        kind,
        threads: 1,
        calls: 1,
        rounds: rounds.map((weather) => 1e6 * weather * time * (1 + 0.01 * uniform())),
      });
    add('sdpo into', 'ours', slowness);
    add('PyTorch', 'peer', 8);
    if (group !== 'calls') add(traffic, 'ceiling', 0.9);
  }
  return results;
}

t.test('compare tells slower from a slower machine and from noise', (t) => {
  const before = invented(1);
  t.equal(compare(before, invented(2)).slower, 0, 'another run of the same');
  t.equal(compare(before, invented(3, { slowness: 1.2 })).slower, 4, '20 % slower');
  t.equal(compare(before, invented(4, { slowness: 0.8 })).slower, 0, 'faster');
  const drifted = compare(before, invented(5, { drift: 1.5 }));
  t.equal(drifted.slower, 1, 'on a slower machine only what has no probe beside it looks slower', drifted);
  const { measurements, ...rest } = before;
  t.throws(() => compare(before, { ...rest, measurements: measurements.filter((m) => m.kind === 'peer') }));
  t.end();
});

t.test('--compare exits with 1 where something became slower', (t) => {
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-compare-'));
  const files = [invented(1), invented(2), invented(3, { slowness: 1.3 })].map((results, i) => {
    const file = join(folder, `${i}.json`);
    writeResults(file, results);
    t.same(readResults(file), results, 'a file holds everything');
    return file;
  });
  const run = (a: string, b: string) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'benchmarks/run.ts', '--compare', a, b], {
      cwd: root,
      encoding: 'utf8',
    });
  t.equal(run(files[0], files[1]).status, 0);
  const slower = run(files[0], files[2]);
  t.equal(slower.status, 1);
  t.match(slower.stdout, /4 slower/);
  t.end();
});

t.test('tables and plots of results', async (t) => {
  const results = invented(6);
  const own = results.measurements.find(({ provider }) => provider === 'sdpo into')!;
  const share = sharesOf(own, results.measurements).traffic!;
  t.ok(Math.abs(share - 0.9) < 0.01, 'the share of the probe is its time over ours', { share });
  const text = details('cpu-test', results);
  t.match(text, /Loss and gradient against the ceilings/);
  t.match(text, /\| PyTorch, 1 thread \| 1 \| (7\.9|8\.0)\dx … /);
  t.match(text, /0 of 1 cases|1 of 1 cases/);
  const rowPair = results.measurements.map((m) => ({ ...m, case: { ...m.case, rows: 1 } }));
  t.match(summary('cpu-test', { ...results, measurements: rowPair }), /\| PyTorch, 1 thread \| \d/);
  const drawn = await plots(results);
  t.same([...drawn.keys()], ['size']);
  t.match(drawn.get('size'), /^<svg[^>]*>[\s\S]*<path/);
});
