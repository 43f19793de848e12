/** The files that a study leaves while it runs: one per run that is done or failed, and one about the study itself. */

import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import type { Schema } from 'ajv';
import { isMissing, namingFiles } from 'sdpo/tools';
import writeFileAtomic from 'write-file-atomic';
import { listOf, number, numberOrNull, objectOf, readJsonFile, recordOf, text } from './json-file.js';
import { fingerprint } from './plan.js';
import type { Experiment, Measures, StudyCell, StudyConfig, StudyResults, StudyRun } from './types.js';

/** What the report needs to know beside the declaration and the runs. */
export interface StudyRecord {
  /** Absolute path of the declaration. */
  readonly file: string;
  /** Fingerprint of the options that the shared files were made with. */
  readonly options: string;
  readonly metrics: Experiment['metrics'];
  readonly sources: Experiment['sources'];
  readonly environment: StudyResults['environment'];
}

/** A run that could not be made, and why. */
export interface FailedRun {
  readonly cell: StudyCell;
  readonly error: string;
}

/** Changes with everything that decides the numbers of a run and that the declaration says; code is not part of it. */
export function keyOf(config: StudyConfig, cell: StudyCell): string {
  return fingerprint({ cell, options: config.options, decidingMetric: config.decidingMetric });
}

/** The files below the folder of a study. All writing is atomic: a file is there as a whole or not at all. */
export class StudyFolder {
  readonly #out: string;
  readonly #config: StudyConfig;

  constructor(out: string, config: StudyConfig) {
    this.#out = out;
    this.#config = config;
  }

  /** Makes the folders; gives the one for what the runs share. */
  create(): string {
    const shared = join(this.#out, 'shared', this.options);
    for (const folder of [shared, join(this.#out, 'runs'), join(this.#out, 'failed')]) {
      mkdirSync(folder, { recursive: true });
    }
    return shared;
  }

  get decidingMetric(): string {
    return this.#config.decidingMetric;
  }

  /** Fingerprint of the experiment's options. */
  get options(): string {
    return fingerprint(this.#config.options);
  }

  /** The run of this very cell; undefined where there is none, or one of a cell that was declared differently. */
  read(cell: StudyCell): StudyRun | undefined {
    const found = readIfThere<{ key: string; run: StudyRun }>(this.#path('runs', cell.id), 'a run', RUN);
    return found?.key === keyOf(this.#config, cell) ? { ...withNumbers(found.run), cell } : undefined;
  }

  async write(run: StudyRun): Promise<void> {
    const { id } = run.cell;
    await writeJson(this.#path('runs', id), { key: keyOf(this.#config, run.cell), run });
    rmSync(this.#path('failed', id), { force: true });
  }

  async writeFailure(cell: StudyCell, error: string): Promise<void> {
    await writeJson(this.#path('failed', cell.id), { key: keyOf(this.#config, cell), error });
  }

  readRecord(): StudyRecord | undefined {
    return StudyFolder.readRecordOf(this.#out);
  }

  /** What a folder says about the study it belongs to; undefined where it belongs to none. */
  static readRecordOf(out: string): StudyRecord | undefined {
    return readIfThere(join(out, 'study.json'), 'the record of a study', RECORD);
  }

  async writeRecord(record: StudyRecord): Promise<void> {
    await writeJson(join(this.#out, 'study.json'), record);
  }

  #path(kind: 'runs' | 'failed', id: string): string {
    return join(this.#out, kind, `${id}.json`);
  }
}

const measures = recordOf(numberOrNull);
const images = listOf(listOf(number));
const RUN: Schema = objectOf({
  key: text,
  run: {
    ...objectOf({
      ...{ trajectory: listOf(objectOf({ step: number, metrics: measures })), final: measures },
      ...{ peak: objectOf({ step: number, metrics: measures }), bins: recordOf(listOf(numberOrNull)), samples: images },
      ...{ steps: number, seconds: number },
    }),
    dependentSchemas: { before: { properties: { before: images } }, diverged: { properties: { diverged: text } } },
  },
});
const RECORD: Schema = objectOf({
  ...{ file: text, options: text, metrics: recordOf(text), sources: recordOf(text) },
  environment: recordOf({ type: ['string', 'number'] }),
});

/** Undefined where there is no such file. */
function readIfThere<T>(path: string, what: string, schema: Schema): T | undefined {
  try {
    return readJsonFile<T>(path, what, schema);
  } catch (error) {
    if (isMissing(error)) return undefined;
    throw error;
  }
}

/** Typed arrays, which an experiment may give, as lists. */
async function writeJson(file: string, value: unknown): Promise<void> {
  const plain = (_: string, part: unknown) =>
    ArrayBuffer.isView(part) ? Array.from(part as unknown as ArrayLike<number>) : part;
  await namingFiles({ task: 'write a file of the study', path: file }, () =>
    writeFileAtomic(file, `${JSON.stringify(value, plain)}\n`),
  );
}

/** JSON has no NaN; a measure that was not finite comes back as one. */
function withNumbers(run: StudyRun): StudyRun {
  const numbers = (measures: Measures) =>
    Object.fromEntries(Object.entries(measures).map(([name, value]) => [name, value ?? Number.NaN]));
  return {
    ...run,
    trajectory: run.trajectory.map(({ step, metrics }) => ({ step, metrics: numbers(metrics) })),
    final: numbers(run.final),
    peak: { step: run.peak.step, metrics: numbers(run.peak.metrics) },
  };
}

/** Why something that an experiment gave is not the result of a run; undefined where it is. */
export function problemOfRun(run: StudyRun, metrics: Experiment['metrics'], deciding: string): string | undefined {
  if (typeof run !== 'object' || run === null) return 'Expected the experiment to give a run, received nothing';
  for (const field of ['trajectory', 'final', 'peak', 'bins', 'samples', 'steps', 'seconds'] as const) {
    if (run[field] === undefined) return `Expected the run to have the field ${field}`;
  }
  if (run.trajectory.length === 0) return 'Expected run.trajectory to start with the base, received an empty list';
  const parts: [string, Measures][] = [
    ['run.final', run.final],
    ['run.peak.metrics', run.peak.metrics],
  ];
  for (const [path, measures] of parts) {
    for (const name of Object.keys(metrics)) {
      const value = measures?.[name];
      if (typeof value !== 'number') return `Expected ${path}.${name} to be a number, received ${value}`;
    }
    // A run that fell apart has a bad value, not none: left out, it would flatter the arm.
    if (!Number.isFinite(measures[deciding])) {
      return `Expected ${path}.${deciding}, the metric that decides, to be finite, received ${measures[deciding]}`;
    }
  }
  return undefined;
}
