/** Writes what a run found: metrics, weights, samples and a summary, all in one folder. */

import { closeSync, mkdirSync, openSync, writeFileSync, writeSync } from 'node:fs';
import { join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { EvaluatedSamples, Evaluation } from './evaluation.js';
import type { Params } from './jax.js';
import { drawSheet, type Frame } from './sheet.js';
import { saveWeights } from './weights.js';

/** One line of the final table. */
export interface Outcome {
  /** Name in files and metrics. */
  name: string;
  /** Name in the table and in the picture. */
  title: string;
  samples: EvaluatedSamples;
  /** On held-out pairs; the base is its own reference, so it has only ties. */
  implicitAccuracy: number;
  /** Fine-tuning steps and their mean duration; absent for the base. */
  training?: { steps: number; millisecondsPerStep: number; lossMillisecondsPerStep: number };
}

/** The folder of one run. */
export class Results {
  readonly folder: string;
  readonly #metrics: number;

  /** Creates the folder; without a name it is called after the time, next to this file. */
  constructor(folder: string | undefined) {
    const stamp = new Date().toISOString().slice(0, 19).replaceAll(':', '-');
    this.folder = resolve(folder ?? fileURLToPath(new URL(`results/${stamp}`, import.meta.url)));
    mkdirSync(this.folder, { recursive: true });
    this.#metrics = openSync(join(this.folder, 'metrics.jsonl'), 'w');
  }

  /** The folder as seen from the current one. */
  get path(): string {
    return relative(process.cwd(), this.folder) || '.';
  }

  /** Where the samples are drawn. */
  get picture(): string {
    return join(this.folder, 'samples.svg');
  }

  /** Appends one step to `metrics.jsonl`; written at once, so that a stopped run keeps its lines. */
  logStep(method: string, step: number, entries: Record<string, number>): void {
    writeSync(this.#metrics, `${JSON.stringify({ method, step, ...entries })}\n`);
  }

  /** Writes `<name>.safetensors`. Does not consume the parameters. */
  writeWeights(name: string, params: Params, metadata: Record<string, string>): void {
    writeFileSync(join(this.folder, `${name}.safetensors`), saveWeights(params, metadata));
  }

  /** Writes `samples.svg` under a heading, and `summary.json`, and closes the metrics. */
  finish(heading: string, outcomes: readonly Outcome[], details: Record<string, unknown>): void {
    const bands = outcomes.map(({ name, title, samples, implicitAccuracy }) => ({
      title: name === 'base' ? 'before' : title,
      numbers: {
        good: percent(samples.good),
        valid: percent(samples.valid),
        reward: samples.reward.toFixed(3),
        ...(name === 'base' ? {} : { 'implicit accuracy': percent(implicitAccuracy) }),
      },
      images: samples.images,
      frames: samples.validRows.map((valid, row): Frame => {
        return samples.goodRows[row] ? 'good' : valid ? 'valid' : 'invalid';
      }),
    }));
    writeFileSync(this.picture, drawSheet(heading, bands));
    const summary = {
      ...details,
      outcomes: outcomes.map(({ name, samples, implicitAccuracy, training }) => {
        const { reward, valid, good, coverage }: Evaluation = samples;
        return { name, reward, valid, good, coverage, implicitAccuracy, ...training };
      }),
    };
    writeFileSync(join(this.folder, 'summary.json'), `${JSON.stringify(summary, null, 2)}\n`);
    closeSync(this.#metrics);
  }
}

function percent(share: number): string {
  return `${(100 * share).toFixed(1)} %`;
}

/** The table that ends a run. */
export function formatTable(outcomes: readonly Outcome[]): string {
  const header = ['', 'reward', 'valid', 'good', 'implicit accuracy'];
  const rows = outcomes.map(({ title, samples: { reward, valid, good }, implicitAccuracy }) => [
    title,
    ...[reward, valid, good, implicitAccuracy].map((value) => value.toFixed(3)),
  ]);
  const widths = header.map((name, column) => Math.max(name.length, ...rows.map((row) => row[column]!.length)));
  return [header, ...rows]
    .map((row) => row.map((text, i) => (i === 0 ? text.padEnd(widths[i]!) : text.padStart(widths[i]!))).join('   '))
    .join('\n');
}
