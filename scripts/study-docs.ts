/**
 * Keeps the committed results of the digits study and its page together.
 *
 *   npm run study:docs                    writes the tables and findings of study/docs/study.md from the committed results
 *   npm run study:docs -- --check         changes nothing; exit code 1 where the page is not what the results say
 *   npm run study:docs -- <folder>        first gathers the committed results from the folder of a study
 */

import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { collectResults, compactResults, readResults, updateStudyMarkdown, writeResults } from '../study/lib/index.js';

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

export const RESULTS = at('examples/digits/study-results.json');
export const PAGE = at('study/docs/study.md');
const DECLARATION = at('examples/digits/study.json');

/** The page as the committed results make it. */
export function wantedPage(): string {
  return updateStudyMarkdown(readFileSync(PAGE, 'utf8'), readResults(RESULTS));
}

async function main(args: readonly string[]): Promise<number> {
  const check = args.includes('--check');
  const folder = args.find((arg) => !arg.startsWith('-'));
  if (folder !== undefined && !check) await writeResults(RESULTS, compactResults(collectResults(DECLARATION, folder)));
  if (!existsSync(RESULTS)) {
    console.error(`${relative('', RESULTS)} is not there; give the folder of a study`);
    return 1;
  }
  const wanted = wantedPage();
  if (readFileSync(PAGE, 'utf8') === wanted) return 0;
  if (check) console.error(`${relative('', PAGE)} is not what the results say: npm run study:docs`);
  else writeFileSync(PAGE, wanted);
  return check ? 1 : 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = await main(process.argv.slice(2));
