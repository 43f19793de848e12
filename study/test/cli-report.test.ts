/** `sdpo-study report` as a user starts it. */

import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import t from 'tap';
import { sdpo, writeConfig } from '../../test/helpers/cli-runs.js';
import { sdpoStudy } from './cli-runs.js';
import { declaration, declare } from './declaration.js';

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
  t.match(await sdpoStudy(['report', ...runs, '--out', page]), { status: 0, stdout: `${page}\n`, stderr: '' });
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
  t.equal((await sdpoStudy(['study', declare(folder), '--out', out, '--quiet'])).status, 0);
  const page = join(folder, 'study.html');
  t.match(await sdpoStudy(['report', out, '--out', page]), { status: 0, stdout: `${page}\n`, stderr: '' });
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
    const ended = await sdpoStudy(['report', ...paths, '--out', join(folder, 'page.html')]);
    t.match(ended, { status: 2, stdout: '', stderr: message }, paths.join(' '));
  }
});
