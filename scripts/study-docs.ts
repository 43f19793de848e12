/**
 * Keeps the committed results of the digits studies and their pages together.
 *
 *   npm run study:docs                    writes the tables of study/docs/study.md and readings.md, and the plot, from the committed results
 *   npm run study:docs -- --check         changes nothing; exit code 1 where a page is not what the results say
 *   npm run study:docs -- <folder>        first gathers the committed results of the first study from its folder
 *   npm run study:docs -- --readings      first gathers those of the second from build/readings
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { TASK_NAMES } from '../examples/digits/readings.js';
import { collectResults, compactResults, readResults, updateStudyMarkdown, writeResults } from '../study/lib/index.js';
import { withGenerated } from '../study/lib/report/write.js';
import { decidingFile, folderOf, SCREENING } from './readings.js';
import { type Deciding, readingsMarkdown, readingsPlot } from './readings-page.js';

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

export const RESULTS = at('examples/digits/study-results.json');
export const PAGE = at('study/docs/study.md');
const DECLARATION = at('examples/digits/study.json');

/** Declaration, folder and committed results of each part of the second study. */
export const READINGS = (['screening', ...TASK_NAMES] as const).map((part) => ({
  part,
  declaration: part === 'screening' ? SCREENING : decidingFile(part),
  folder: folderOf(part),
  results: at(`examples/digits/readings-${part}-results.json`),
}));
export const READINGS_PAGE = at('study/docs/readings.md');
export const READINGS_PLOT = at('examples/digits/readings.svg');

/** The page as the committed results make it. */
export function wantedPage(): string {
  return updateStudyMarkdown(readFileSync(PAGE, 'utf8'), readResults(RESULTS));
}

/** Both files of the second study as its committed results make them. */
export async function wantedReadings(): Promise<{ page: string; plot: string }> {
  const [screening, digits, odd] = READINGS.map(({ results }) => readResults(results));
  const deciding: Deciding = { digits: digits!, odd: odd! };
  const page = withGenerated(readFileSync(READINGS_PAGE, 'utf8'), readingsMarkdown(screening!, deciding));
  return { page, plot: await readingsPlot(deciding) };
}

async function main(args: readonly string[]): Promise<number> {
  const check = args.includes('--check');
  const folder = args.find((arg) => !arg.startsWith('-'));
  const gather = async (results: string, declaration: string, from: string) =>
    writeResults(results, compactResults(collectResults(declaration, from)));
  if (folder !== undefined && !check) await gather(RESULTS, DECLARATION, folder);
  if (args.includes('--readings') && !check) {
    for (const { results, declaration, folder } of READINGS) {
      const compact = compactResults(collectResults(declaration, folder));
      // What the page does not use would be two thirds of the files.
      const runs = compact.runs.map(({ before, ...run }) => ({ ...run, bins: {}, samples: [] }));
      await writeResults(results, { ...compact, runs });
    }
  }
  const missing = [RESULTS, ...READINGS.map(({ results }) => results)].filter((file) => !existsSync(file));
  for (const file of missing) console.error(`${relative('', file)} is not there; give the folder of a study`);
  if (missing.length > 0) return 1;
  const { page, plot } = await wantedReadings();
  const wanted: readonly (readonly [file: string, text: string])[] = [
    [PAGE, wantedPage()],
    [READINGS_PAGE, page],
    [READINGS_PLOT, plot],
  ];
  const stale = wanted.filter(([file, text]) => !existsSync(file) || readFileSync(file, 'utf8') !== text);
  for (const [file, text] of stale) {
    if (check) console.error(`${relative('', file)} is not what the results say: npm run study:docs`);
    else writeFileSync(file, text);
  }
  return check && stale.length > 0 ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
