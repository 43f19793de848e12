/** The file that holds all runs of a study: small enough to be committed, complete enough for every table and plot of the report. */

import type { Schema } from 'ajv';
import { configError, describe, namingFiles, printable } from 'sdpo/tools';
import writeFileAtomic from 'write-file-atomic';
import { focusOf } from './focus.js';
import { listOf, number, numberOrNull, objectOf, readJsonFile, recordOf, text } from './json-file.js';
import { extraSettings, makeCell, problemsOfStudy } from './plan.js';
import type { Measures, StudyResults, StudyRun } from './types.js';

const DIGITS = 5;

function rounded(value: number): number {
  return Number.isFinite(value) ? Number(value.toPrecision(DIGITS)) : value;
}

function roundedMeasures(measures: Measures): Measures {
  return Object.fromEntries(Object.entries(measures).map(([name, value]) => [name, rounded(value)]));
}

/**
 * Numbers with five significant digits, and only what the report uses: of every run the final and best measures and what they were chosen by; whole
 * trajectories and statistics by timestep of the runs that are plotted, samples of those that are shown.
 */
export function compactResults(results: StudyResults): StudyResults {
  const focus = focusOf(results);
  const { decidingMetric } = results.config;
  const runs = results.runs.map((run): StudyRun => {
    const { trajectory, final, peak, bins, samples, before, seconds, ...rest } = run;
    const plotted = focus.isPlotted(run);
    const shown = focus.isShown(run);
    const last = trajectory.length - 1;
    const points = trajectory
      .filter(({ step }, i) => plotted || i === 0 || i === last || step === peak.step)
      .map(({ step, metrics }) => ({
        step,
        metrics: roundedMeasures(plotted ? metrics : { [decidingMetric]: metrics[decidingMetric]! }),
      }));
    return {
      ...rest,
      trajectory: points,
      final: roundedMeasures(final),
      peak: { step: peak.step, metrics: roundedMeasures(peak.metrics) },
      bins: focus.isPlottedByTimestep(run)
        ? mapValues(bins, (list) => list.map((value) => (value === null ? null : rounded(value))))
        : {},
      samples: shown ? samples : [],
      ...(shown && before !== undefined ? { before } : {}),
      seconds: rounded(seconds),
    };
  });
  return { ...results, runs };
}

function mapValues<A, B>(record: Readonly<Record<string, A>>, map: (value: A) => B): Record<string, B> {
  return Object.fromEntries(Object.entries(record).map(([name, value]) => [name, map(value)]));
}

/** A run in the file: names are those of the declaration, measures lists in the order of `measures`, images base64 of their gray values. */
interface FileRun {
  cell: [arm: string, source: string, beta: number, seed: number];
  settings?: StudyRun['cell']['settings'];
  final: (number | null)[];
  peak: (number | null)[];
  peakStep: number;
  steps: number;
  seconds: number;
  diverged?: string;
  /** Step, then the measures that the point has; a shorter point has the deciding one only. */
  trajectory: (number | null)[][];
  bins?: StudyRun['bins'];
  samples?: string[];
  before?: string[];
}

interface ResultsFile extends Omit<StudyResults, 'runs'> {
  measures: string[];
  runs: FileRun[];
}

/** Writes results as {@link readResults} reads them, one run per line. Atomic. */
export async function writeResults(file: string, results: StudyResults): Promise<void> {
  const measures = [...new Set(results.runs.flatMap(({ final }) => Object.keys(final)))];
  const { runs, ...head } = results;
  const lines = runs.map((run) => JSON.stringify(encodeRun(run, measures, results.config)));
  const top = JSON.stringify({ ...head, measures }, null, 1).replace(/\n}$/, '');
  await namingFiles({ task: 'write the results of the study', path: file }, () =>
    writeFileAtomic(file, `${top},\n "runs": [\n${lines.join(',\n')}\n ]\n}\n`),
  );
}

function encodeRun(run: StudyRun, measures: readonly string[], config: StudyResults['config']): FileRun {
  const list = (values: Measures) => measures.map((name) => values[name] ?? null);
  const { arm, source, beta, seed } = run.cell;
  const extra = extraSettings(config, run.cell);
  const images = (samples: StudyRun['samples']) => samples.map((image) => Buffer.from(image).toString('base64'));
  return {
    cell: [arm, source, beta, seed],
    ...(Object.keys(extra).length > 0 ? { settings: extra } : {}),
    final: list(run.final),
    peak: list(run.peak.metrics),
    peakStep: run.peak.step,
    steps: run.steps,
    seconds: run.seconds,
    ...(run.diverged === undefined ? {} : { diverged: run.diverged }),
    trajectory: run.trajectory.map(({ step, metrics }) =>
      Object.keys(metrics).length === 1 ? [step, metrics[config.decidingMetric]!] : [step, ...list(metrics)],
    ),
    ...(Object.keys(run.bins).length > 0 ? { bins: run.bins } : {}),
    ...(run.samples.length > 0 ? { samples: images(run.samples) } : {}),
    ...(run.before === undefined ? {} : { before: images(run.before) }),
  };
}

const numbers = listOf(numberOrNull);
const RESULTS: Schema = objectOf({
  ...{ title: text, config: { type: 'object' }, metrics: recordOf(text), sources: recordOf(text) },
  ...{ environment: recordOf({ type: ['string', 'number'] }), measures: listOf(text) },
  runs: listOf(
    objectOf(
      {
        cell: { type: 'array', items: [text, text, number, number], minItems: 4, maxItems: 4 },
        settings: recordOf({ type: ['string', 'number', 'boolean'] }),
        ...{ final: numbers, peak: numbers, peakStep: number, steps: number, seconds: number, diverged: text },
        trajectory: listOf({ ...numbers, items: numberOrNull, minItems: 1 }),
        ...{ bins: recordOf(numbers), samples: listOf(text), before: listOf(text) },
      },
      ['cell', 'final', 'peak', 'peakStep', 'steps', 'seconds', 'trajectory'],
    ),
  ),
});

/**
 * Reads a file of {@link writeResults}.
 *
 * @throws SdpoError `ERR_SDPO_CONFIG` with the path where it is none
 */
export function readResults(file: string): StudyResults {
  const { measures, runs, ...head } = readJsonFile<ResultsFile>(file, 'the results of a study', RESULTS);
  const problems = problemsOfStudy(head.config);
  runs.forEach(({ cell: [arm] }, i) => {
    if (!Object.hasOwn(head.config.arms ?? {}, arm))
      problems.push(`Expected runs[${i}] to be of a declared arm, received ${describe(arm)}`);
  });
  if (problems.length > 0) throw configError(problems.map((problem) => `${printable(file)}: ${problem}`).join('\n'));
  return { ...head, runs: runs.map((run) => decodeRun(run, measures, head.config)) };
}

function decodeRun(run: FileRun, measures: readonly string[], config: StudyResults['config']): StudyRun {
  const [arm, source, beta, seed] = run.cell;
  const measured = (values: readonly (number | null)[]): Measures =>
    Object.fromEntries(measures.map((name, i) => [name, values[i] ?? Number.NaN]));
  const images = (samples: readonly string[]) => samples.map((image) => [...Buffer.from(image, 'base64')]);
  return {
    cell: makeCell(config, { arm, source, beta, seed }, run.settings ?? {}),
    trajectory: run.trajectory.map(([step, ...values]) => ({
      step: step!,
      metrics: values.length === 1 ? { [config.decidingMetric]: values[0] ?? Number.NaN } : measured(values),
    })),
    final: measured(run.final),
    peak: { step: run.peakStep, metrics: measured(run.peak) },
    bins: run.bins ?? {},
    samples: images(run.samples ?? []),
    ...(run.before === undefined ? {} : { before: images(run.before) }),
    steps: run.steps,
    ...(run.diverged === undefined ? {} : { diverged: run.diverged }),
    seconds: run.seconds,
  };
}
