/** The tables of a study, for whichever page or console shows them. */

import { type Answer, acrossSources, answerQuestions, type BestSetting, bestOfBudget } from '../answers.js';
import { type Cell, CellTable, MOMENTS, type Moment, valuesOf } from '../cells.js';
import { titleOf } from '../focus.js';
import { type Difference, meanInterval } from '../statistics.js';
import type { StudyResults } from '../types.js';
import { formatDifference, formatInterval, formatNumber, markdownTable, type Table, textTable } from './format.js';

export const MOMENT_TITLES: Readonly<Record<Moment, string>> = {
  final: 'after the last step',
  peak: 'at the best step',
};

/** What a verdict is called, with a mark where only one of the two intervals supports it. */
function verdictText({ verdict, confirmed }: Difference): string {
  return (verdict === 'better' || verdict === 'worse') && !confirmed ? `${verdict}*` : verdict;
}

export const UNCONFIRMED_NOTE =
  "* by the declared bootstrap interval; Student's interval, which is wider for few seeds, includes 0.";

/** Arms by β on each source: the deciding metric after the last step and, in brackets, at the best one. */
export function matrixTables(results: StudyResults): Table[] {
  const { config } = results;
  const metric = config.decidingMetric;
  const { all } = new CellTable(results);
  const sources = [...new Set(all.map(({ source }) => source))];
  return sources.map((source) => {
    const cells = all.filter((cell) => cell.source === source);
    const betas = [...new Set(cells.map(({ beta }) => beta))].sort((a, b) => a - b);
    const rows = new Map<string, Map<number, Cell>>();
    for (const cell of cells) {
      const title = titleOf(config, cell.arm, cell.condition);
      const row = rows.get(title) ?? new Map<number, Cell>();
      rows.set(title, row.set(cell.beta, cell));
    }
    const text = (cell: Cell | undefined) => {
      if (cell === undefined) return '';
      const [final, peak] = MOMENTS.map((moment) => formatNumber(meanInterval(valuesOf(cell, metric, moment)).mean));
      return `${final} (${peak})`;
    };
    return {
      caption: `${source}: ${metric}, mean after the last step (at the best step)`,
      header: ['arm', ...betas.map((beta) => `β = ${beta}`)],
      rows: [...rows].map(([title, row]) => [title, ...betas.map((beta) => text(row.get(beta)))]),
      textColumns: 1,
    };
  });
}

/** Every question with what answers it. */
export function answersTable(results: StudyResults, answers: readonly Answer[] = answerQuestions(results)): Table {
  const { arms, decidingMetric } = results.config;
  return {
    caption: `Paired differences of ${decidingMetric} (arm - baseline) with 95 % intervals`,
    header: ['', 'question', 'arm - baseline', 'seeds', ...MOMENTS.flatMap((m) => [MOMENT_TITLES[m], 'verdict'])],
    rows: answers.map(({ question, overall }, i) => [
      `${i + 1}`,
      question.question,
      `${arms[question.arm]!.title} - ${arms[question.baseline]!.title}`,
      `${overall.final.count}`,
      ...MOMENTS.flatMap((moment) => [formatDifference(overall[moment]), verdictText(overall[moment])]),
    ]),
    textColumns: 3,
  };
}

/** The best setting of every method that had the whole grid. */
export function budgetTable(results: StudyResults): Table {
  const { config } = results;
  const metric = config.decidingMetric;
  const setting = (best: BestSetting) => settingText(config, best);
  return {
    caption: `Best of the grid: the setting with the best mean ${metric} on the choosing samples, measured on the others`,
    header: ['source', 'chosen for', 'best setting', 'of', metric, "baseline's best", 'of', 'difference', 'verdict'],
    rows: bestOfBudget(results).map(({ source, moment, value, rival, ...best }) => [
      source,
      `${moment} ${metric}`,
      setting(best),
      `${best.tried}`,
      formatInterval(value),
      ...(rival === undefined
        ? ['(is the baseline)', '', '', '']
        : [setting(rival), `${rival.tried}`, formatDifference(rival.difference), verdictText(rival.difference)]),
    ]),
    textColumns: 3,
  };
}

export function settingText(
  config: StudyResults['config'],
  { arm, condition, beta }: Pick<BestSetting, 'arm' | 'condition' | 'beta'>,
): string {
  return `${titleOf(config, arm, condition)}, β = ${beta}`;
}

/** The settings that every source was run with, the best first. */
export function acrossTable(results: StudyResults): Table {
  const { config } = results;
  const { sources, settings } = acrossSources(results);
  return {
    caption: `Over all sources (${sources.join(', ')}), each with the same weight: ${config.decidingMetric} of the settings that were run on all, in the order of the choosing samples`,
    header: ['setting', 'seeds', ...MOMENTS.map((moment) => MOMENT_TITLES[moment]), 'against the first', 'verdict'],
    rows: settings.map(({ final, peak, difference, ...setting }, i) => [
      settingText(config, setting),
      `${final.count}`,
      formatInterval(final),
      formatInterval(peak),
      i === 0 ? '' : formatDifference(difference),
      i === 0 ? '' : verdictText(difference),
    ]),
    textColumns: 1,
  };
}

/** Every cell of a source with all metrics. */
export function cellTable(results: StudyResults, source: string): Table {
  const { config, metrics } = results;
  const deciding = config.decidingMetric;
  const others = Object.keys(metrics).filter((name) => name !== deciding);
  const cells = new CellTable(results).all.filter((cell) => cell.source === source);
  const value = (cell: Cell, name: string, moment: Moment) =>
    formatInterval(meanInterval(valuesOf(cell, name, moment)));
  return {
    caption: `${source}: ${results.sources[source] ?? ''}`,
    header: ['arm', 'β', 'seeds', deciding, `${deciding} at best step`, ...others],
    rows: cells.map((cell) => [
      titleOf(config, cell.arm, cell.condition),
      `${cell.beta}`,
      `${cell.runs.size}`,
      value(cell, deciding, 'final'),
      value(cell, deciding, 'peak'),
      ...others.map((name) => formatNumber(meanInterval(valuesOf(cell, name, 'final')).mean)),
    ]),
    textColumns: 1,
  };
}

/** The deciding metric by arm and β, per source, as text for a console. */
export function formatStudyTable(results: StudyResults): string {
  return matrixTables(results).map(textTable).join('\n\n');
}

/** All tables in Markdown, without headings. */
export function markdownTables(results: StudyResults): string {
  const tables = [...matrixTables(results), budgetTable(results), acrossTable(results)].filter(
    ({ rows }) => rows.length > 0,
  );
  return tables.map(markdownTable).join('\n\n');
}
