/**
 * Writes python/sdpo/tables.json: every name, default and rule that the Python package shares with lib/, so that each is stated once.
 *
 *   npx tsx python/tables.ts        writes the file; a test fails while it differs from lib/
 */
import { writeFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { LOG_RATIO_REDUCTIONS, resolveOptions, TIMESTEP_WEIGHTINGS, USED_BY } from '../lib/loss/options.js';
import { logEntries, type Metrics } from '../lib/loss/result.js';
import { METRICS, ROW_STATISTICS, TABLES } from '../lib/native/contract.js';
import { BETA_SCHEDULES } from '../lib/schedule/betas.js';
import { DEFAULT_BETAS, DEMANDS, ELSEWHERE, REFUSED, SCHEDULERS, WITHOUT_INFLUENCE } from '../lib/schedule/classes.js';
import { FLOW_PREDICTIONS } from '../lib/schedule/flow.js';
import { LADDERS, SPACINGS } from '../lib/schedule/ladder.js';
import { PREDICTION_TYPES, VARIANCES } from '../lib/schedule/levels.js';
import { PRESETS } from '../lib/schedule/presets.js';
import { STEP_ORDERS, TIMESTEP_DISTRIBUTIONS } from '../lib/schedule/sampling.js';
import { VARIANCE_PRESERVING_PREDICTIONS } from '../lib/schedule/variance-preserving.js';

export const tablesFile = fileURLToPath(new URL('./sdpo/tables.json', import.meta.url));

/** The contents of the file. */
export function pythonTables(): string {
  // The layout of the addon's own arguments is not part of the C interface.
  const { header, operands, failureFields, rowFactors, rowChecks, ...lists } = TABLES;
  const resolved = resolveOptions({ objective: 'dpo-cm', beta: 1 });
  const { objective, schedule, beta, ...defaults } = resolved;
  const logNames = Object.keys(logEntries(Object.fromEntries(METRICS.map((name) => [name, 0])) as Metrics));
  const tables = {
    comment: 'Written by python/tables.ts from lib/; do not edit.',
    lists,
    rowStatistics: ROW_STATISTICS,
    metrics: METRICS,
    logNames: Object.fromEntries(METRICS.map((name, i) => [name, logNames[i]])),
    options: {
      names: Object.keys(resolved),
      // Without objective, schedule, beta and safeguard, which have no default.
      defaults,
      usedBy: USED_BY,
      timestepWeightings: TIMESTEP_WEIGHTINGS,
      logRatioReductions: LOG_RATIO_REDUCTIONS,
    },
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

if (process.argv[1] === fileURLToPath(import.meta.url)) writeFileSync(tablesFile, pythonTables());
