/** `sdpo-study study` as a user starts it: it runs what a file declares, says how far it is, goes on, and ends with the right code. */

import { existsSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { jsonLines } from '../../test/helpers/cli-runs.js';
import { sdpoStudy, start } from './cli-runs.js';
import { declaration, declare, RUNS } from './declaration.js';

const runsOf = (out: string) => readdirSync(join(out, 'runs')).length;

t.test('help, and a command that does not exist', async (t) => {
  for (const command of ['study', 'report']) {
    const { status, stdout, stderr } = await sdpoStudy([command, '--help']);
    t.match({ status, stderr }, { status: 0, stderr: '' });
    t.match(stdout, new RegExp(`^Usage: sdpo-study ${command} `));
    t.match(stdout, /^Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 .*, 130 interrupted$/m);
  }
  t.match(await sdpoStudy(['reprot']), { status: 2, stdout: '', stderr: /unknown command 'reprot'/ });
});

t.test('a study runs, and does nothing twice', async (t) => {
  const folder = t.testdir();
  const file = declare(folder);
  const first = await sdpoStudy(['study', file, '--jobs', '2']);
  t.equal(first.status, 0, first.stderr);
  const out = join(folder, 'results', 'study');
  t.equal(runsOf(out), RUNS);
  const lines = first.stderr.trim().split('\n');
  t.match(lines[0], new RegExp(`^0/${RUNS} runs {2}preparing`));
  t.match(lines.at(-1), new RegExp(`^${RUNS}/${RUNS} runs`));
  t.match(first.stdout, new RegExp(`^${RUNS} of ${RUNS} runs done: ${RUNS} in \\S+ s, 0 earlier\nResults in ${out};`));

  const again = await sdpoStudy(['study', file, '--json']);
  t.equal(again.status, 0);
  t.match(jsonLines(again.stdout).at(-1), { summary: { total: RUNS, done: RUNS, skipped: RUNS, failed: [], out } });
  t.match(await sdpoStudy(['study', file, '--quiet']), { status: 0, stdout: '', stderr: '' });
});

t.test('a part of a study, elsewhere', async (t) => {
  const folder = t.testdir();
  const out = join(folder, 'elsewhere');
  const only = ['--only', 'arm=dpo', '--only', 'seed=1'];
  const { status, stdout, stderr } = await sdpoStudy(['study', declare(folder), '--out', out, '--json', ...only]);
  t.match({ status, stderr }, { status: 0, stderr: '' });
  const lines = jsonLines(stdout);
  t.match(lines[0], { phase: 'prepare', total: 2, done: 0 });
  t.match(lines.at(-1), { summary: { total: 2, done: 2 } });
  t.equal(runsOf(out), 2);
});

t.test('a run that fails is named and ends it with 1', async (t) => {
  const folder = t.testdir();
  const [group] = declaration.groups;
  const groups = [{ ...group, arms: ['dpo'], betas: [1], seeds: [0], settings: { fail: 'throw' } }];
  const { status, stderr, stdout } = await sdpoStudy([
    'study',
    declare(folder, { ...declaration, groups, questions: [] }),
  ]);
  t.equal(status, 1);
  t.match(stderr, /^near_beta1_dpo_seed0\S* failed: .*this arm is broken/m);
  t.match(stdout, /^0 of 1 runs done, 1 failed/);
});

t.test('Ctrl-C keeps what is done and ends with 130', async (t) => {
  const folder = t.testdir();
  const out = join(folder, 'out');
  const [group] = declaration.groups;
  const slow = { ...group, name: 'slow', sources: ['far'], settings: { wait: 60_000 } };
  const file = declare(folder, { ...declaration, groups: [{ ...group, seeds: [0] }, slow] });
  const run = start(['study', file, '--jobs', '1', '--out', out]);
  await run.printed('4/12 runs');
  run.process.kill('SIGINT');
  const { status, stderr, stdout } = await run.ended;
  t.equal(status, 130);
  t.match(stderr, /^Stopping; what is done stays/m);
  t.match(stdout, /^4 of 12 runs done/);
  t.equal(runsOf(out), 4);
});

t.test('what is wrong with a study or its arguments ends it with 2', async (t) => {
  const folder = t.testdir();
  const out = ['--out', join(folder, 'out')];
  const questions = [{ ...declaration.questions[0], arm: 'spdo' }];
  const wrong: [string[], RegExp][] = [
    [
      [declare(folder, { ...declaration, questions }, 'arm.json')],
      /questions\[0\]\.arm to be a declared arm .*received "spdo"/,
    ],
    [[declare(folder, '{', 'syntax.json')], /Expected the file to be JSON/],
    [[join(folder, 'none.json')], /none\.json to be a file, received no such file/],
    [[declare(folder), '--only', 'arm=none'], /only/],
    [[declare(folder), '--jobs', '0'], /Expected an integer >= 1/],
  ];
  for (const [args, message] of wrong) {
    t.match(await sdpoStudy(['study', ...args, ...out]), { status: 2, stdout: '', stderr: message }, args.join(' '));
  }
  t.notOk(existsSync(join(folder, 'out', 'runs')));
});
