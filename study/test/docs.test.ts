/** The committed results of the digits study, and the page that is made from them. */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { PAGE, RESULTS, wantedPage } from '../../scripts/study-docs.js';
import { planCells, readResults, readStudy } from '../lib/index.js';

const declaration = fileURLToPath(new URL('../../examples/digits/study.json', import.meta.url));
const skip = existsSync(RESULTS) ? false : 'no results of the study are committed yet';

t.test('the declarations of the digits study are right', async (t) => {
  for (const name of ['study.json', 'study-small.json']) {
    const file = fileURLToPath(new URL(`../../examples/digits/${name}`, import.meta.url));
    t.ok(planCells(readStudy(file)).length > 0, name);
  }
});

t.test('the committed results are of the declaration as it is', { skip }, async (t) => {
  const { config, runs } = readResults(RESULTS);
  t.same(config, readStudy(declaration));
  const planned = new Set(planCells(config).map(({ id }) => id));
  t.same(
    runs.filter(({ cell }) => !planned.has(cell.id)).map(({ cell }) => cell.id),
    [],
  );
});

t.test('docs/study.md says what the committed results say', { skip }, async (t) => {
  t.ok(readFileSync(PAGE, 'utf8') === wantedPage(), 'otherwise: npm run study:docs');
});
