/**
 * Writes the tables and plots of the committed CPU results into the documents that show them: `tsx benchmarks/report.ts`. With `--check` nothing
 * is written, and the exit code is 1 where a document or plot is not what the results say.
 */

import { existsSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { overviewPoints, readPythonResults } from './overview.js';
import { drawOverview, plots } from './plots.js';
import { details, summary } from './report-tables.js';
import { type Results, readResults } from './results.js';

const root = fileURLToPath(new URL('..', import.meta.url));
const folder = join(root, 'benchmarks', 'results');

interface Named {
  name: string;
  results: Results;
}

/** All committed CPU results, the newest first. */
function committed(): Named[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((file) => /^cpu-.*\.json$/.test(file))
    .map((file) => ({ name: file.slice(0, -'.json'.length), results: readResults(join(folder, file)) }))
    .sort((a, b) => b.results.date.localeCompare(a.results.date));
}

/** Documents, the marker of the block in each, and what goes between `<!-- marker:begin -->` and `<!-- marker:end -->`. */
function blocks(all: readonly Named[], drawn: Map<string, Map<string, string>>): [string, string, string][] {
  const none = 'No results are committed yet.';
  const whole = all.map(({ name, results }) => {
    const images = [...drawn.get(name)!.keys()].map((plot) => `![${plot}](../benchmarks/results/${name}-${plot}.svg)`);
    return [details(name, results), ...images].join('\n\n');
  });
  return [
    ['docs/benchmarks.md', 'cpu', all.length > 0 ? whole.join('\n\n') : none],
    ['docs/benchmarks.md', 'cpu-summary', all.length > 0 ? summary(all[0].name, all[0].results) : none],
  ];
}

/** Replaces the block of a document; undefined where the document has no such block. */
function replaceBlock(text: string, marker: string, content: string): string | undefined {
  const [begin, end] = [`<!-- ${marker}:begin -->`, `<!-- ${marker}:end -->`];
  const [from, to] = [text.indexOf(begin), text.indexOf(end)];
  if (from < 0 || to < from) return undefined;
  return `${text.slice(0, from + begin.length)}\n${content}\n${text.slice(to)}`;
}

/** Every file that the results decide, with what it should hold. */
async function wanted(): Promise<Map<string, string>> {
  const all = committed();
  const drawn = new Map<string, Map<string, string>>();
  for (const { name, results } of all) drawn.set(name, await plots(results));
  const files = new Map<string, string>();
  for (const [document, marker, content] of blocks(all, drawn)) {
    const file = join(root, document);
    const text = replaceBlock(files.get(file) ?? readFileSync(file, 'utf8'), marker, content);
    if (text !== undefined) files.set(file, text);
  }
  const python = join(folder, 'python-cpu.json');
  if (all.length > 0 && existsSync(python)) {
    files.set(
      join(folder, 'overview.svg'),
      await drawOverview(overviewPoints(all[0].results, readPythonResults(python))),
    );
  }
  for (const [name, images] of drawn) {
    for (const [plot, svg] of images) files.set(join(folder, `${name}-${plot}.svg`), svg);
  }
  return files;
}

/** Plots that no result file stands behind. */
function orphans(files: Map<string, string>): string[] {
  if (!existsSync(folder)) return [];
  return readdirSync(folder)
    .filter((file) => /^cpu-.*\.svg$/.test(file))
    .map((file) => join(folder, file))
    .filter((file) => !files.has(file));
}

const check = process.argv.includes('--check');
const files = await wanted();
const stale = [...files].filter(([file, text]) => !existsSync(file) || readFileSync(file, 'utf8') !== text);
if (check) {
  const wrong = [...stale.map(([file]) => file), ...orphans(files)].map((file) => relative(root, file));
  if (wrong.length > 0) {
    console.error(`Not what benchmarks/results says (run \`npm run bench:report\`): ${wrong.join(', ')}`);
    process.exitCode = 1;
  }
} else {
  for (const [file, text] of stale) writeFileSync(file, text);
  console.log(
    stale.length === 0 ? 'Up to date.' : `Written: ${stale.map(([file]) => relative(root, file)).join(', ')}`,
  );
}
