/**
 * Runs the second study of the digits (study/docs/readings.md), both stages, going on with what is not done; results in build/readings.
 *
 *   npm run study:readings                  on all cores
 *   npm run study:readings -- --jobs 2
 *
 * `npm run study:docs` gathers the results and writes the page.
 */

import { mkdirSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { decidingStudy, TASK_NAMES, type Task } from '../examples/digits/readings.js';
import { collectResults, compactResults, runStudy } from '../study/lib/index.js';

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

export const SCREENING = at('examples/digits/readings-screening.json');
export const FOLDER = at('build/readings');
/** Where the rule writes what it makes of the screening. */
export const decidingFile = (task: Task) => at(`examples/digits/readings-${task}.json`);
export const folderOf = (part: Task | 'screening') => `${FOLDER}/${part}`;

/** The second task comes after three seeds of the first, so that a run that has to be cut short is a smaller study of both. */
const ORDER: readonly { task: Task; seeds?: string }[] = [
  { task: 'digits', seeds: 'seed=30,31,32' },
  { task: 'odd' },
  { task: 'digits' },
];

async function main(): Promise<number> {
  const { values } = parseArgs({ options: { jobs: { type: 'string' } } });
  const jobs = values.jobs === undefined ? undefined : Number(values.jobs);
  const controller = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM'] as const) process.once(signal, () => controller.abort());
  const run = async (file: string, part: Task | 'screening', only: readonly string[] = []) => {
    const { signal } = controller;
    const summary = await runStudy(file, { out: folderOf(part), jobs, only, signal, onProgress: report(part) });
    if (summary.failed.length > 0)
      throw new Error(`Expected every run of ${part} to end, ${summary.failed.length} failed`);
    return !summary.aborted;
  };
  if (!(await run(SCREENING, 'screening'))) return 130;
  // As it will be committed: the rule must not see digits that the committed results do not have.
  const screening = compactResults(collectResults(SCREENING, folderOf('screening')));
  mkdirSync(FOLDER, { recursive: true });
  for (const task of TASK_NAMES)
    writeFileSync(decidingFile(task), `${JSON.stringify(decidingStudy(screening, task), null, 2)}\n`);
  for (const { task, seeds } of ORDER)
    if (!(await run(decidingFile(task), task, seeds === undefined ? [] : [seeds]))) return 130;
  return 0;
}

function report(part: string) {
  let last = -1;
  return ({ done, total }: { done: number; total: number }) => {
    if (done === last) return;
    last = done;
    console.log(`${new Date().toISOString()} ${part} ${done}/${total}`);
  };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main();
