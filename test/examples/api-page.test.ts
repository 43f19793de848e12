/** docs/api.md names every option with its default and its objectives, every field of a batch and of a call, every statistic, metric and error code. */

import { readFileSync } from 'node:fs';
import t from 'tap';
import { BATCH_FIELDS } from '../../lib/loss/batch.js';
import { ASYNC_CALL_FIELDS } from '../../lib/loss/call-options.js';
import { OBJECTIVES, OPTION_NAMES, OPTIONS } from '../../lib/loss/options.js';
import { METRICS, ROW_STATISTICS } from '../../lib/native/names.js';

const read = (file: string) => readFileSync(new URL(`../../${file}`, import.meta.url), 'utf8');
const page = read('docs/api.md');
/** The cells of the rows whose first cell names something. */
const rowsOf = (name: string) =>
  page
    .split('\n')
    .filter((line) => line.startsWith('|') && line.split('|')[1].includes(`\`${name}\``))
    .map((line) => line.split('|').map((cell) => cell.trim()));

t.test('options', async (t) => {
  for (const name of OPTION_NAMES) {
    const option = OPTIONS[name] as { default?: unknown; users?: readonly string[]; dependent?: true };
    const row = rowsOf(name).find((cells) => cells.length === 6);
    t.ok(row, name);
    if (row === undefined || name === 'objective') continue;
    const [, names, defaults, , users] = row;
    // Two options may share a row, their defaults in the order of their names.
    const index = [...names.matchAll(/`(\w+)`/g)].findIndex(([, found]) => found === name);
    const value = defaults.split(', ')[index] ?? '';
    if (option.default !== undefined && option.dependent === undefined) {
      t.equal(value.replaceAll("'", ''), String(option.default), `default of ${name}`);
    }
    if (users === "the same, link 'sigmoid'") continue;
    const documented = users.startsWith('all but')
      ? OBJECTIVES.filter((objective) => !users.includes(`\`${objective}\``))
      : OBJECTIVES.filter((objective) => users.includes(`\`${objective}\``));
    t.same(documented, option.users ?? [], `objectives of ${name}`);
  }
  t.match(page, new RegExp(OBJECTIVES.map((objective) => `'${objective}'`).join(', ')), 'all objectives');
});

t.test('fields, statistics and metrics', async (t) => {
  for (const name of [...BATCH_FIELDS.names, ...ASYNC_CALL_FIELDS.names, ...ROW_STATISTICS, ...METRICS]) {
    t.ok(rowsOf(name).length > 0, name);
  }
});

t.test('error codes', async (t) => {
  const [, codes] = /export type ErrorCode =(.*?);/s.exec(read('lib/native/errors.ts'))!;
  for (const [code] of codes.matchAll(/ERR_SDPO_\w+/g)) t.ok(rowsOf(code).length > 0, code);
});
