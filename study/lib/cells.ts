/** Runs of a study by cell: what is averaged with what, and what is paired with what. */

import { extraSettings } from './plan.js';
import type { Measures, StudyCell, StudyConfig, StudyResults, StudyRun } from './types.js';

/** Which weights a number is about: those after the last step, or those at the best step of the run. */
export type Moment = 'final' | 'peak';
export const MOMENTS: readonly Moment[] = ['final', 'peak'];

/** All replicates of one arm, source, β and condition. */
export interface Cell {
  readonly arm: string;
  readonly source: string;
  readonly beta: number;
  /** Settings of the group beside `base`, as text; empty where there are none. */
  readonly condition: string;
  /** Runs by replicate: seed, and base where the settings name one. */
  readonly runs: ReadonlyMap<string, StudyRun>;
}

/** What pairs the runs of two arms: they share pairs of samples, timesteps and noise. */
function replicateOf(config: StudyConfig, cell: StudyCell): string {
  const { base } = extraSettings(config, cell);
  return base === undefined ? `${cell.seed}` : `${cell.seed} of ${base}`;
}

/** Settings of a group that make its runs another thing than those of other groups, as text. */
export function conditionText(settings: StudyCell['settings']): string {
  return Object.entries(settings)
    .filter(([name]) => name !== 'base')
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(([name, value]) => `${name} ${typeof value === 'number' ? Number(value.toPrecision(3)) : value}`)
    .join(', ');
}

/** The cells of a study in the order of its sources, β, conditions and arms. */
export class CellTable {
  readonly all: readonly Cell[];
  readonly #byKey = new Map<string, Cell>();

  constructor({ config, runs }: Pick<StudyResults, 'config' | 'runs'>) {
    const found = new Map<string, Cell & { runs: Map<string, StudyRun> }>();
    for (const run of runs) {
      const { arm, source, beta } = run.cell;
      const condition = conditionText(extraSettings(config, run.cell));
      const key = keyOf(source, beta, arm, condition);
      const cell = found.get(key) ?? { arm, source, beta, condition, runs: new Map() };
      cell.runs.set(replicateOf(config, run.cell), run);
      found.set(key, cell);
    }
    this.#byKey = found;
    const sources = [...new Set(config.groups.flatMap((group) => group.sources))];
    const arms = Object.keys(config.arms);
    const order = (cell: Cell) => [sources.indexOf(cell.source), cell.beta, cell.condition, arms.indexOf(cell.arm)];
    this.all = [...found.values()].sort((a, b) => compare(order(a), order(b)));
  }

  get(source: string, beta: number, arm: string, condition = ''): Cell | undefined {
    return this.#byKey.get(keyOf(source, beta, arm, condition));
  }
}

function keyOf(source: string, beta: number, arm: string, condition: string): string {
  return JSON.stringify([source, beta, arm, condition]);
}

function compare(a: readonly (number | string)[], b: readonly (number | string)[]): number {
  const at = a.findIndex((part, i) => part !== b[i]);
  return at < 0 ? 0 : a[at]! < b[at]! ? -1 : 1;
}

function measuresAt(run: StudyRun, moment: Moment): Measures {
  return moment === 'final' ? run.final : run.peak.metrics;
}

/** A metric of every replicate, on the sample set that is reported. */
export function valuesOf(cell: Cell, metric: string, moment: Moment): number[] {
  return [...valuesByReplicate(cell, metric, moment).values()];
}

export function valuesByReplicate(cell: Cell, metric: string, moment: Moment): Map<string, number> {
  return new Map(Array.from(cell.runs, ([replicate, run]) => [replicate, measuresAt(run, moment)[metric]!]));
}

/** The same on the sample set that choices are made on. */
export function choosingValues(cell: Cell, metric: string, moment: Moment): number[] {
  return [...cell.runs.values()].map(({ trajectory }) => {
    const values = trajectory.map(({ metrics }) => metrics[metric]!);
    // The base itself, step 0, is no result of a run.
    return moment === 'final'
      ? values[values.length - 1]!
      : Math.max(...(values.length > 1 ? values.slice(1) : values));
  });
}

/** `arm - baseline` by replicate, for those that both have. */
export function pairedDifferences(
  arm: Cell | undefined,
  baseline: Cell | undefined,
  metric: string,
  moment: Moment,
): Map<string, number> {
  const differences = new Map<string, number>();
  for (const [replicate, run] of arm?.runs ?? []) {
    const other = baseline?.runs.get(replicate);
    if (other === undefined) continue;
    differences.set(replicate, measuresAt(run, moment)[metric]! - measuresAt(other, moment)[metric]!);
  }
  return differences;
}
