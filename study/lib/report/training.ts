/** The report of training runs, from the metrics that they wrote line by line. */

import { existsSync } from 'node:fs';
import { basename, join } from 'node:path';
import { bestStep, configError, printable, readTextFile, VALIDATION_CRITERIA } from 'sdpo/tools';
import { readJsonFile } from '../json-file.js';
import { drawPanel, type Panel, styleAt } from './draw.js';
import { describeLines, type Figure, linesSpec, type Point, sharedDomain, slug } from './figures.js';
import { formatNumber, oneLine, type Table } from './format.js';
import { figureHtml, page, paragraph, type Section, tableHtml } from './html.js';
import { type Preview, previewsHtml, readPreviews } from './previews.js';

const KINDS = ['train', 'validation', 'evaluation'] as const;

interface Line {
  readonly step: number;
  readonly kind: (typeof KINDS)[number];
  readonly metrics: Readonly<Record<string, number>>;
}

/** One training run. */
export interface TrainingRun {
  readonly name: string;
  readonly lines: readonly Line[];
  /** The best step on held-out pairs, where the run has any. */
  readonly best: Best | undefined;
  readonly previews: readonly Preview[];
}

type Best = NonNullable<ReturnType<typeof bestStep>>;

/** Reads `metrics.jsonl`. Throws with file and line for what is not of this form; a last line that was cut off is left out. */
export function readTrainingRun(folder: string, file: string): TrainingRun {
  const texts = readTextFile(file, 'ERR_SDPO_CONFIG').split('\n');
  const complete = texts.slice(0, -1); // what follows the last line break was being written
  const byPlace = new Map<string, Line>();
  complete.forEach((text, i) => {
    if (text.trim() === '') return;
    const line = parseLine(text);
    if (line === undefined)
      throw configError(
        `Expected ${printable(`${file}:${i + 1}`)} to be {"step", "kind", "metrics"}, received ${printable(text.slice(0, 80))}`,
      );
    // A resumed run writes again the steps between its checkpoint and its end; the later ones are of the run that went on.
    byPlace.set(`${line.kind} ${line.step}`, line);
  });
  if (byPlace.size === 0) throw configError(`Expected ${printable(file)} to have metrics, received none`);
  const lines = [...byPlace.values()].sort((a, b) => a.step - b.step);
  const held = lines.filter(({ kind }) => kind === 'validation');
  const best = held.length === 0 ? undefined : bestStep(held, criterionOf(folder));
  return { name: oneLine(basename(folder)), lines, best, previews: readPreviews(join(folder, 'previews')) };
}

/** What the config of the run names its best step by; the default where it has no config that says so. */
function criterionOf(folder: string): Best['criterion'] {
  const file = join(folder, 'config.json');
  if (!existsSync(file)) return 'loss';
  const config = readJsonFile<{ validation?: { best?: unknown } } | null>(file, 'a config', {});
  return VALIDATION_CRITERIA.find((name) => name === config?.validation?.best) ?? 'loss';
}

function parseLine(text: string): Line | undefined {
  try {
    const line = JSON.parse(text) as Line;
    return KINDS.includes(line.kind) &&
      Number.isFinite(line.step) &&
      typeof line.metrics === 'object' &&
      line.metrics !== null
      ? line
      : undefined;
  } catch {
    return undefined;
  }
}

/** Curves in this order, then every other metric of an evaluation. Names are those of the trainer; per-bin entries have no curve. */
const CURVES = [
  ['loss', 'Loss'],
  ['rewards/accuracies', 'Implicit accuracy'],
  ['rewards/margins', 'Reward margin'],
  ['rewards/chosen', 'Implicit reward of chosen'],
  ['rewards/rejected', 'Implicit reward of rejected'],
  ['maskFraction', 'Share of rows removed by the mask'],
  ['clipFraction', 'Share of weights that the clip changed'],
  ['weightChosen', 'Weight of chosen'],
  ['weightRejected', 'Weight of rejected'],
  ['driftChosen', 'Drift of chosen'],
  ['driftRejected', 'Drift of rejected'],
  ['grad_norm', 'Gradient norm before clipping'],
  ['learning_rate', 'Learning rate'],
] as const;

/** Of held-out pairs, which have neither gradient nor learning rate, but errors that compare across steps. */
const HELD_OUT = [
  ...CURVES.filter(([name]) => name !== 'grad_norm' && name !== 'learning_rate'),
  ['errorChosen', 'Error of chosen'],
  ['errorRejected', 'Error of rejected'],
] as const;

const CAPTIONS: { readonly [K in Line['kind']]: string } = {
  train: 'Long runs are drawn as means over stretches of steps, with the range of each.',
  validation: 'The same rows every time, with the β and the mask threshold of the config.',
  evaluation: 'What the evaluation of the run measured.',
};

/** Points of a curve; longer ones are means over equal stretches of steps. */
const MAX_POINTS = 120;

/** Curves of the runs, one panel per metric. */
async function trainingSections(runs: readonly TrainingRun[]): Promise<Section[]> {
  const series = runs.map(({ name }, i) => ({ title: name, style: styleAt(i) }));
  const figureOf = async (
    kind: Line['kind'],
    title: string,
    curves: readonly (readonly [string, string])[],
  ): Promise<Figure> => {
    const panels: Panel[] = [];
    for (const [metric, label] of curves) {
      const points = runs.flatMap((run, i) => curve(run, kind, metric, series[i]!.title));
      if (points.length === 0) continue;
      const x = { type: 'quantitative', title: 'step', axis: { grid: false } };
      const alt = describeLines(`${label} over training`, points, 'step');
      panels.push(
        await drawPanel(
          label,
          alt,
          linesSpec(points, {
            series,
            x,
            y: metric,
            intervals: 'band',
            domain: sharedDomain([{ title: label, points }]),
          }),
        ),
      );
    }
    return { id: slug(title), title, caption: CAPTIONS[kind], legend: series, panels };
  };
  const names = new Set(
    runs.flatMap(({ lines }) =>
      lines.filter(({ kind }) => kind === 'evaluation').flatMap(({ metrics }) => Object.keys(metrics)),
    ),
  );
  const training = await figureOf('train', 'Training', CURVES);
  const validation = await figureOf('validation', 'Held-out pairs', HELD_OUT);
  const evaluation = await figureOf(
    'evaluation',
    'Evaluations',
    [...names].map((name) => [name, name] as const),
  );
  const figures = [training, validation, evaluation].filter(({ panels }) => panels.length > 0);
  const drawn = runs.flatMap(({ name, previews }) => (previews.length === 0 ? [] : [previewsHtml(name, previews)]));
  return [
    ...figures.map((figure) => ({
      id: `s-${figure.id}`,
      title: figure.title,
      html: figureHtml({ ...figure, title: `${figure.title}.` }),
    })),
    ...(drawn.length === 0 ? [] : [{ id: 'previews', title: 'Samples over training', html: drawn.join('\n') }]),
    { id: 'ends', title: 'Where the runs ended', html: tableHtml(endTable(runs)) },
  ];
}

export async function trainingPage(runs: readonly TrainingRun[]): Promise<string> {
  const title = runs.length === 1 ? `Training run ${runs[0]!.name}` : `${runs.length} training runs`;
  return page(
    title,
    paragraph(
      runs.map(({ name, lines, best }) => `${name}: ${lines[lines.length - 1]!.step} steps${bestOf(best)}`).join(', '),
    ),
    await trainingSections(runs),
  );
}

function bestOf(best: Best | undefined): string {
  return best === undefined
    ? ''
    : ` (best on the held-out pairs: step ${best.step}, ${best.criterion} ${formatNumber(best.value)})`;
}

function curve({ lines }: TrainingRun, kind: Line['kind'], metric: string, series: string): Point[] {
  const found = lines.filter((line) => line.kind === kind && Number.isFinite(line.metrics[metric]));
  const stretch = Math.max(1, Math.ceil(found.length / MAX_POINTS));
  return Array.from({ length: Math.ceil(found.length / stretch) }, (_, i) => {
    const part = found.slice(i * stretch, (i + 1) * stretch);
    const values = part.map(({ metrics }) => metrics[metric]!);
    const mean = (list: readonly number[]) => list.reduce((sum, value) => sum + value, 0) / list.length;
    const [low, high] = part.length === 1 ? [Number.NaN, Number.NaN] : [Math.min(...values), Math.max(...values)];
    return { series, x: mean(part.map(({ step }) => step)), y: mean(values), low, high };
  });
}

function endTable(runs: readonly TrainingRun[]): Table {
  const last = (run: TrainingRun, metric: string) => {
    const found = run.lines.filter(({ kind, metrics }) => kind === 'train' && Number.isFinite(metrics[metric]));
    return found.length === 0 ? '' : formatNumber(found[found.length - 1]!.metrics[metric]!);
  };
  const shown = CURVES.filter(([name]) => runs.some((run) => last(run, name) !== ''));
  return {
    caption: 'Metrics of the last step',
    header: ['run', 'step', ...shown.map(([name]) => name)],
    rows: runs.map((run) => [
      run.name,
      `${run.lines[run.lines.length - 1]!.step}`,
      ...shown.map(([name]) => last(run, name)),
    ]),
    textColumns: 1,
  };
}
