/** `sdpo report` as a user starts it, and the command line where only what the package depends on is installed. */

import { cpSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t, { type Test } from 'tap';
import { sdpo, writeConfig } from './helpers/cli-runs.js';
import { declaration, declare } from './study-declaration.js';

const root = fileURLToPath(new URL('..', import.meta.url));

t.test('a page about training runs', async (t) => {
  const folder = t.testdir();
  const evaluation = { module: 'linear-evaluation.js', every: 4, atStart: true };
  const config = writeConfig(folder, { evaluation });
  for (const beta of [10, 20]) {
    const out = join(folder, `beta${beta}`);
    t.equal((await sdpo(['train', config, '--quiet', '--out', out, '--set', `loss.beta=${beta}`])).status, 0);
  }
  const page = join(folder, 'runs.html');
  const runs = [join(folder, 'beta10'), join(folder, 'beta20')];
  t.match(await sdpo(['report', ...runs, '--out', page]), { status: 0, stdout: `${page}\n`, stderr: '' });
  const html = readFileSync(page, 'utf8');
  for (const part of [
    'beta10',
    'beta20',
    'Implicit accuracy',
    'Share of rows removed',
    'Share of weights that the clip changed',
    'norm',
    '<svg',
  ])
    t.ok(html.includes(part), part);
});

t.test('a page about a study', async (t) => {
  const folder = t.testdir();
  const out = join(folder, 'out');
  t.equal((await sdpo(['study', declare(folder), '--out', out, '--quiet'])).status, 0);
  const page = join(folder, 'study.html');
  t.match(await sdpo(['report', out, '--out', page]), { status: 0, stdout: `${page}\n`, stderr: '' });
  t.ok(readFileSync(page, 'utf8').includes(declaration.title));
});

t.test('what is no result ends it with 2', async (t) => {
  const folder = t.testdir({ empty: {} });
  const wrong: [string[], RegExp][] = [
    [[join(folder, 'none')], /^Expected .*none to be a run, received no such file or folder$/m],
    [[join(folder, 'empty')], /metrics\.jsonl or study\.json/],
    [[], /missing required argument/],
  ];
  for (const [paths, message] of wrong) {
    const ended = await sdpo(['report', ...paths, '--out', join(folder, 'page.html')]);
    t.match(ended, { status: 2, stdout: '', stderr: message }, paths.join(' '));
  }
});

/** A copy of the built package beside which nothing but its dependencies is installed; gives the path of its command line. */
function installed(t: Test): string {
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-'));
  t.teardown(() => rmSync(folder, { recursive: true }));
  for (const name of ['dist', 'schema', 'package.json'])
    cpSync(join(root, name), join(folder, name), { recursive: true });
  const { dependencies } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
  for (const name of ['build', ...Object.keys(dependencies).map((name) => `node_modules/${name}`)]) {
    mkdirSync(dirname(join(folder, name)), { recursive: true });
    symlinkSync(join(root, name), join(folder, name));
  }
  return join(folder, 'dist', 'cli.js');
}

t.test('without the optional peers everything but report works, and report says what to install', async (t) => {
  const program = [installed(t)];
  const folder = t.testdir();
  const run = (...args: string[]) => sdpo(args, { program });
  for (const command of ['train', 'calibrate', 'study', 'report', 'doctor', 'selftest']) {
    const { status, stdout, stderr } = await run(command, '--help');
    t.match({ status, stderr }, { status: 0, stderr: '' });
    t.match(stdout, new RegExp(`^Usage: sdpo ${command} `));
    const coded = ['doctor', 'selftest'].includes(command);
    if (!coded) t.match(stdout, /^Exit codes: 0 done, 1 failed, 2 wrong usage or config, 3 .*, 130 interrupted$/m);
  }
  const config = writeConfig(folder);
  t.match(await run('train', config, '--quiet'), { status: 0, stderr: '' });
  t.match(await run('calibrate', config), { status: 0, stderr: '' });
  t.match(await run('doctor'), { status: 0, stderr: '' });
  const report = await run('report', join(folder, 'run'), '--out', join(folder, 'page.html'));
  t.match(report, { status: 1, stdout: '', stderr: /^Expected .*vega.* to be installed.*npm install .*vega/ });
});
