/** The figures over timesteps: weights, mask, gradient noise, drift, and whatever else the runs kept by timestep. */

import { CellTable } from '../cells.js';
import { type Focus, focusOf, titleOf } from '../focus.js';
import type { StudyResults, StudyRun } from '../types.js';
import { drawPanel, type Panel, type Spec } from './draw.js';
import { armStyles, describeLines, domainOf, type Figure, type Series, seriesEncoding, slug } from './figures.js';

interface BinFigure {
  readonly title: string;
  readonly caption: string;
  /** Statistics, the first drawn solid and the second dashed. */
  readonly names: readonly string[];
  readonly y: string;
  readonly map?: (value: number) => number;
  /** For what spans magnitudes. */
  readonly logarithmic?: boolean;
}

/** The statistics that `PreferenceTrainer` keeps by timestep (lib/trainer/bins.ts), in the order in which they explain a run. */
const KNOWN: readonly BinFigure[] = [
  {
    title: 'Weight by timestep',
    caption: 'Mean weight before clipping, averaged over training: solid chosen, dashed rejected.',
    names: ['weightChosen', 'weightRejected'],
    y: 'weight',
  },
  {
    title: 'Mask share by timestep',
    caption: 'Share of rows that the mask removed, averaged over training.',
    names: ['kept'],
    y: 'share removed',
    map: (kept) => 1 - kept,
  },
  {
    title: 'Gradient noise by timestep',
    caption:
      'Coefficient of variation (standard deviation over mean) of the gradient norm of a row, on a log scale. Rows without gradient, which the mask removed, count; where all are removed there is no point.',
    names: ['gradientNormCv'],
    y: 'coefficient of variation',
    logarithmic: true,
  },
  {
    title: 'Gradient norm by timestep',
    caption: 'Mean norm of the gradient of a row with respect to the predictions.',
    names: ['gradientNorm'],
    y: 'norm',
  },
  {
    title: 'Drift by timestep',
    caption: 'Mean squared distance to the reference, averaged over training: solid chosen, dashed rejected.',
    names: ['driftChosen', 'driftRejected'],
    y: 'drift q',
  },
  {
    title: 'Error by timestep',
    caption: 'Mean squared error of the policy, averaged over training: solid chosen, dashed rejected.',
    names: ['errorChosen', 'errorRejected'],
    y: 'error m',
  },
];

/** Not worth a plot, or shown with another. */
const LEFT_OUT = ['rows', 'gradientNormMax', 'clipped', 'rewardMargin'];

export async function binFigures(results: StudyResults, focus: Focus = focusOf(results)): Promise<Figure[]> {
  const found = new Set(results.runs.flatMap(({ bins }) => Object.keys(bins)));
  const known = KNOWN.filter(({ names }) => names.some((name) => found.has(name)));
  const covered = [...KNOWN.flatMap(({ names }) => names), ...LEFT_OUT];
  const others = [...found]
    .filter((name) => !covered.includes(name))
    .map((name) => ({ title: `${name} by timestep`, caption: 'Averaged over training.', names: [name], y: name }));
  const sources = results.config.groups[0]!.sources.filter((source) => focus.sources.includes(source));
  const figures: Figure[] = [];
  for (const figure of [...known, ...others]) figures.push(await binFigure(results, focus, sources, figure));
  return figures.filter(({ panels }) => panels.length > 0);
}

async function binFigure(
  results: StudyResults,
  focus: Focus,
  sources: readonly string[],
  figure: BinFigure,
): Promise<Figure> {
  const style = armStyles(results);
  const series = focus.arms.map((arm) => ({ arm, title: titleOf(results.config, arm), style: style(arm) }));
  const table = new CellTable(results);
  const drafts = sources.map((source) => ({
    source,
    points: series.flatMap(({ arm, title }) =>
      figure.names.flatMap((name, branch) => {
        const runs = [...(table.get(source, focus.beta, arm)?.runs.values() ?? [])];
        return meanBins(runs, name).flatMap((value, i, { length }) =>
          value === null ? [] : [{ series: title, branch, x: (i + 0.5) / length, y: figure.map?.(value) ?? value }],
        );
      }),
    ),
  }));
  const values = drafts.flatMap(({ points }) => points.map(({ y }) => y));
  const [low, high] = domainOf(values);
  // Only where all are above 0 has a log scale a place for them.
  const scale =
    figure.logarithmic && Math.min(...values) > 0
      ? { type: 'log', domain: [Math.min(...values) / 1.1, Math.max(...values) * 1.1], nice: false }
      : { domain: [Math.min(0, low), high] };
  const panels: Panel[] = [];
  for (const { source, points } of drafts) {
    if (points.length === 0) continue;
    const solid = points.filter(({ branch }) => branch === 0);
    const alt = describeLines(`${figure.title} on ${source}`, solid, 't/T');
    panels.push(
      await drawPanel(
        source,
        alt,
        binSpec(series, points, { title: figure.y, scale, axis: { tickCount: 5, format: '~g' } }),
      ),
    );
  }
  return {
    id: slug(figure.title),
    title: `${figure.title}, at β = ${focus.beta}.`,
    caption: `${figure.caption} Mean over the seeds.`,
    legend: series,
    panels,
    pairs: sources.length === 2,
  };
}

/** Mean over runs of each bin; null where no run has a number. */
function meanBins(runs: readonly StudyRun[], name: string): (number | null)[] {
  const lists = runs.flatMap(({ bins }) => (bins[name] === undefined ? [] : [bins[name]]));
  const length = Math.max(0, ...lists.map((list) => list.length));
  return Array.from({ length }, (_, i) => {
    const values = lists.map((list) => list[i]).filter((value) => typeof value === 'number' && Number.isFinite(value));
    return values.length === 0 ? null : (values as number[]).reduce((sum, value) => sum + value, 0) / values.length;
  });
}

function binSpec(series: readonly Series[], points: readonly object[], y: Spec): Spec {
  const x = {
    field: 'x',
    type: 'quantitative',
    title: 'timestep t / T',
    scale: { domain: [0, 1] },
    axis: { grid: false },
  };
  const encoding = { x, y: { field: 'y', type: 'quantitative', ...y }, ...seriesEncoding(series, ['color']) };
  const branch = (index: number) => ({ filter: `datum.branch === ${index}` });
  return {
    data: { values: points },
    layer: [
      { transform: [branch(1)], mark: { type: 'line', strokeDash: [4, 3], opacity: 0.8 }, encoding },
      { transform: [branch(0)], mark: 'line', encoding },
      {
        transform: [branch(0)],
        mark: { type: 'point', size: 22 },
        encoding: { ...encoding, ...seriesEncoding(series, ['shape']) },
      },
    ],
  };
}
