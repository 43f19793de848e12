/** The report of a study and of training runs: what is in the page, the tables and the sentences, and what is refused. */

import { mkdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { logEntries, NoiseSchedule, PreferenceLoss } from 'sdpo';
import t from 'tap';
import { focusOf } from '../lib/focus.js';
import {
  answerQuestions,
  compactResults,
  findingsOf,
  formatStudyTable,
  readResults,
  runStudy,
  type StudyResults,
  studyMarkdown,
  updateStudyMarkdown,
  writeReport,
  writeResults,
} from '../lib/index.js';
import { escapeHtml, styleAt } from '../lib/report/draw.js';
import { formatNumber, formatSigned } from '../lib/report/format.js';
import { declaration, declare } from './declaration.js';
import { config, inventedResults } from './fixture.js';

async function pageOf(folder: string, results: StudyResults): Promise<string> {
  const [file, out] = [join(folder, 'results.json'), join(folder, 'report.html')];
  await writeResults(file, results);
  await writeReport([file], { out });
  return readFileSync(out, 'utf8');
}

/** Whether a page has a text; the page is not printed where it has not. */
const has = (t: { ok(value: unknown, message: string): unknown }, html: string, text: string) =>
  t.ok(html.includes(text), `the page has ${text}`);

t.test('the file of results holds what tables, answers and plots need', async (t) => {
  const results = inventedResults();
  const compact = compactResults(results);
  const file = join(t.testdir({}), 'results.json');
  await writeResults(file, compact);
  const read = readResults(file);
  t.same(read, compact, 'nothing is lost on the way');
  t.equal(formatStudyTable(read), formatStudyTable(results));
  t.same(
    answerQuestions(read).map(({ overall }) => overall.final.verdict),
    answerQuestions(results).map(({ overall }) => overall.final.verdict),
  );
  const bytes = (of: StudyResults) => Buffer.byteLength(JSON.stringify(of));
  t.ok(statSync(file).size < bytes(results) / 4, `${statSync(file).size} bytes for ${results.runs.length} runs`);
  const focus = focusOf(results);
  t.equal(focus.beta, 10, 'the β with most runs');
  for (const run of read.runs) {
    t.equal(run.samples.length > 0, focus.isShown(run));
    t.equal(run.trajectory.at(-1)!.step, 400);
  }
  t.same(focusOf(read).sources, focus.sources);
});

t.test('a number that is not finite stays one', async (t) => {
  const results = inventedResults();
  const [first] = results.runs;
  const odd = { ...first, final: { ...first.final, coverage: Number.NaN } };
  const file = join(t.testdir({}), 'results.json');
  await writeResults(file, { ...results, runs: [odd] });
  t.same(readResults(file).runs[0].final, odd.final);
});

t.test('what is no file of results is refused', async (t) => {
  const folder = t.testdir({ 'a.json': '{', 'b.json': '{"runs": []}', empty: {} });
  t.throws(() => readResults(join(folder, 'a.json')), /a\.json to be JSON/);
  t.throws(() => readResults(join(folder, 'b.json')), /b\.json to hold the results of a study/);
  const out = join(folder, 'out.html');
  const rejects = (inputs: unknown, message: RegExp) =>
    t.rejects(writeReport(inputs as string[], { out }), { message });
  await rejects([], /Expected inputs to be a list of at least one path/);
  await rejects([join(folder, 'gone')], /Expected inputs to be paths that exist/);
  await rejects([join(folder, 'empty')], /folders with metrics\.jsonl or study\.json/);
  await t.rejects(writeReport([folder], { out: '' }), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
  await t.rejects(writeReport([folder], {} as never), { code: 'ERR_SDPO_INVALID_ARG_TYPE' });
});

t.test('the page has every plot, the tables and the samples, and needs nothing else', async (t) => {
  const html = await pageOf(t.testdir({}), compactResults(inventedResults()));
  const figures = [...html.matchAll(/<figure id="([^"]+)" class="plots">([\s\S]*?)<\/figure>/g)];
  const panels = Object.fromEntries(figures.map(([, id, body]) => [id, body.match(/<svg role="img"/g)?.length ?? 0]));
  t.same(panels, {
    answers: 1,
    // Two moments for each source of a group over β; one panel for each source of a group with one β.
    'group-headline': 4,
    'group-anchors': 2,
    'group-controls': 2,
    'group-sources': 2,
    'group-learning-rate': 2,
    frontier: 4,
    trajectories: 6,
    'weight-by-timestep': 2,
    'mask-share-by-timestep': 2,
    'gradient-noise-by-timestep': 2,
    'gradient-norm-by-timestep': 2,
    'drift-by-timestep': 2,
  });
  t.equal(html.match(/<img src="data:image\/png;base64,/g)?.length, 2 * 5, 'the base and four arms on two sources');
  for (const id of ['findings', 'questions', 'budget', 'table', 'method']) has(t, html, `<section id="${id}"`);
  for (const { question } of config.questions) has(t, html, escapeHtml(question));
  t.same(
    html.match(/<script|<link(?! rel="icon" href="data:,")|<iframe|@import|url\((?!#)|(src|href)="(?!#|data:)/g),
    null,
  );
  has(t, html, 'random mask &lt;at the same rate&gt;');
  t.notOk(html.includes('<at the same rate>'));
  const ids = [...html.matchAll(/ id="([^"]+)"/g)].map(([, id]) => id);
  t.equal(new Set(ids).size, ids.length, 'no two things have the same id');
  for (const [, label] of html.matchAll(/<svg role="img" aria-label="([^"]*)"/g)) t.ok(label.length > 20, label);
  for (const [, link] of html.matchAll(/href="#([^"]+)"/g)) t.ok(ids.includes(link), link);
});

t.test('a page of a study that has little', async (t) => {
  const results = inventedResults();
  const only = results.runs.filter(({ cell }) => cell.id === 'N1_beta10_dpo_seed0');
  const bare = only.map((run) => ({ ...run, bins: {}, samples: [], before: undefined }));
  const html = await pageOf(t.testdir({}), { ...results, runs: bare });
  has(t, html, 'nothing is decided');
  has(t, html, '237 of 238 declared runs are missing');
  t.same(html.match(/<section id="(samples|timesteps|budget)"|\bNaN\b|undefined/g), null);
});

t.test('sentences say what the intervals say', async (t) => {
  const results = inventedResults();
  const { shows, doesNotShow } = findingsOf(results);
  const about = (sentences: readonly string[], part: string) => sentences.filter((text) => text.includes(part));
  t.match(
    about(shows, 'SDPO (κ calibrated) is better than Diffusion-DPO on N1 (β 3, 10, 30 and 100): good +').length,
    1,
  );
  t.equal(about(shows, 'SDPO (κ calibrated) is worse than Diffusion-DPO + 0.3 KL on N1, on-policy').length, 1);
  t.equal(about(shows, 'SDPO (κ calibrated) is worse than Diffusion-DPO on C').length, 1);
  t.equal(about(shows, 'Each at its best on C, chosen for final good: worse than Diffusion-DPO: ').length, 1);
  t.equal(about(doesNotShow, 'Whether SDPO (κ calibrated) and DPO-C&M differ').length, 1);
  t.equal(about(doesNotShow, '"Does an anchor that was not run help?": 0 of 1 cells were run').length, 1);
  t.equal(about(doesNotShow, 'stopped before their last step').length, 1);
  t.equal(about(doesNotShow, '5 questions are answered').length, 1);
  t.equal(about(doesNotShow, '3 to 5 seeds a cell').length, 1);
  for (const { question, overall } of answerQuestions(results)) {
    const titles = [question.arm, question.baseline].map((name) => config.arms[name].title);
    const claims = shows.filter((text) => text.startsWith(`${titles[0]} is `) && text.includes(`than ${titles[1]} on`));
    const decided =
      ['better', 'worse'].includes(overall.final.verdict) || ['better', 'worse'].includes(overall.peak.verdict);
    t.equal(claims.length > 0, decided, question.question);
  }
});

t.test('a difference of few seeds is called weak, and one that depends on the moment is called that', async (t) => {
  const results = inventedResults();
  const isArm = (name: string) => (run: StudyResults['runs'][number]) =>
    run.cell.arm === name && run.cell.source === 'C';
  const shift = (final: readonly number[], peak: number) => {
    const dpo = results.runs.filter(isArm('dpo'));
    return results.runs.map((run) => {
      if (!isArm('sdpo')(run)) return run;
      const other = dpo.find(({ cell }) => cell.beta === run.cell.beta && cell.seed === run.cell.seed)!;
      return {
        ...run,
        final: { ...run.final, good: other.final.good + final[run.cell.seed] },
        peak: { ...run.peak, metrics: { ...run.peak.metrics, good: other.peak.metrics.good + peak } },
      };
    });
  };
  const first = (runs: StudyResults['runs']) =>
    findingsOf({ ...results, runs }).shows.find((text) => text.includes('Diffusion-DPO') && text.includes('on C (β'));
  t.match(
    first(shift([0.1, 0.2, 0.9], 0.1)),
    /is better than .* With 3 seeds this is weak: Student's interval after the last step includes 0\.$/,
  );
  t.match(
    first(shift([-0.1, -0.1, -0.1], 0.1)),
    /depends on when training stops: good -0\.100 .* after the last step; \+0\.100/,
  );
  t.match(
    first(shift([-0.1, 0.1, 0], 0.1)),
    /is better than Diffusion-DPO on C .* at the best step only: .*\(undecided\)/,
  );
});

t.test('Markdown, and a document that is kept up to date', async (t) => {
  const results = inventedResults();
  const markdown = studyMarkdown(results);
  t.match(markdown, '| 1 | Does SDPO beat Diffusion-DPO at the same β on N1? |');
  t.match(markdown, '**N1: good, mean after the last step (at the best step)**');
  t.match(markdown, /^- SDPO \(κ calibrated\) is better than/m);
  for (const block of markdown.split('\n\n').filter((part) => part.startsWith('|'))) {
    const columns = block.split('\n').map((line) => line.split(/(?<!\\)\|/).length);
    t.equal(new Set(columns).size, 1, 'every row has all columns');
  }
  const document = 'before\n<!-- study:begin -->\nold\n<!-- study:end -->\nafter\n';
  const updated = updateStudyMarkdown(document, results);
  t.match(updated, /^before\n<!-- study:begin -->\n\n[\s\S]+\n\n<!-- study:end -->\nafter\n$/);
  t.notMatch(updated, /\bold\b/);
  t.equal(updateStudyMarkdown(updated, results), updated);
  t.throws(() => updateStudyMarkdown('nothing', results), /study:begin/);
});

t.test('numbers', async (t) => {
  const written = { 0: '0.000', 0.1234: '0.123', [-0.0004]: '-0.0004', 1e-7: '1e-7', 12.5: '12.500' };
  for (const [value, text] of Object.entries(written)) t.equal(formatNumber(Number(value)), text);
  t.equal(formatNumber(Number.NaN), 'n/a');
  const signed = { 0: '0.000', 0.1234: '+0.123', [-0.0004]: '-0.0004', [-2e-6]: '-0.0000', 1e-17: '0.000' };
  for (const [value, text] of Object.entries(signed)) t.equal(formatSigned(Number(value)), text);
  t.equal(formatSigned(Number.NaN), 'n/a');
});

t.test('series are told apart by more than colour', async (t) => {
  const looks = Array.from({ length: 21 }, (_, i) => JSON.stringify(styleAt(i)));
  t.equal(new Set(looks).size, looks.length);
  const grey = Array.from({ length: 7 }, (_, i) => styleAt(i).shape);
  t.equal(new Set(grey).size, grey.length, 'by shape on paper without colours');
});

t.test('the folder of a study that ran', async (t) => {
  const folder = t.testdir({});
  const [out, page] = [join(folder, 'out'), join(folder, 'report.html')];
  await runStudy(declare(folder), { out });
  await writeReport([out], { out: page });
  const html = readFileSync(page, 'utf8');
  has(t, html, declaration.title);
  has(t, html, 'Is SDPO better?');
  has(t, html, '<figure id="group-headline"');
  await t.rejects(writeReport([out, out], { out: page }), { message: /one study, or folders of training runs/ });
});

/** The names that a real loss gives its metrics. */
const lossEntries = logEntries(
  new PreferenceLoss({ objective: 'sdpo', schedule: NoiseSchedule.preset('cogvideox-2b'), beta: 1 }).evaluate({
    timesteps: [500],
    chosen: { policy: new Float64Array(2), reference: new Float64Array(2), target: new Float64Array(2).fill(1) },
    rejected: { policy: new Float64Array(2), reference: new Float64Array(2), target: new Float64Array(2) },
  }).metrics,
);

/** Lines as `sdpo train` writes them. */
function metricsLines(steps: number, scale: number): string {
  const lines = Array.from({ length: steps }, (_, i) => {
    const metrics = {
      ...lossEntries,
      loss: scale * Math.exp(-i / steps),
      'rewards/accuracies': 0.5 + i / steps / 4,
      grad_norm: 1 + Math.sin(i),
      'bins/kept/0': 0.5,
    };
    return JSON.stringify({ step: i + 1, kind: 'train', metrics });
  });
  const evaluations = [0, steps].map((step) =>
    JSON.stringify({ step, kind: 'evaluation', metrics: { good: step / steps } }),
  );
  return `${[...lines, ...evaluations].join('\n')}\n`;
}

t.test('training runs', async (t) => {
  const folder = t.testdir({
    a: { 'metrics.jsonl': metricsLines(300, 1) },
    b: { 'metrics.jsonl': metricsLines(20, 2) },
  });
  const [a, b] = ['a', 'b'].map((name) => join(folder, name));
  const out = join(folder, 'report.html');
  await writeReport([a, b], { out });
  const html = readFileSync(out, 'utf8');
  for (const title of [
    'Loss over training',
    'Implicit accuracy',
    'Share of rows removed by the mask',
    'Share of weights that the clip changed',
    'Drift of rejected',
    'Gradient norm before clipping',
    'good over training',
  ]) {
    has(t, html, `aria-label="${title}`);
  }
  t.notOk(html.includes('bins/kept'));
  has(t, html, '<td class="number">300</td>');
  await writeReport([a], { out });
  has(t, readFileSync(out, 'utf8'), '<h1>Training run a</h1>');

  // Held-out pairs, and the best step by what the config of the run says.
  const held = [3, 1, 2].map((loss, step) =>
    JSON.stringify({
      step,
      kind: 'validation',
      metrics: { loss, 'rewards/margins': loss, errorChosen: 0.5, driftChosen: null },
    }),
  );
  writeFileSync(join(a, 'metrics.jsonl'), `${metricsLines(3, 1)}${held.join('\n')}\n`);
  await writeReport([a], { out });
  has(t, readFileSync(out, 'utf8'), '<h2 id="s-held-out-pairs-title">Held-out pairs</h2>');
  has(t, readFileSync(out, 'utf8'), 'a: 3 steps (best on the held-out pairs: step 1, loss 1.000)');
  has(t, readFileSync(out, 'utf8'), 'aria-label="Error of chosen over training');
  writeFileSync(join(a, 'config.json'), JSON.stringify({ validation: { best: 'margin' } }));
  await writeReport([a], { out });
  has(t, readFileSync(out, 'utf8'), '(best on the held-out pairs: step 0, margin 3.000)');
  writeFileSync(join(a, 'config.json'), '{');
  await t.rejects(writeReport([a], { out }), { code: 'ERR_SDPO_CONFIG', message: /config\.json to be JSON/ });
  writeFileSync(join(a, 'config.json'), 'null');
  await writeReport([a], { out });
  has(t, readFileSync(out, 'utf8'), 'step 1, loss 1.000)');

  // Samples that the run drew: the first and the last step, and some between them.
  mkdirSync(join(a, 'previews'));
  for (let step = 0; step < 20; step++) writeFileSync(join(a, 'previews', `${step}-0.png`), `step ${step}`);
  writeFileSync(join(a, 'previews', '19-1.webp'), 'RIFF');
  writeFileSync(join(a, 'previews', 'notes.txt'), 'none');
  await writeReport([a], { out });
  const page = readFileSync(out, 'utf8');
  has(t, page, '<h2 id="previews-title">Samples over training</h2>');
  const rows = [...page.matchAll(/<figure class="strip"><figcaption>step (\d+)<\/figcaption>/g)].map(([, step]) =>
    Number(step),
  );
  t.same(rows, [0, 3, 5, 8, 11, 14, 16, 19]);
  has(
    t,
    page,
    `<img src="data:image/png;base64,${Buffer.from('step 19').toString('base64')}" alt="Sample 0, step 19">`,
  );
  has(t, page, `<img src="data:image/webp;base64,${Buffer.from('RIFF').toString('base64')}" alt="Sample 1, step 19">`);
  rmSync(join(a, 'previews'), { recursive: true });

  // A run that was killed while it wrote, and then went on from an earlier step.
  const again = JSON.stringify({ step: 2, kind: 'train', metrics: { loss: 123 } });
  writeFileSync(join(b, 'metrics.jsonl'), `${metricsLines(3, 1)}${again}\n{"step": 3, "ki`);
  await writeReport([b], { out });
  has(t, readFileSync(out, 'utf8'), 'Loss over training. b: 1.000 at step 1, ');
  has(t, readFileSync(out, 'utf8'), '<td class="number">0.513</td>');
  writeFileSync(join(b, 'metrics.jsonl'), `${metricsLines(3, 1)}{"step": "x"}\n`);
  await t.rejects(writeReport([b], { out }), { message: /metrics\.jsonl:6 to be \{"step", "kind", "metrics"\}/ });
  writeFileSync(join(b, 'metrics.jsonl'), '');
  await t.rejects(writeReport([b], { out }), { message: /to have metrics, received none/ });
  // Names of metrics and folders may have any character.
  const odd = join(folder, 'two\nlines');
  mkdirSync(odd);
  const names = ['score/two\nlines', 'a\u2028b', 'a\u2029b', '"\\\'<&`$', 'a\r\nb'];
  const evaluation = (step: number) =>
    JSON.stringify({ step, kind: 'evaluation', metrics: Object.fromEntries(names.map((name, i) => [name, i + step])) });
  writeFileSync(join(odd, 'metrics.jsonl'), `${metricsLines(3, 1)}${evaluation(2)}\r\n${evaluation(3)}\n`);
  await writeReport([odd, a], { out });
  has(t, readFileSync(out, 'utf8'), 'score/two');
  await t.rejects(writeReport(['/dev/null'], { out }), { code: 'ERR_SDPO_CONFIG', message: /received a device/ });
  const file = join(folder, 'results.json');
  await writeResults(file, inventedResults());
  await t.rejects(writeReport([a, file], { out }), { message: /one study, or folders of training runs/ });
});
