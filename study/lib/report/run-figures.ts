/** The figures of reward against validity and of what happens over training. */

import { type Cell, CellTable, MOMENTS, valuesOf } from '../cells.js';
import { type Focus, focusOf, titleOf } from '../focus.js';
import { meanInterval } from '../statistics.js';
import type { StudyResults } from '../types.js';
import { drawPanel, type Panel, type Spec } from './draw.js';
import {
  armStyles,
  describeLines,
  domainOf,
  type Figure,
  linesSpec,
  type Point,
  type Series,
  seriesEncoding,
  seriesOfGroup,
  sharedDomain,
} from './figures.js';
import { MOMENT_TITLES } from './tables.js';

/** Metric names of the frontier: what is optimized against what must not be lost. */
function frontierMetrics({ metrics, config }: StudyResults): [string, string] | undefined {
  const others = Object.keys(metrics).filter((name) => name !== config.decidingMetric);
  if (others.includes('reward') && others.includes('valid')) return ['valid', 'reward'];
  return others.length >= 2 ? [others[1]!, others[0]!] : undefined;
}

export async function frontierFigure(results: StudyResults): Promise<Figure | undefined> {
  const names = frontierMetrics(results);
  if (names === undefined) return undefined;
  const [across, up] = names;
  const { config } = results;
  const group = config.groups[0]!;
  const series = seriesOfGroup(results, group);
  const table = new CellTable(results);
  const ends = [Math.min(...group.betas), Math.max(...group.betas)];
  const drafts = group.sources.flatMap((source) =>
    MOMENTS.map((moment) => ({
      title: `${source}, ${MOMENT_TITLES[moment]}`,
      points: series.flatMap(({ arm, condition, title }) =>
        [...group.betas]
          .sort((a, b) => a - b)
          .flatMap((beta) => {
            const cell = table.get(source, beta, arm, condition);
            if (cell === undefined) return [];
            const at = (name: string) => meanInterval(valuesOf(cell, name, moment)).mean;
            return [{ series: title, x: at(across), y: at(up), beta, end: ends.includes(beta) }];
          }),
      ),
    })),
  );
  const all = drafts.flatMap(({ points }) => points);
  const axes = {
    x: { title: across, scale: { domain: domainOf(all.map(({ x }) => x)), nice: false } },
    y: { title: up, scale: { domain: domainOf(all.map(({ y }) => y)), nice: false } },
  };
  const panels: Panel[] = [];
  for (const { title, points } of drafts) {
    if (points.length === 0) continue;
    const alt = describeLines(`${up} against ${across} on ${title}, a line per arm over β`, points, across);
    panels.push(await drawPanel(title, alt, frontierSpec(series, points, axes)));
  }
  return {
    id: 'frontier',
    title: `${up} against ${across}.`,
    caption: `Means over the seeds; each line goes through the β of one arm from the smallest to the largest, which stand beside its ends. Better is up and to the right. A high ${up} at a low ${across} is reward hacking.`,
    legend: series,
    panels,
    pairs: true,
  };
}

function frontierSpec(series: readonly Series[], points: readonly object[], axes: { x: Spec; y: Spec }): Spec {
  const position = {
    x: { field: 'x', type: 'quantitative', ...axes.x },
    y: { field: 'y', type: 'quantitative', ...axes.y },
  };
  const line = { order: { field: 'beta', type: 'quantitative' }, ...seriesEncoding(series, ['color', 'strokeDash']) };
  return {
    data: { values: points },
    layer: [
      { mark: { type: 'line', opacity: 0.6 }, encoding: { ...position, ...line } },
      { mark: 'point', encoding: { ...position, ...seriesEncoding(series, ['color', 'shape']) } },
      {
        transform: [{ filter: 'datum.end' }],
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
  const draftsOf = (metric: string) =>
    focus.sources.map((source) => ({
      title: `${source}: ${metric}`,
      points: series.flatMap(({ arm, title }) => trajectoryPoints(table.get(source, focus.beta, arm), metric, title)),
    }));
  const drafts = metrics.map((metric) => ({ metric, drafts: draftsOf(metric) }));
  const panels: Panel[] = [];
  const x = { type: 'quantitative', title: 'step', axis: { grid: false } };
  for (const i of focus.sources.keys()) {
    for (const { metric, drafts: all } of drafts) {
      const { title, points } = all[i]!;
      if (points.length === 0) continue;
      const alt = describeLines(`${metric} over training on ${focus.sources[i]}`, points, 'step');
      const options = { series, x, y: metric, domain: sharedDomain(all), intervals: 'band' } as const;
      panels.push(await drawPanel(title, alt, linesSpec(points, options)));
    }
  }
  return {
    id: 'trajectories',
    title: `Over training, at β = ${focus.beta}.`,
    caption: 'Mean over the seeds with its 95 % interval, on the samples that choices are made on. Step 0 is the base.',
    legend: series,
    panels,
    pairs: metrics.length === 2,
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
