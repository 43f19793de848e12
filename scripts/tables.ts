/**
 * Writes what is made of the tables of lib/ and the addon, so that each fact is stated once; a test fails while a file differs:
 *
 *   npm run tables
 *
 * python/sdpo/tables.json: every name, default and rule that the Python package shares with lib/. schema/train.schema.json: the options of the loss,
 * with the first sentence of their doc comments.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { OPTION_NAMES, OPTIONS, TRAITS } from '../lib/loss/options.js';
import { logEntries, type Metrics } from '../lib/loss/result.js';
import { binding } from '../lib/native/binding.js';
import { METRICS, ROW_STATISTICS } from '../lib/native/names.js';
import { BETA_SCHEDULES } from '../lib/schedule/betas.js';
import { DEFAULT_BETAS, DEMANDS, ELSEWHERE, REFUSED, SCHEDULERS, WITHOUT_INFLUENCE } from '../lib/schedule/classes.js';
import { FLOW_PREDICTIONS } from '../lib/schedule/flow.js';
import { LADDERS, SPACINGS } from '../lib/schedule/ladder.js';
import { PREDICTION_TYPES, VARIANCES } from '../lib/schedule/levels.js';
import { PRESETS } from '../lib/schedule/presets.js';
import { STEP_ORDERS, TIMESTEP_DISTRIBUTIONS } from '../lib/schedule/sampling.js';
import { VARIANCE_PRESERVING_PREDICTIONS } from '../lib/schedule/variance-preserving.js';

const at = (path: string) => fileURLToPath(new URL(`../${path}`, import.meta.url));

type OptionRow = { readonly [field: string]: unknown };
const rowOf = (name: (typeof OPTION_NAMES)[number]): OptionRow => OPTIONS[name];

// ---- Python

/** Infinity is no JSON; Python's `float` reads the word. */
const finite = (value: unknown): unknown =>
  Array.isArray(value) ? value.map(finite) : value === Infinity || value === -Infinity ? String(value) : value;

function pythonTables(): string {
  // The layout of the addon's own arguments is not part of the C interface.
  const { header, operands, failureFields, rowSources, ...lists } = binding.tables;
  const logNames = Object.keys(logEntries(Object.fromEntries(METRICS.map((name) => [name, 0])) as Metrics));
  const options = OPTION_NAMES.map((name) => {
    const fields = Object.entries(rowOf(name)).map(([key, value]) => [key, finite(value)]);
    return { name, ...Object.fromEntries(fields) };
  });
  const tables = {
    comment: 'Written by scripts/tables.ts from lib/ and the addon; do not edit.',
    lists,
    rowDefaults: binding.rowDefaults.map((value) => (Number.isNaN(value) ? 'nan' : finite(value))),
    rowStatistics: ROW_STATISTICS,
    metrics: METRICS,
    logNames: Object.fromEntries(METRICS.map((name, i) => [name, logNames[i]])),
    traits: TRAITS,
    options,
    schedules: {
      schedulers: SCHEDULERS,
      refused: REFUSED,
      withoutInfluence: WITHOUT_INFLUENCE,
      demands: DEMANDS,
      elsewhere: ELSEWHERE,
      presets: PRESETS,
      betaSchedules: BETA_SCHEDULES,
      defaultBetas: DEFAULT_BETAS,
      ladders: LADDERS,
      spacings: SPACINGS,
      variances: VARIANCES,
      predictionTypes: PREDICTION_TYPES,
      variancePreservingPredictions: VARIANCE_PRESERVING_PREDICTIONS,
      flowPredictions: FLOW_PREDICTIONS,
      timestepDistributions: TIMESTEP_DISTRIBUTIONS,
      stepOrders: STEP_ORDERS,
    },
  };
  return `${JSON.stringify(tables, null, 1)}\n`;
}

// ---- The schema of a training's config

function trainSchema(): string {
  const text = readFileSync(at('schema/train.schema.json'), 'utf8');
  const start = text.indexOf('    "loss": {\n');
  const end = text.indexOf('\n    },\n', start) + '\n    },\n'.length;
  if (start < 0 || end < start) throw new Error('schema/train.schema.json has no "loss" of its own indentation');
  const loss = {
    description:
      'Options of PreferenceLoss under the same names, without the schedule (docs/api.md). An option that the objective does not use must be left at its default.',
    type: 'object',
    additionalProperties: false,
    required: OPTION_NAMES.filter((name) => rowOf(name).required),
    properties: Object.fromEntries(OPTION_NAMES.map((name) => [name, optionSchema(name)])),
  };
  const written = JSON.stringify({ loss }, null, 2).split('\n').slice(1, -1);
  return `${text.slice(0, start)}${written
    .map((line) => `  ${line}\n`)
    .join('')
    .trimEnd()},\n${text.slice(end)}`;
}

function optionSchema(name: (typeof OPTION_NAMES)[number]): object {
  const { type, values, default: usual, dependent } = rowOf(name);
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum } = rowOf(name);
  const number = { type, minimum, maximum, exclusiveMinimum, exclusiveMaximum };
  const pair = (items: object) => ({ type: 'array', items, minItems: 2, maxItems: 2 });
  const positive = { type: 'number', minimum: 0 };
  const shape =
    type === 'enum'
      ? { enum: values }
      : type === 'range'
        ? { anyOf: [positive, pair(positive)] }
        : type === 'interval'
          ? pair({ type: 'number' })
          : number;
  return { description: comments[name], ...shape, ...(dependent ? {} : { default: usual }) };
}

/** The doc comments of the options as plain text. */
const comments: { readonly [name: string]: string } = (() => {
  const file = at('lib/loss/options.ts');
  const source = ts.createSourceFile(file, readFileSync(file, 'utf8'), ts.ScriptTarget.ES2022, true);
  const found: { [name: string]: string } = {};
  source.forEachChild((node) => {
    if (!ts.isInterfaceDeclaration(node) || node.name.text !== 'PreferenceLossOptions') return;
    for (const member of node.members) {
      const text = ts.getTextOfJSDocComment(ts.getJSDocCommentsAndTags(member)[0]?.comment) ?? '';
      found[member.name!.getText()] = text.replaceAll('`', '').replace(/\s+/g, ' ').trim();
    }
  });
  return found;
})();

/** The files and what belongs into them. */
export const generated: { readonly [file: string]: () => string } = {
  [at('python/sdpo/tables.json')]: pythonTables,
  [at('schema/train.schema.json')]: trainSchema,
};

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  for (const [file, text] of Object.entries(generated)) writeFileSync(file, text());
}
