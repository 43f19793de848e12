/** Float64 oracle of every loss: the definitions written out naively, sharing nothing with `lib/` and `native/`, itself checked by finite differences. */

import { addGradient, rowSlope } from './gradient.js';
import { both, clip, evaluateRow, type Row, rowCount, type Settings, sum, withDefaults } from './row.js';
import type { OracleBatch, OracleCall, OracleOptions, OracleResult, Statistic } from './types.js';

export * from './types.js';

/** Loss, row statistics, metrics and gradients of a batch. */
export function oracle(batch: OracleBatch, options: OracleOptions, call: OracleCall = {}): OracleResult {
  const settings = withDefaults(options);
  const count = rowCount(batch);
  const denominator = call.denominator ?? count;
  const gradients = both((name) => new Float64Array(batch[name].policy.length));
  const rows: Row[] = [];
  let loss = 0;
  for (let i = 0; i < count; i++) {
    const row = evaluateRow(batch, settings, call, i);
    const slope = rowSlope(row, settings);
    const factor = ((batch.rowWeights?.[i] ?? 1) * (call.gradientScale ?? 1)) / denominator;
    for (const name of ['chosen', 'rejected'] as const)
      addGradient(gradients[name], batch, name, i, row, slope[name], factor);
    rows.push(row);
    loss += row.loss / denominator;
  }
  return { loss, rows: collect(rows), metrics: metricsOf(rows, settings), gradients };
}

/**
 * The batch loss as a function of the predictions alone, with everything under a stop-gradient held at its value for `base`.
 * Its plain derivative is the gradient that the losses define.
 */
export function frozenLoss(
  base: OracleBatch,
  options: OracleOptions,
  call: OracleCall = {},
): (moved: OracleBatch) => number {
  const settings = withDefaults(options);
  const count = rowCount(base);
  const frozen = Array.from({ length: count }, (_, i) => evaluateRow(base, settings, call, i));
  return (moved) => {
    let loss = 0;
    for (let i = 0; i < count; i++) loss += evaluateRow(moved, settings, call, i, frozen[i]).loss;
    return loss / (call.denominator ?? count);
  };
}

function collect(rows: Row[]): Record<Statistic, Float64Array> {
  const column = (read: (row: Row) => number) => Float64Array.from(rows, read);
  return {
    loss: column((row) => row.loss),
    logit: column((row) => row.z),
    mask: column((row) => Number(row.keep)),
    rewardChosen: column((row) => row.psi.chosen),
    rewardRejected: column((row) => row.psi.rejected),
    logWeightChosen: column((row) => row.lambda.chosen),
    logWeightRejected: column((row) => row.lambda.rejected),
    weightChosen: column((row) => Math.exp(row.lambda.chosen)),
    weightRejected: column((row) => Math.exp(row.lambda.rejected)),
    errorChosen: column((row) => row.m.chosen),
    errorRejected: column((row) => row.m.rejected),
    // The API defines it as m - δ, which does not exist where m does not.
    referenceErrorChosen: column((row) => (Number.isFinite(row.m.chosen) ? row.r.chosen : Number.NaN)),
    referenceErrorRejected: column((row) => (Number.isFinite(row.m.rejected) ? row.r.rejected : Number.NaN)),
    driftChosen: column((row) => row.q.chosen),
    driftRejected: column((row) => row.q.rejected),
  };
}

function metricsOf(rows: Row[], settings: Settings): Record<string, number> {
  const metrics: Record<string, number> = {};
  for (const [name, column] of Object.entries(collect(rows))) metrics[name] = finiteMean([...column]);
  const margins = rows.map(({ psi }) => psi.chosen - psi.rejected);
  metrics.rewardMargin = finiteMean(margins);
  metrics.implicitAccuracy = finiteMean(margins.map((d) => (Number.isFinite(d) ? (Math.sign(d) + 1) / 2 : Number.NaN)));
  metrics.maskFraction = finiteMean(rows.map((row) => Number(!row.keep)));
  const changed = ({ skipped }: Row, lambda: number) =>
    Number(!skipped && clip(settings, Math.exp(lambda)) !== Math.exp(lambda));
  const looked = {
    'diffusion-dpo': [0],
    'dpo-cm': rows.map((row) => changed(row, row.logPair)),
    sdpo: rows.flatMap((row) => [changed(row, row.lambda.chosen), changed(row, row.lambda.rejected)]),
  };
  metrics.clipFraction = finiteMean(looked[settings.objective]);
  metrics.nonFiniteRows = rows.filter((row) => row.skipped).length;
  return metrics;
}

function finiteMean(values: number[]): number {
  const finite = values.filter(Number.isFinite);
  return sum(finite) / finite.length;
}
