/** The figures about the deciding metric: against β, over training, arms beside each other, and reward against validity. */

import { answerQuestions, baselineFamily, familyOf } from '../answers.js';
import { type Cell, CellTable, conditionText, MOMENTS, type Moment, valuesOf } from '../cells.js';
import { type Focus, focusOf, titleOf } from '../focus.js';
import { meanInterval } from '../statistics.js';
import type { StudyGroup, StudyResults } from '../types.js';
import { drawPanel, type Panel, type Spec, type Style, styleAt } from './draw.js';
import { formatNumber } from './format.js';
import { MOMENT_TITLES } from './tables.js';

/** Panels that share a legend. */
export interface Figure {
  readonly id: string;
  readonly title: string;
  readonly caption: string;
  readonly legend: readonly { readonly title: string; readonly style: Style }[];
  readonly panels: readonly Panel[];
}

export interface Series {
  readonly title: string;
  readonly style: Style;
}

/** A point of a line with its interval. */
export interface Point {
  series: string;
  x: number;
  y: number;
  low: number;
  high: number;
}

/** Styles by arm, the same in all figures of a report. */
export function armStyles({ config }: StudyResults): (arm: string) => Style {
  const arms = Object.keys(config.arms);
  return (arm) => styleAt(arms.indexOf(arm));
}

/** Channels that give every series its style. */
export function seriesEncoding(
  series: readonly Series[],
  channels: readonly ('color' | 'shape' | 'strokeDash')[],
): Spec {
  const domain = series.map(({ title }) => title);
  const ranges = {
    color: series.map(({ style }) => style.colour),
    shape: series.map(({ style }) => style.shape),
    strokeDash: series.map(({ style }) => style.dash),
  };
  return Object.fromEntries(
    channels.map((channel) => [
      channel,
      { field: 'series', type: 'nominal', scale: { domain, range: ranges[channel] }, legend: null },
    ]),
  );
}

/** What a line plot says, for those who do not see it. */
export function describeLines(
  what: string,
  points: readonly { series: string; x: number; y: number }[],
  x: string,
): string {
  const names = [...new Set(points.map(({ series }) => series))];
  const parts = names.map((name) => {
    const line = points.filter(({ series, y }) => series === name && Number.isFinite(y));
    if (line.length === 0) return `${name}: none`;
    const [first, last] = [line[0], line[line.length - 1]];
    const at = (point: { x: number; y: number }) =>
      `${formatNumber(point.y)} at ${x} ${Number(point.x.toPrecision(3))}`;
    return line.length === 1 ? `${name}: ${at(first)}` : `${name}: ${at(first)}, ${at(last)}`;
  });
  return `${what}. ${parts.join('; ')}.`;
}

/** One figure for each group: lines over β where it has several, arms beside each other where it has one. */
export async function groupFigures(results: StudyResults): Promise<Figure[]> {
  const figures: Figure[] = [];
  for (const group of results.config.groups) {
    const figure = group.betas.length > 1 ? await betaFigure(results, group) : await armsFigure(results, group);
    if (figure.panels.length > 0) figures.push(figure);
  }
  return figures;
}

/** The series of a group: its arms, and what they are to be compared with where the group has it not. */
function seriesOfGroup(results: StudyResults, group: StudyGroup) {
  const { config } = results;
  const style = armStyles(results);
  const condition = conditionText(group.settings ?? {});
  const baseline = Object.keys(config.arms).find((arm) => familyOf(config, arm) === baselineFamily(config))!;
  const own = group.arms.map((arm) => ({ arm, condition }));
  const compared = condition === '' ? (group.arms.includes(baseline) ? [] : [baseline]) : group.arms;
  return [...own, ...compared.map((arm) => ({ arm, condition: '' }))].map(({ arm, condition: own }) => ({
    arm,
    condition: own,
    title: titleOf(config, arm, own),
    style: condition !== '' && own === '' ? { ...style(arm), dash: [2, 3] } : style(arm),
  }));
}

function groupTitle(group: StudyGroup): string {
  const condition = conditionText(group.settings ?? {});
  return condition === '' ? group.name : `${group.name} (${condition})`;
}

async function betaFigure(results: StudyResults, group: StudyGroup): Promise<Figure> {
  const metric = results.config.decidingMetric;
  const table = new CellTable(results);
  const series = seriesOfGroup(results, group);
  const panels: Panel[] = [];
  for (const source of group.sources) {
    for (const moment of MOMENTS) {
      const points = series.flatMap(({ arm, condition, title }, i): (Point & { beta: number })[] =>
        group.betas.flatMap((beta) => {
          const cell = table.get(source, beta, arm, condition);
          if (cell === undefined) return [];
          const { mean: y, low, high } = meanInterval(valuesOf(cell, metric, moment));
          // Side by side, so that intervals do not hide each other.
          const x = beta * 1.035 ** (i - (series.length - 1) / 2);
          return [{ series: title, x, beta, y, low, high }];
        }),
      );
      if (points.length === 0) continue;
      const title = `${source}, ${MOMENT_TITLES[moment]}`;
      const alt = describeLines(
        `${metric} against β on ${title}`,
        points.map((p) => ({ ...p, x: p.beta })),
        'β',
      );
      panels.push(await drawPanel(title, alt, linesSpec(series, points, betaAxis(group.betas), metric, 'bars')));
    }
  }
  return {
    id: `group-${slug(group.name)}`,
    title: `${metric} against β: ${groupTitle(group)}`,
    caption: `Mean over the seeds with its 95 % interval, ${MOMENT_TITLES.final} on the left and ${MOMENT_TITLES.peak} on the right of each pair of panels.`,
    legend: series,
    panels,
  };
}

function betaAxis(betas: readonly number[]): Spec {
  return {
    type: 'quantitative',
    title: 'β (log scale)',
    scale: { type: 'log', domain: [Math.min(...betas) / 1.25, Math.max(...betas) * 1.25], nice: false },
    axis: { values: betas, format: '~g', grid: false },
  };
}

/** Lines with points, and intervals as bars or as bands. */
export function linesSpec(
  series: readonly Series[],
  points: readonly Point[],
  x: Spec,
  y: string,
  intervals: 'bars' | 'band',
): Spec {
  const position = {
    x: { field: 'x', ...x },
    y: { field: 'y', type: 'quantitative', title: y, scale: { zero: false } },
  };
  const bounds = { x: position.x, y: { ...position.y, field: 'low' }, y2: { field: 'high' } };
  const spread = points.filter(({ low }) => Number.isFinite(low));
  const mark =
    intervals === 'bars'
      ? { type: 'rule', strokeWidth: 1.5, opacity: 0.75 }
      : { type: 'area', opacity: 0.14, line: false };
  const alone = points.length === new Set(points.map((point) => point.series)).size;
  return {
    data: { values: points.filter((point) => Number.isFinite(point.y)) },
    layer: [
      { data: { values: spread }, mark, encoding: { ...bounds, ...seriesEncoding(series, ['color']) } },
      ...(alone
        ? []
        : [{ mark: 'line', encoding: { ...position, ...seriesEncoding(series, ['color', 'strokeDash']) } }]),
      { mark: 'point', encoding: { ...position, ...seriesEncoding(series, ['color', 'shape']) } },
    ],
  };
}

async function armsFigure(results: StudyResults, group: StudyGroup): Promise<Figure> {
  const metric = results.config.decidingMetric;
  const table = new CellTable(results);
  const [beta] = group.betas;
  // Beside the group's own arms, those of the first group, which the controls are controls of.
  const own = seriesOfGroup(results, group);
  const first = results.config.groups[0].arms.filter((arm) => !own.some((series) => series.arm === arm));
  const rows = [
    ...first.map((arm) => ({ arm, condition: '', title: titleOf(results.config, arm) })),
    ...own.sort((a, b) => Number(first.includes(b.arm)) - Number(first.includes(a.arm))),
  ];
  const panels: Panel[] = [];
  for (const source of group.sources) {
    const values = rows.flatMap(({ arm, condition, title }) => {
      const cell = table.get(source, beta, arm, condition);
      if (cell === undefined) return [];
      return MOMENTS.map((moment) => {
        const { mean: x, low, high } = meanInterval(valuesOf(cell, metric, moment));
        return { arm: title, moment: MOMENT_TITLES[moment], x, low, high };
      });
    });
    if (values.length === 0) continue;
    const title = `${source}, β = ${beta}`;
    const listed = values
      .filter(({ moment }) => moment === MOMENT_TITLES.final)
      .map(({ arm, x }) => `${arm} ${formatNumber(x)}`);
    const alt = `${metric} by arm on ${title}, ${MOMENT_TITLES.final}: ${listed.join('; ')}.`;
    panels.push(await drawPanel(title, alt, dotsSpec(values, 'arm', metric, false)));
  }
  return {
    id: `group-${slug(group.name)}`,
    title: `${metric} by arm: ${groupTitle(group)}`,
    caption: 'Mean over the seeds with its 95 % interval.',
    legend: MOMENT_LEGEND,
    panels,
  };
}

interface Dot {
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
function dotsSpec(values: readonly Dot[], row: string, title: string, zero: boolean): Spec {
  const series = MOMENT_LEGEND;
  const count = new Set(values.map((value) => (value as unknown as Record<string, unknown>)[row])).size;
  const marked = values.map((value) => ({ ...value, series: value.moment }));
  const y = {
    field: row,
    type: 'nominal',
    sort: null,
    title: null,
    axis: { grid: true, gridDash: [1, 3], tickBand: 'center' },
  };
  const yOffset = { field: 'series', sort: series.map((s) => s.title), scale: { paddingOuter: 0.6 } };
  const x = { field: 'x', type: 'quantitative', title, scale: { zero, nice: true } };
  return {
    height: Math.max(150, 70 + 26 * count),
    data: { values: marked },
    layer: [
      ...(zero ? [{ data: { values: [{ x: 0 }] }, mark: { type: 'rule', color: '#777' }, encoding: { x } }] : []),
      {
        transform: [{ filter: 'isValid(datum.low) && isFinite(datum.low)' }],
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
  const title = `Difference of ${metric}, arm - baseline`;
  const panel = await drawPanel(title, alt, dotsSpec(values, 'row', 'worse  ←  0  →  better', true));
  return {
    id: 'answers',
    title: 'Answers to the declared questions',
    caption: `Mean paired difference of ${metric} with its 95 % bootstrap interval; the number is that of the question in the table.`,
    legend: MOMENT_LEGEND,
    panels: values.length === 0 ? [] : [panel],
  };
}

/** Metric names of the frontier: what is optimized against what must not be lost. */
function frontierMetrics({ metrics, config }: StudyResults): [string, string] | undefined {
  const others = Object.keys(metrics).filter((name) => name !== config.decidingMetric);
  if (others.includes('reward') && others.includes('valid')) return ['valid', 'reward'];
  return others.length >= 2 ? [others[1], others[0]] : undefined;
}

export async function frontierFigure(results: StudyResults): Promise<Figure | undefined> {
  const names = frontierMetrics(results);
  if (names === undefined) return undefined;
  const [across, up] = names;
  const { config } = results;
  const [group] = config.groups;
  const series = seriesOfGroup(results, group);
  const table = new CellTable(results);
  const panels: Panel[] = [];
  for (const source of group.sources) {
    for (const moment of MOMENTS) {
      const points = series.flatMap(({ arm, condition, title }) =>
        [...group.betas]
          .sort((a, b) => a - b)
          .flatMap((beta) => {
            const cell = table.get(source, beta, arm, condition);
            if (cell === undefined) return [];
            const at = (name: string) => meanInterval(valuesOf(cell, name, moment)).mean;
            return [{ series: title, x: at(across), y: at(up), beta }];
          }),
      );
      if (points.length === 0) continue;
      const title = `${source}, ${MOMENT_TITLES[moment]}`;
      panels.push(
        await drawPanel(
          title,
          describeLines(`${up} against ${across} on ${title}, a line per arm over β`, points, across),
          frontierSpec(series, points, across, up),
        ),
      );
    }
  }
  return {
    id: 'frontier',
    title: `${up} against ${across}`,
    caption: `Means over the seeds; each line goes through the β of one arm, whose values stand beside its points. Better is up and to the right. ${up} without ${across} is reward hacking.`,
    legend: series,
    panels,
  };
}

function frontierSpec(
  series: readonly Series[],
  points: readonly Spec[] | readonly object[],
  across: string,
  up: string,
): Spec {
  const position = {
    x: { field: 'x', type: 'quantitative', title: across, scale: { zero: false } },
    y: { field: 'y', type: 'quantitative', title: up, scale: { zero: false } },
  };
  const line = { order: { field: 'beta', type: 'quantitative' }, ...seriesEncoding(series, ['color', 'strokeDash']) };
  return {
    data: { values: points },
    layer: [
      { mark: { type: 'line', opacity: 0.6 }, encoding: { ...position, ...line } },
      { mark: 'point', encoding: { ...position, ...seriesEncoding(series, ['color', 'shape']) } },
      {
        mark: { type: 'text', dx: 5, dy: -6, fontSize: 9, align: 'left' },
        encoding: { ...position, text: { field: 'beta' }, ...seriesEncoding(series, ['color']) },
      },
    ],
  };
}

/** The deciding metric and what is optimized, over training, at the β that most runs have. */
export async function trajectoryFigure(results: StudyResults, focus: Focus = focusOf(results)): Promise<Figure> {
  const { config } = results;
  const style = armStyles(results);
  const series = focus.arms.map((arm) => ({ arm, title: titleOf(config, arm), style: style(arm) }));
  const table = new CellTable(results);
  const metrics = [config.decidingMetric, ...(frontierMetrics(results)?.slice(1) ?? [])];
  const panels: Panel[] = [];
  for (const source of focus.sources) {
    for (const metric of metrics) {
      const points = series.flatMap(({ arm, title }) =>
        trajectoryPoints(table.get(source, focus.beta, arm), metric, title),
      );
      if (points.length === 0) continue;
      const alt = describeLines(`${metric} over training on ${source}`, points, 'step');
      const x = { type: 'quantitative', title: 'step', axis: { grid: false } };
      panels.push(await drawPanel(`${source}: ${metric}`, alt, linesSpec(series, points, x, metric, 'band')));
    }
  }
  return {
    id: 'trajectories',
    title: `Over training, at β = ${focus.beta}`,
    caption: 'Mean over the seeds with its 95 % interval, on the samples that choices are made on. Step 0 is the base.',
    legend: series,
    panels,
  };
}

function trajectoryPoints(cell: Cell | undefined, metric: string, series: string): Point[] {
  const byStep = new Map<number, number[]>();
  for (const { trajectory } of cell?.runs.values() ?? []) {
    for (const { step, metrics } of trajectory) {
      if (metrics[metric] !== undefined) byStep.set(step, [...(byStep.get(step) ?? []), metrics[metric]]);
    }
  }
  return [...byStep]
    .sort(([a], [b]) => a - b)
    .map(([x, values]) => {
      const { mean: y, low, high } = meanInterval(values);
      return { series, x, y, low, high };
    });
}

export function slug(text: string): string {
  return text.toLowerCase().replaceAll(/[^a-z0-9]+/g, '-');
}
