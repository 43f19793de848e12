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
  const folder = t.testdir({
    empty: {},
    // As the example's own run leaves them (npm start).
    digits: { 'metrics.jsonl': '{"method":"sdpo","step":1,"loss":0.69}\n', 'summary.json': '{}' },
    none: { 'metrics.jsonl': '' },
    'null.json': 'null',
    'torn.json': '{"title":',
    'wrong.json': '{"measures":[],"runs":[{}],"config":{}}',
    study: { 'study.json': '{' },
  });
  const wrong: [string[], RegExp][] = [
    [[join(folder, 'gone')], /^Expected .*gone to be a run, received no such file or folder$/m],
    [[join(folder, 'digits')], /^Expected .*metrics\.jsonl:1 to be \{"step", "kind", "metrics"\}, received \{"method"/],
    [[join(folder, 'none')], /^Expected .*metrics\.jsonl to have metrics, received none$/m],
    [[join(folder, 'null.json')], /^Expected .*null\.json to hold the results of a study/],
    [[join(folder, 'torn.json')], /^Expected .*torn\.json to be JSON, received/],
    [[join(folder, 'wrong.json')], /^Expected .*wrong\.json to hold the results of a study/],
    [[join(folder, 'study')], /^Expected .*study\.json to be JSON, received/],
    [[join(folder, 'empty')], /metrics\.jsonl or study\.json/],
    [[], /missing required argument/],
  ];
  for (const [paths, message] of wrong) {
    const ended = await sdpoStudy(['report', ...paths, '--out', join(folder, 'page.html')]);
    t.match(ended, { status: 2, stdout: '', stderr: message }, paths.join(' '));
    t.notMatch(ended.stderr, /^\s+at /m);
  }
});

t.test('a page that cannot be written', async (t) => {
  const folder = t.testdir({ page: {}, run: { 'metrics.jsonl': '{"step":1,"kind":"train","metrics":{"loss":1}}\n' } });
  const ended = await sdpoStudy(['report', join(folder, 'run'), '--out', join(folder, 'page')]);
  t.match(ended, {
    status: 1,
    stderr: /^Expected to write the page \(.*page\), received EISDIR: .*a folder has the name of the file/,
  });
});
