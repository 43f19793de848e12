/** Studies that run in processes of their own: results, going on after a stop of any kind, crashes, and results that became stale. */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as wait } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { collectResults, planCells, runStudy, type StudyConfig, type StudyProgress } from '../lib/index.js';
import { declaration, declare, RUNS } from './declaration.js';

const root = fileURLToPath(new URL('../..', import.meta.url));
const runsOf = (out: string) => readdirSync(join(out, 'runs')).sort();
const sharedOf = (out: string) => join(out, 'shared', readdirSync(join(out, 'shared'))[0]);
const startedIn = (out: string) =>
  readFileSync(join(sharedOf(out), 'started.txt'), 'utf8')
    .trim()
    .split('\n');

/** The first group with settings for all its runs. */
function withSettings(settings: Record<string, string | number>, arms = ['dpo']): StudyConfig {
  return { ...declaration, groups: [{ ...declaration.groups[0], arms, betas: [1], settings }], questions: [] };
}

t.test('a study runs, tells how far it is, and is done', async (t) => {
  const folder = t.testdir({});
  const file = declare(folder);
  const out = join(folder, 'out');
  const told: StudyProgress[] = [];
  const summary = await runStudy(file, { out, jobs: 2, onProgress: (progress) => told.push(progress) });
  t.match(summary, { total: RUNS, done: RUNS, skipped: 0, failed: [], aborted: false });
  t.same(
    runsOf(out),
    planCells(declaration)
      .map(({ id }) => `${id}.json`)
      .sort(),
  );
  t.equal(readFileSync(join(sharedOf(out), 'prepared.txt'), 'utf8'), 'x', 'prepared once');
  t.equal(told[0].phase, 'prepare');
  const last = told.at(-1)!;
  t.match(last, { phase: 'run', total: RUNS, done: RUNS, failed: 0, left: 0 });
  for (const { running } of told) {
    t.ok(running.length <= 2);
    t.ok(running.every(({ share }) => share >= 0 && share <= 1));
  }

  const results = collectResults(file, out);
  t.equal(results.runs.length, RUNS);
  t.match(results.metrics, { good: 'Good', drift: 'Drift' });
  t.match(results.environment, { node: process.versions.node, processes: 2, finished: /^\d{4}-\d\d-\d\d$/ });
  for (const run of results.runs) {
    t.equal(run.trajectory[0].step, 0);
    t.ok(run.peak.metrics.good >= run.trajectory[0].metrics.good);
    t.same(run.bins, { weightChosen: [0.9, null, 0.5] });
  }
  const [dpo] = results.runs;
  t.ok(dpo.final.good > dpo.trajectory[0].metrics.good, 'the loss teaches the model something');
  t.not(dpo.final.good, results.runs[1].final.good, 'arms differ');

  const again = await runStudy(file, { out });
  t.match(again, { total: RUNS, done: RUNS, skipped: RUNS });
  t.equal(startedIn(out).length, RUNS, 'nothing ran twice');
});

t.test('a part of a study', async (t) => {
  const folder = t.testdir({});
  const out = join(folder, 'out');
  const summary = await runStudy(declare(folder), { out, jobs: 1, only: ['arm=dpo', 'seed=1'] });
  t.match(summary, { total: 2, done: 2 });
  t.same(runsOf(out), ['near_beta10_dpo_seed1.json', 'near_beta1_dpo_seed1.json']);
  t.equal(collectResults(declare(folder), out).runs.length, 2);
});

t.test('only cells that are declared differently run again', async (t) => {
  const folder = t.testdir({});
  const out = join(folder, 'out');
  await runStudy(declare(folder), { out });
  const { sdpo } = declaration.arms;
  const arms: StudyConfig['arms'] = {
    ...declaration.arms,
    sdpo: { ...sdpo, loss: { ...sdpo.loss, maskThreshold: 0.6 } },
  };
  const changed = declare(folder, { ...declaration, arms });
  t.equal(collectResults(changed, out).runs.length, RUNS / 2, 'a stale result is not collected');
  t.match(await runStudy(changed, { out }), { total: RUNS, skipped: RUNS / 2, done: RUNS });
  const titles = { ...arms, dpo: { ...arms.dpo, title: 'DPO' } };
  t.match(await runStudy(declare(folder, { ...declaration, arms: titles }), { out }), { skipped: RUNS });
  const options = declare(folder, { ...declaration, options: { steps: 4 } });
  t.throws(() => collectResults(options, out), /Expected .* to hold runs of/);
  t.match(await runStudy(options, { out }), { skipped: 0, done: RUNS });
  t.equal(readdirSync(join(out, 'shared')).length, 2, 'shared files of other options are others');
  t.equal(collectResults(options, out).runs[0].steps, 4);
});

t.test('a worker that dies is replaced and its cell tried once more', async (t) => {
  const folder = t.testdir({});
  const out = join(folder, 'out');
  const summary = await runStudy(declare(folder, withSettings({ fail: 'once' })), { out, jobs: 1 });
  t.match(summary, { total: 2, done: 2, failed: [] });
  t.equal(startedIn(out).length, 4);
});

t.test('what fails is told, recorded, and tried again by the next call; other runs go on', async (t) => {
  const folder = t.testdir({});
  const groups = [
    { ...declaration.groups[0], betas: [1], arms: ['dpo'], seeds: [0], settings: { fail: 'always' } },
    { ...declaration.groups[0], name: 'sound', betas: [10] },
    { ...declaration.groups[0], name: 'throws', betas: [10], arms: ['dpo'], seeds: [0], settings: { fail: 'throw' } },
    { ...declaration.groups[0], name: 'nan', betas: [10], arms: ['sdpo'], seeds: [0], settings: { fail: 'nan' } },
  ];
  const config = { ...declaration, groups };
  const file = declare(folder, config);
  const out = join(folder, 'out');
  const { failed, ...counts } = await runStudy(file, { out, jobs: 2 });
  t.match(counts, { total: 7, done: 4 });
  t.equal(failed.length, 3);
  const errorOf = (part: string) => failed.find(({ cell }) => cell.id.includes(part))!.error;
  t.match(errorOf('fail-always'), /died of SIGKILL; it wrote:\nno more memory on this machine/);
  t.match(errorOf('fail-throw'), /this arm is broken\n +at .*experiment/);
  t.match(errorOf('fail-nan'), /run\.final\.good, the metric that decides, to be finite, received NaN/);
  t.equal(startedIn(out).filter((id) => id.includes('fail-always')).length, 2, 'a death may be the machine');
  t.equal(startedIn(out).filter((id) => id.includes('fail-throw')).length, 1, 'an error is an answer');
  t.equal(readdirSync(join(out, 'failed')).length, 3);
  t.equal(collectResults(file, out).runs.length, 4);
  t.match(await runStudy(file, { out, only: ['fail-throw'] }), { total: 1, done: 0, skipped: 0 });
});

t.test('an experiment that cannot be used', async (t) => {
  const folder = t.testdir({ 'none.mjs': 'export default 3;', 'syntax.mjs': 'export default {' });
  const out = join(folder, 'out');
  const rejects = (change: object, message: RegExp) =>
    t.rejects(runStudy(declare(folder, { ...declaration, ...change }), { out }), { message });
  await rejects({ experiment: 'none.mjs' }, /Expected .*none\.mjs to have an Experiment as its default export/);
  await rejects({ experiment: 'syntax.mjs' }, /could not be prepared: SyntaxError/);
  await rejects({ experiment: 'gone.mjs' }, /Expected experiment to be a module, received no such file: .*gone\.mjs/);
  spawnSync('mkfifo', [join(folder, 'fifo.mjs')]);
  await rejects({ experiment: 'fifo.mjs' }, /Expected experiment to be a module, received a FIFO/);
  await rejects({ decidingMetric: 'god' }, /Expected decidingMetric .* one of good, drift, received god/);
  const [group] = declaration.groups;
  const sources = { groups: [{ ...group, sources: ['nowhere'] }], questions: [] };
  await rejects(sources, /Expected a source .* one of near, far, received nowhere/);
});

t.test('wrong options', async (t) => {
  const file = declare(t.testdir({}));
  await t.rejects(runStudy(file, { out: '' }), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  await t.rejects(runStudy(file, { out: 'x', jobs: 0 }), { code: 'ERR_SDPO_INVALID_ARG_VALUE' });
  await t.rejects(runStudy(file, { out: 'x', job: 1 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  await t.rejects(runStudy(file, { out: 'x', only: 'a' } as never), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  await t.rejects(runStudy(file, { out: 'x', signal: {} } as never), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  t.notOk(existsSync('x'));
});

t.test('an abort ends the processes, and the study goes on later', async (t) => {
  const folder = t.testdir({});
  const file = declare(folder, withSettings({ wait: 60_000 }));
  const out = join(folder, 'out');
  const controller = new AbortController();
  const study = runStudy(file, {
    out,
    jobs: 2,
    signal: controller.signal,
    onProgress: ({ running, phase }) => {
      if (phase === 'run' && running.length === 2) controller.abort();
    },
  });
  t.match(await study, { total: 2, done: 0, failed: [], aborted: true });
  t.match(await runStudy(file, { out, signal: AbortSignal.abort() }), { done: 0, aborted: true });
  const quick = declare(folder, withSettings({ wait: 1 }));
  t.match(await runStudy(quick, { out }), { done: 2, aborted: false });
});

/** Ids of this study's processes that are alive, by the folder they are told. */
function alive(pids: readonly number[]): number[] {
  return pids.filter((pid) => {
    try {
      process.kill(pid, 0);
      return !/^State:\s+Z/m.test(readFileSync(`/proc/${pid}/status`, 'utf8'));
    } catch {
      return false;
    }
  });
}

t.test('a study whose process is killed leaves no process behind and goes on where it was', async (t) => {
  const folder = t.testdir({});
  const file = declare(folder, withSettings({ wait: 150 }, ['dpo', 'sdpo']));
  const out = join(folder, 'out');
  const program = `
    import { runStudy } from ${JSON.stringify(new URL('../lib/index.ts', import.meta.url).href)};
    await runStudy(${JSON.stringify(file)}, { out: ${JSON.stringify(out)}, jobs: 1 });`;
  const args = ['--import', 'tsx', '--input-type=module', '-e', program];
  const parent = spawn(process.execPath, args, { cwd: root, stdio: ['ignore', 'inherit', 'inherit'] });
  const ended = new Promise((resolve) => parent.on('close', resolve));
  const isDone = () => existsSync(join(out, 'runs')) && runsOf(out).some((name) => name.endsWith('.json'));
  while (!isDone() && parent.exitCode === null) await wait(5);
  const children = readFileSync(`/proc/${parent.pid}/task/${parent.pid}/children`, 'utf8')
    .trim()
    .split(' ')
    .map(Number);
  t.ok(alive(children).length > 0, 'a worker was there');
  parent.kill('SIGKILL');
  await ended;
  while (alive(children).length > 0) await wait(5); // for ever, were they not to end
  const before = runsOf(out).filter((name) => name.endsWith('.json'));
  t.ok(before.length >= 1 && before.length < 4, `${before.length} of 4 runs were done`);
  const times = () => before.map((name) => statSync(join(out, 'runs', name)).mtimeMs);
  const written = times();
  t.match(await runStudy(file, { out }), { total: 4, done: 4, skipped: before.length });
  t.same(times(), written, 'what was done was not done again');
  t.equal(collectResults(file, out).runs.length, 4);
});

t.test('a second process is kept out of the folder', async (t) => {
  const folder = t.testdir();
  const out = join(folder, 'out');
  const file = declare(folder);
  let refused: unknown;
  const first = runStudy(file, {
    out,
    async onProgress() {
      refused ??= runStudy(file, { out }).catch((error: unknown) => error);
    },
  });
  await first;
  t.match(await refused, {
    code: 'ERR_SDPO_LOCKED',
    message: /^Expected no other process to run in .*out, .*study\.lock\)$/,
  });
  t.notOk(existsSync(join(out, 'study.lock')));
  t.match(await runStudy(file, { out }), { failed: [] });
});
