/** Which runs of a study its plots show in full: those of the first group's arms, at one β, without further conditions. */

import { conditionText } from './cells.js';
import { extraSettings } from './plan.js';
import type { StudyConfig, StudyResults, StudyRun } from './types.js';

export interface Focus {
  readonly beta: number;
  /** Those of the first group, then every other one with runs at this β. */
  readonly sources: readonly string[];
  readonly arms: readonly string[];
  /** Whether the trajectories show the run. */
  isPlotted(run: StudyRun): boolean;
  /** Whether the statistics by timestep show it too: for the sources of the first group. */
  isPlottedByTimestep(run: StudyRun): boolean;
  /** Whether its samples are shown. */
  isShown(run: StudyRun): boolean;
}

export function focusOf({ config, runs }: Pick<StudyResults, 'config' | 'runs'>): Focus {
  const headline = config.groups[0]!;
  const plain = runs.filter((run) => conditionText(extraSettings(config, run.cell)) === '');
  const beta = mostFrequent(plain.map(({ cell }) => cell.beta)) ?? headline.betas[0]!;
  const present = new Set(plain.filter(({ cell }) => cell.beta === beta).map(({ cell }) => cell.source));
  const declared = [...new Set(config.groups.flatMap((group) => group.sources))];
  const [seed] = [...new Set(plain.map(({ cell }) => cell.seed))].sort((a, b) => a - b);
  const isPlotted = ({ cell }: StudyRun) =>
    cell.beta === beta && headline.arms.includes(cell.arm) && conditionText(extraSettings(config, cell)) === '';
  const isPlottedByTimestep = (run: StudyRun) => isPlotted(run) && headline.sources.includes(run.cell.source);
  return {
    beta,
    sources: declared.filter((source) => present.has(source)),
    arms: headline.arms.filter((arm) => plain.some(({ cell }) => cell.arm === arm)),
    isPlotted,
    isPlottedByTimestep,
    isShown: (run) => isPlottedByTimestep(run) && run.cell.seed === seed,
  };
}

/** The value that most entries have; the smallest of several. */
function mostFrequent(values: readonly number[]): number | undefined {
  const counts = new Map<number, number>();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return [...counts].sort(([a, m], [b, n]) => n - m || a - b)[0]?.[0];
}

/** How the arms are called in tables and plots. */
export function titleOf({ arms }: Pick<StudyConfig, 'arms'>, arm: string, condition = ''): string {
  return condition === '' ? arms[arm]!.title : `${arms[arm]!.title} (${condition})`;
}
