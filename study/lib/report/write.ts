/** Writes the report of a study or of training runs. */

import { existsSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { checkOptions, failType, failValue, namingFiles } from 'sdpo/tools';
import writeFileAtomic from 'write-file-atomic';
import { readResults } from '../results-file.js';
import { StudyFolder } from '../run-file.js';
import { collectResults } from '../runner.js';
import type { StudyResults } from '../types.js';
import { findingsOf } from './findings.js';
import { markdownTable, oneLine } from './format.js';
import { studyPage } from './study-page.js';
import { answersTable, markdownTables, UNCONFIRMED_NOTE } from './tables.js';
import { readTrainingRun, type TrainingRun, trainingPage } from './training.js';

type Input =
  | { readonly kind: 'study'; readonly results: StudyResults }
  | { readonly kind: 'run'; readonly run: TrainingRun };

/**
 * Writes one HTML page that needs nothing else: no network, no script. `inputs` is either one study (its folder, or the file of its results) or
 * any number of folders of training runs with their `metrics.jsonl`.
 */
export async function writeReport(inputs: readonly string[], options: { readonly out: string }): Promise<void> {
  const { out }: { out: unknown } = checkOptions('options', options, ['out']);
  if (typeof out !== 'string' || out === '') failType('options.out', 'the path of a file', out);
  if (!Array.isArray(inputs) || inputs.length === 0) failType('inputs', 'a list of at least one path', inputs);
  const found = inputs.map(readInput);
  const first = found[0]!;
  if (first.kind === 'study') {
    if (found.length > 1) failValue('inputs', 'one study, or folders of training runs', inputs.join(', '));
    await writePage(out, await studyPage(first.results));
    return;
  }
  const runs = found.map((input, i) => {
    if (input.kind !== 'run') failValue('inputs', 'one study, or folders of training runs', inputs[i]);
    return input.run;
  });
  await writePage(out, await trainingPage(distinctNames(runs, inputs)));
}

async function writePage(path: string, html: string): Promise<void> {
  await namingFiles({ task: 'write the page', path }, () => writeFileAtomic(path, html));
}

function readInput(path: string): Input {
  if (!existsSync(path)) failValue('inputs', 'paths that exist', path);
  if (!statSync(path).isDirectory()) return { kind: 'study', results: readResults(path) };
  const metrics = join(path, 'metrics.jsonl');
  if (existsSync(metrics)) return { kind: 'run', run: readTrainingRun(path, metrics) };
  const record = StudyFolder.readRecordOf(path);
  if (record !== undefined) return { kind: 'study', results: collectResults(record.file, path) };
  failValue('inputs', 'folders with metrics.jsonl or study.json, or files of results', path);
}

/** Runs of the same name are told apart by their paths. */
function distinctNames(runs: readonly TrainingRun[], paths: readonly string[]): TrainingRun[] {
  const same = new Set(runs.map(({ name }) => name)).size < runs.length;
  return runs.map((run, i) => (same ? { ...run, name: oneLine(paths[i]!) } : run));
}

/** The results of a study in Markdown: answers, findings, tables. */
export function studyMarkdown(results: StudyResults): string {
  const { shows, doesNotShow } = findingsOf(results);
  const answers = answersTable(results);
  const items = (list: readonly string[]) => list.map((item) => `- ${item}`).join('\n');
  const parts = [
    ...(answers.rows.length > 0 ? [markdownTable(answers)] : []),
    ...(answers.rows.some((row) => row.some((cell) => /^(better|worse)\*$/.test(cell)))
      ? [UNCONFIRMED_NOTE.replace('*', '\\*')]
      : []),
    ...(shows.length > 0 ? ['It shows:', items(shows)] : []),
    'It does not show:',
    items(doesNotShow),
    markdownTables(results),
  ];
  return parts.join('\n\n');
}

/** A document with the part between `<!-- study:begin -->` and `<!-- study:end -->` made new. Throws where it has no such part. */
export function updateStudyMarkdown(document: string, results: StudyResults): string {
  return withGenerated(document, studyMarkdown(results));
}

/** The same with any text. */
export function withGenerated(document: string, text: string): string {
  const [begin, end] = ['<!-- study:begin -->', '<!-- study:end -->'];
  const [from, to] = [document.indexOf(begin), document.indexOf(end)];
  if (from < 0 || to < from) throw new Error(`Expected the document to have ${begin} and, behind it, ${end}`);
  return `${document.slice(0, from + begin.length)}\n\n${text}\n\n${document.slice(to)}`;
}
