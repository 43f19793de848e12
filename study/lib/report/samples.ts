/** Grids of samples as images inside the page. */

import { encode } from 'fast-png';
import { type Focus, focusOf, titleOf } from '../focus.js';
import type { StudyResults, StudyRun } from '../types.js';

/** One grid: what it shows and its image as a data URI. */
interface SampleGrid {
  readonly title: string;
  readonly alt: string;
  readonly uri: string;
  /** Pixels of the image before it is enlarged. */
  readonly width: number;
  readonly height: number;
}

export interface SampleFigure {
  readonly source: string;
  readonly beta: number;
  readonly seed: number;
  readonly grids: readonly SampleGrid[];
  /** Whether the first grid is of the base. */
  readonly before: boolean;
}

const COLUMNS = 4;
const GAP = 1;
const GAP_GRAY = 255;

/** The base and every arm, for the sources of the first group: the same starting noise in the same place. */
export function sampleFigures(results: StudyResults, focus: Focus = focusOf(results)): SampleFigure[] {
  const shown = results.runs.filter((run) => focus.isShown(run) && run.samples.length > 0);
  const sources = [...new Set(shown.map(({ cell }) => cell.source))];
  return sources.map((source) => {
    const runs = shown.filter(({ cell }) => cell.source === source);
    const base = runs.find(({ before }) => before !== undefined);
    const first = base === undefined ? [] : [makeGrid('Before training', base.before!)];
    const grids = [...first, ...runs.map((run) => gridOf(results, run))];
    return { source, beta: focus.beta, seed: runs[0]!.cell.seed, grids, before: base !== undefined };
  });
}

function gridOf({ config }: StudyResults, { cell, samples, final }: StudyRun): SampleGrid {
  const metric = config.decidingMetric;
  return makeGrid(`${titleOf(config, cell.arm)}: ${metric} ${final[metric]!.toFixed(2)}`, samples);
}

function makeGrid(title: string, images: StudyRun['samples']): SampleGrid {
  const side = Math.round(Math.sqrt(images[0]!.length));
  const rows = Math.ceil(images.length / COLUMNS);
  const [width, height] = [COLUMNS * (side + GAP) - GAP, rows * (side + GAP) - GAP];
  const data = new Uint8Array(width * height).fill(GAP_GRAY);
  images.forEach((image, index) => {
    const left = (index % COLUMNS) * (side + GAP);
    const top = Math.floor(index / COLUMNS) * (side + GAP);
    for (let i = 0; i < side * side; i++) data[(top + Math.floor(i / side)) * width + left + (i % side)] = image[i]!;
  });
  const bytes = Buffer.from(encode({ width, height, channels: 1, data }));
  return {
    title,
    alt: `${images.length} samples. ${title}`,
    uri: `data:image/png;base64,${bytes.toString('base64')}`,
    width,
    height,
  };
}
