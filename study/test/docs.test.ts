/** The committed results of the digits study, and the page that is made from them. */

import { existsSync, readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { decidingStudy } from '../../examples/digits/readings.js';
import {
  PAGE,
  READINGS,
  READINGS_PAGE,
  READINGS_PLOT,
  RESULTS,
  wantedPage,
  wantedReadings,
} from '../../scripts/study-docs.js';
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

const unread = READINGS.every(({ results }) => existsSync(results)) ? false : 'no results of the second study yet';

t.test('the second study: declarations, results, page and plot belong together', { skip: unread }, async (t) => {
  const screening = readResults(READINGS[0]!.results);
  for (const { part, declaration, results } of READINGS) {
    const { config, runs } = readResults(results);
    t.same(config, readStudy(declaration), part);
    const planned = new Set(planCells(config).map(({ id }) => id));
    t.ok(
      runs.every(({ cell }) => planned.has(cell.id)),
      `${part}: no run that was not declared`,
    );
    if (part !== 'screening') t.same(config, decidingStudy(screening, part), 'what the rule makes of the screening');
  }
  const { page, plot } = await wantedReadings();
  t.ok(readFileSync(READINGS_PAGE, 'utf8') === page, 'otherwise: npm run study:docs');
  t.ok(readFileSync(READINGS_PLOT, 'utf8') === plot, 'otherwise: npm run study:docs');
});
