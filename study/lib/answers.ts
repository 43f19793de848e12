/** What the runs of a study say to its questions, at matched β and at equal budget. */

import {
  type Cell,
  CellTable,
  choosingValues,
  conditionText,
  type Moment,
  pairedDifferences,
  valuesByReplicate,
  valuesOf,
} from './cells.js';
import { type Difference, type Interval, meanInterval, meanOverCells, pairedDifference } from './statistics.js';
import type { StudyConfig, StudyQuestion, StudyResults } from './types.js';

/** Differences of the deciding metric, after the last step and at the best one. */
export type Differences = Readonly<Record<Moment, Difference>>;

export interface Answer {
  readonly question: StudyQuestion;
  /** Over all sources and β of the question, each of its cells with the same weight. */
  readonly overall: Differences;
  readonly bySource: readonly (Differences & { readonly source: string })[];
  /** Cells of the question that both arms have runs of, and how many it asks for. */
  readonly cells: { readonly found: number; readonly asked: number };
}

/** Answers to the questions that were declared, on the deciding metric. */
export function answerQuestions(results: StudyResults): Answer[] {
  const table = new CellTable(results);
  const metric = results.config.decidingMetric;
  return results.config.questions.map((question) => {
    const condition = conditionText(question.settings ?? {});
    const differences = (sources: readonly string[]): Differences => {
      const at = (moment: Moment) =>
        pairedDifference(
          cellsOf(sources, question.betas).map(([source, beta]) => {
            const [arm, baseline] = [question.arm, question.baseline].map((name) =>
              table.get(source, beta, name, condition),
            );
            return pairedDifferences(arm, baseline, metric, moment);
          }),
        );
      return { final: at('final'), peak: at('peak') };
    };
    const asked = cellsOf(question.sources, question.betas);
    const has = (name: string, [source, beta]: [string, number]) =>
      table.get(source, beta, name, condition) !== undefined;
    return {
      question,
      overall: differences(question.sources),
      bySource: question.sources.map((source) => ({ source, ...differences([source]) })),
      cells: {
        found: asked.filter((cell) => has(question.arm, cell) && has(question.baseline, cell)).length,
        asked: asked.length,
      },
    };
  });
}

function cellsOf(sources: readonly string[], betas: readonly number[]): [string, number][] {
  return sources.flatMap((source) => betas.map((beta): [string, number] => [source, beta]));
}

/** A setting that was chosen as the best of several. */
export interface BestSetting {
  readonly arm: string;
  readonly beta: number;
  readonly condition: string;
  /** Settings (arm, β, condition) it was chosen among. */
  readonly tried: number;
}

/** The best setting of a family of arms on a source. */
export interface BestOfBudget extends BestSetting {
  readonly source: string;
  readonly family: string;
  /** What the setting is the best in, and measured by. */
  readonly moment: Moment;
  /** The deciding metric on the sample set that was not used to choose. */
  readonly value: Interval;
  /** The best setting of the baseline family with the same β and conditions, and the difference to it; undefined for the baseline itself. */
  readonly rival?: BestSetting & { readonly difference: Difference };
}

export function familyOf({ arms }: Pick<StudyConfig, 'arms'>, arm: string): string {
  return arms[arm]!.family ?? arm;
}

/** The family that the questions compare with most often. */
export function baselineFamily(config: StudyConfig): string {
  const counts = new Map<string, number>();
  for (const { baseline } of config.questions) {
    const family = familyOf(config, baseline);
    counts.set(family, (counts.get(family) ?? 0) + 1);
  }
  const [first] = [...counts].sort(([, a], [, b]) => b - a);
  return first?.[0] ?? familyOf(config, Object.keys(config.arms)[0]!);
}

/**
 * For each source, the best setting of every family that was run wherever the baseline family was: with every β and under every condition. What is
 * best is chosen on one sample set and measured on the other.
 */
export function bestOfBudget(results: StudyResults): BestOfBudget[] {
  const { config } = results;
  const metric = config.decidingMetric;
  const baseline = baselineFamily(config);
  const { all } = new CellTable(results);
  const families = [...new Set(Object.keys(config.arms).map((arm) => familyOf(config, arm)))];
  const sources = [...new Set(all.map(({ source }) => source))];
  const place = ({ beta, condition }: Cell) => JSON.stringify([beta, condition]);
  const found: BestOfBudget[] = [];
  for (const source of sources) {
    const cellsOfFamily = (family: string) =>
      all.filter((cell) => cell.source === source && familyOf(config, cell.arm) === family);
    const grid = new Set(cellsOfFamily(baseline).map(place));
    if (grid.size < 2) continue;
    for (const moment of ['final', 'peak'] as const) {
      for (const family of [baseline, ...families.filter((name) => name !== baseline)]) {
        const candidates = cellsOfFamily(family).filter((cell) => grid.has(place(cell)));
        const places = new Set(candidates.map(place));
        // A method that was run with one β only was not given the budget.
        if (!coversBetas(places, grid)) continue;
        const best = chooseBest(candidates, metric, moment);
        const rivals = cellsOfFamily(baseline).filter((cell) => places.has(place(cell)));
        const rival = chooseBest(rivals, metric, moment);
        const difference = pairedDifference([pairedDifferences(best, rival, metric, moment)]);
        found.push({
          ...{ source, family, moment, ...settingOf(best, candidates.length) },
          value: meanInterval(valuesOf(best, metric, moment)),
          ...(family === baseline ? {} : { rival: { ...settingOf(rival, rivals.length), difference } }),
        });
      }
    }
  }
  return found;
}

function settingOf({ arm, beta, condition }: Cell, tried: number): BestSetting {
  return { arm, beta, condition, tried };
}

/** Whether places on the grid have all β of it. */
function coversBetas(places: ReadonlySet<string>, grid: ReadonlySet<string>): boolean {
  const betas = (names: ReadonlySet<string>) => new Set([...names].map((name) => JSON.parse(name)[0] as number));
  return betas(places).size === betas(grid).size;
}

function chooseBest(cells: readonly Cell[], metric: string, moment: Moment): Cell {
  const score = (cell: Cell) => meanInterval(choosingValues(cell, metric, moment)).mean;
  return cells.reduce((best, cell) => (score(cell) > score(best) ? cell : best));
}

/** One setting that was run on every source. */
export interface SettingAcross {
  readonly arm: string;
  readonly beta: number;
  readonly condition: string;
  /** The deciding metric, each source with the same weight. */
  readonly final: Interval;
  readonly peak: Interval;
  /** Against the first setting of the list. */
  readonly difference: Difference;
}

/**
 * The settings that were run on every source of the study, the best one first: by the mean over sources after the last step on the choosing samples.
 * All numbers are of the others.
 */
export function acrossSources(results: StudyResults): {
  sources: readonly string[];
  settings: readonly SettingAcross[];
} {
  const metric = results.config.decidingMetric;
  const table = new CellTable(results);
  const sources = [...new Set(table.all.map(({ source }) => source))];
  const keys = new Map(table.all.map((cell) => [JSON.stringify([cell.arm, cell.beta, cell.condition]), cell]));
  const complete = [...keys.values()].flatMap(({ arm, beta, condition }) => {
    const cells = sources.flatMap((source) => table.get(source, beta, arm, condition) ?? []);
    return cells.length === sources.length ? [{ arm, beta, condition, cells }] : [];
  });
  const score = ({ cells }: { cells: readonly Cell[] }) =>
    cells.reduce((sum, cell) => sum + meanInterval(choosingValues(cell, metric, 'final')).mean, 0);
  const ranked = complete.map((setting) => ({ ...setting, score: score(setting) })).sort((a, b) => b.score - a.score);
  const settings = ranked.map(({ arm, beta, condition, cells }): SettingAcross => {
    const differences = cells.map((cell, i) => pairedDifferences(cell, ranked[0]!.cells[i], metric, 'final'));
    const at = (moment: Moment) => meanOverCells(cells.map((cell) => valuesByReplicate(cell, metric, moment)));
    return { arm, beta, condition, final: at('final'), peak: at('peak'), difference: pairedDifference(differences) };
  });
  return { sources, settings };
}
