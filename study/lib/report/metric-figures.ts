/** The figures about the deciding metric: against β, arms beside each other, and the answers to the questions. */

import { answerQuestions } from '../answers.js';
import { CellTable, conditionText, MOMENTS, type Moment, valuesOf } from '../cells.js';
import { titleOf } from '../focus.js';
import { meanInterval } from '../statistics.js';
import type { StudyGroup, StudyResults } from '../types.js';
import { drawPanel, type Panel, type Spec, type Style } from './draw.js';
import {
  describeLines,
  domainOf,
  type Figure,
  LEVEL_STYLE,
  linesSpec,
  type Point,
  seriesEncoding,
  seriesOfGroup,
  sharedDomain,
  slug,
} from './figures.js';
import { formatNumber } from './format.js';
import { MOMENT_TITLES } from './tables.js';

/** One figure for each group: lines over β where it has several, arms beside each other where it has one. */
export async function groupFigures(results: StudyResults): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const group of results.config.groups) {
    const figure = group.betas.length > 1 ? await betaFigure(results, group) : await armsFigure(results, group);
    if (figure.panels.length > 0) figures.push(figure);
  }
  return figures;
}

function groupTitle(group: StudyGroup): string {
  const condition = conditionText(group.settings ?? {});
  return condition === '' ? group.name : `${group.name} (${condition})`;
}

async function betaFigure(results: StudyResults, group: StudyGroup): Promise<Figure> {
  const metric = results.config.decidingMetric;
  const table = new CellTable(results);
  const series = seriesOfGroup(results, group);
  const sources = group.sources.filter((source) =>
    series.some(({ arm, condition, own }) => {
      return own && group.betas.some((beta) => table.get(source, beta, arm, condition) !== undefined);
    }),
  );
  const drafts = sources.flatMap((source) =>
    MOMENTS.map((moment) => ({
      title: `${source}, ${MOMENT_TITLES[moment]}`,
      points: series.flatMap(({ arm, condition, title }, i): (Point & { beta: number })[] =>
        group.betas.flatMap((beta) => {
          const cell = table.get(source, beta, arm, condition);
          if (cell === undefined) return [];
          const { mean: y, low, high } = meanInterval(valuesOf(cell, metric, moment));
          // Side by side, so that intervals do not hide each other.
          const x = beta * 1.035 ** (i - (series.length - 1) / 2);
          return [{ series: title, x, beta, y, low, high }];
        }),
      ),
    })),
  );
  const drawn = new Set(drafts.flatMap(({ points }) => points.map((point) => point.series)));
  const level = baseLevel(results);
  const [low, high] = sharedDomain(drafts);
  const domain = [Math.min(low, level), Math.max(high, level)] as const;
  const options = { series, x: betaAxis(group.betas), y: metric, domain, intervals: 'bars', level } as const;
  const panels: Panel[] = [];
  for (const { title, points } of drafts) {
    if (points.length === 0) continue;
    const lines = points.map(({ beta, ...point }) => ({ ...point, x: beta }));
    const alt = describeLines(`${metric} against β on ${title}`, lines, 'β');
    panels.push(await drawPanel(title, alt, linesSpec(points, options)));
  }
  return {
    id: `group-${slug(group.name)}`,
    title: `${metric} against β: ${groupTitle(group)}.`,
    caption: 'Mean over the seeds with its 95 % interval.',
    legend: [...series.filter(({ title }) => drawn.has(title)), { title: 'before training', style: LEVEL_STYLE }],
    panels,
    pairs: true,
  };
}

/** The deciding metric of the bases, on the samples that choices are made on. */
function baseLevel({ runs, config }: StudyResults): number {
  return meanInterval(runs.map(({ trajectory }) => trajectory[0]!.metrics[config.decidingMetric]!)).mean;
}

function betaAxis(betas: readonly number[]): Spec {
  return {
    type: 'quantitative',
    title: 'β (log scale)',
    scale: { type: 'log', domain: [Math.min(...betas) / 1.25, Math.max(...betas) * 1.25], nice: false },
    axis: { values: betas, format: '~g', grid: false },
  };
}

async function armsFigure(results: StudyResults, group: StudyGroup): Promise<Figure> {
  const metric = results.config.decidingMetric;
  const table = new CellTable(results);
  const beta = group.betas[0]!;
  const own = seriesOfGroup(results, group).filter((series) => series.own);
  // Above the group's own arms those of the first group, which the controls are controls of.
  const first = results.config.groups[0]!.arms.map((arm) => ({
    arm,
    condition: '',
    title: titleOf(results.config, arm),
  })).filter(({ title }) => !own.some((series) => series.title === title));
  const rows = [...first, ...own];
  const sources = group.sources.filter((source) =>
    own.some(({ arm, condition }) => table.get(source, beta, arm, condition) !== undefined),
  );
  const drafts = sources.map((source) => ({
    title: `${source}, β = ${beta}`,
    points: rows.flatMap(({ arm, condition, title }) => {
      const cell = table.get(source, beta, arm, condition);
      if (cell === undefined) return [];
      return MOMENTS.map((moment) => {
        const { mean: x, low, high } = meanInterval(valuesOf(cell, metric, moment));
        return { row: inLines(title), moment: MOMENT_TITLES[moment], x, low, high };
      });
    }),
  }));
  const domain = domainOf(drafts.flatMap(({ points }) => points.flatMap(({ x, low, high }) => [x, low, high])));
  const panels: Panel[] = [];
  for (const { title, points } of drafts) {
    if (points.length === 0) continue;
    const listed = points
      .filter(({ moment }) => moment === MOMENT_TITLES.final)
      .map(({ row, x }) => `${row.replaceAll('\n', ' ')} ${formatNumber(x)}`);
    const alt = `${metric} by arm on ${title}, ${MOMENT_TITLES.final}: ${listed.join('; ')}.`;
    panels.push(await drawPanel(title, alt, { ...dotsSpec(points, metric, { domain, nice: true }), width: WIDE }));
  }
  return {
    id: `group-${slug(group.name)}`,
    title: `${metric} by arm: ${groupTitle(group)}.`,
    caption: 'Mean over the seeds with its 95 % interval.',
    legend: MOMENT_LEGEND,
    panels,
    pairs: true,
  };
}

/** Width of a panel whose rows have long names. */
const WIDE = 440;

/** A label in lines that leave the panel room. */
function inLines(text: string): string {
  return text.replaceAll(/(.{1,26})(?:\s+|$)/g, '$1\n').trim();
}

interface Dot {
  /** Label of the row; it may have several lines. */
  row: string;
  moment: string;
  x: number;
  low: number;
  high: number;
}

const MOMENT_STYLES: Readonly<Record<Moment, Style>> = {
  final: { colour: '#0072b2', dash: [1, 0], shape: 'circle' },
  peak: { colour: '#d55e00', dash: [1, 0], shape: 'diamond' },
};
const MOMENT_LEGEND = MOMENTS.map((moment) => ({ title: MOMENT_TITLES[moment], style: MOMENT_STYLES[moment] }));

/** Rows of points with their intervals, both moments of a run one below the other. */
function dotsSpec(values: readonly Dot[], title: string, scale: Spec, level?: number): Spec {
  const series = MOMENT_LEGEND;
  const lines = [...new Set(values.map(({ row }) => row))].map((row) => row.split('\n').length);
  const step = Math.max(24, 8 + 13 * Math.max(...lines));
  const marked = values.map((value) => ({ ...value, series: value.moment }));
  const axis = {
    grid: true,
    gridDash: [1, 3],
    tickBand: 'center',
    labelExpr: "split(datum.label, '\\n')",
    labelLimit: 0,
  };
  const y = { field: 'row', type: 'nominal', sort: null, title: null, axis };
  const yOffset = { field: 'series', sort: series.map((s) => s.title), scale: { paddingOuter: 0.6 } };
  const x = { field: 'x', type: 'quantitative', title, scale };
  const zero = { data: { values: [{ x: level }] }, mark: { type: 'rule', color: '#777' }, encoding: { x } };
  return {
    height: 60 + step * lines.length,
    data: { values: marked },
    layer: [
      ...(level === undefined ? [] : [zero]),
      {
        transform: [{ filter: 'isFinite(datum.low)' }],
        mark: { type: 'rule', strokeWidth: 1.8 },
        encoding: {
          y,
          yOffset,
          x: { ...x, field: 'low' },
          x2: { field: 'high' },
          ...seriesEncoding(series, ['color']),
        },
      },
      { mark: 'point', encoding: { y, yOffset, x, ...seriesEncoding(series, ['color', 'shape']) } },
    ],
  };
}

/** The answers to the questions as intervals around 0. */
export async function answersFigure(results: StudyResults): Promise<Figure> {
  const metric = results.config.decidingMetric;
  const values = answerQuestions(results).flatMap(({ bySource }, i) =>
    bySource.flatMap((at) =>
      MOMENTS.filter((moment) => at[moment].pairs > 0).map((moment) => {
        const { mean: x, low, high, verdict } = at[moment];
        return { row: `${i + 1}  ${at.source}`, moment: MOMENT_TITLES[moment], x, low, high, verdict };
      }),
    ),
  );
  const alt = `Paired differences of ${metric} by question and source: ${values
    .map(({ row, moment, x, verdict }) => `${row} ${moment} ${formatNumber(x)} ${verdict}`)
    .join('; ')}.`;
  const title = `${metric}: arm - baseline`;
  const panel = await drawPanel(title, alt, dotsSpec(values, 'worse  ←  0  →  better', { zero: true }, 0));
  return {
    id: 'answers',
    title: 'Answers to the declared questions.',
    caption: `Mean paired difference of ${metric} with its 95 % bootstrap interval; the number is that of the question in the table.`,
    legend: MOMENT_LEGEND,
    panels: values.length === 0 ? [] : [panel],
  };
}
