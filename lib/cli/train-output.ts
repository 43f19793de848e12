/** What a training shows while it runs: a bar on a terminal, lines elsewhere, JSON for programs, or nothing. */

import cliProgress from 'cli-progress';
import { printable } from '../native/printable.js';
import { jsonLine } from '../trainer/jsonl.js';
import type { EntryKind, MetricsWriter } from '../trainer/types.js';
import { duration } from './duration.js';

export type OutputMode = 'bar' | 'lines' | 'json' | 'quiet';

export interface TrainOutput extends MetricsWriter {
  /** Begins at this step. */
  start(step: number): void;
  /** Shows a sentence beside the progress; not with `json` and `quiet`. */
  note(text: string): void;
  /** Shows, in every mode, something that is no error but that somebody should know. */
  warn(warning: Warning): void;
  /** Ends the progress; after it the cursor is on a new line. */
  stop(): void;
}

export interface Warning {
  readonly code: string;
  readonly message: string;
}

export interface OutputOptions {
  readonly mode: OutputMode;
  /** Steps in all. */
  readonly steps: number;
  /** Steps between lines; default: every step with `json`, else a twentieth of all. */
  readonly every?: number | undefined;
}

type Metrics = Readonly<Record<string, number>>;

/** Lines that a run of any length has, where nobody says how many. */
const DEFAULT_LINES = 20;

export function trainOutput({ mode, steps, every }: OutputOptions): TrainOutput {
  switch (mode) {
    case 'bar':
      return terminalBar(steps);
    case 'lines':
      return plainLines(steps, every ?? Math.max(1, Math.floor(steps / DEFAULT_LINES)));
    case 'json':
      return jsonLines(steps, every ?? 1);
    case 'quiet':
      return { start() {}, write() {}, note() {}, warn: printWarning, stop() {} };
  }
}

function terminalBar(steps: number): TrainOutput {
  const bars = new cliProgress.MultiBar({
    format: '{bar} {value}/{total}  {rate}  ETA {eta_formatted}  {metrics}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    // Such a bar would be drawn over and over by a log file.
    noTTYOutput: false,
    stream: process.stderr,
  });
  const pace = new Pace();
  let bar: cliProgress.SingleBar | undefined;
  let drawn = false;
  const log = (text: string) => bars.log(`${text}\n`);
  return {
    start(step) {
      pace.start(step);
      drawn = true;
      bar = bars.create(steps, step, { rate: '', metrics: '' });
    },
    write({ step, kind, metrics }) {
      if (kind !== 'train') log(`step ${step}: ${measured(kind, metrics)}`);
      else bar?.update(step, { rate: pace.rate(step), metrics: mainOf(metrics) });
    },
    note: log,
    // Before the bar is drawn there is nothing that a line would disturb, and after it nobody would draw the line.
    warn: (warning) => (drawn ? log(warningLine(warning)) : printWarning(warning)),
    stop() {
      drawn = false;
      bars.update(); // what was logged since the last drawing
      bars.stop();
    },
  };
}

function plainLines(steps: number, every: number): TrainOutput {
  const pace = new Pace();
  const line = (text: string) => process.stderr.write(`${text}\n`);
  return {
    start: (step) => pace.start(step),
    write({ step, kind, metrics }) {
      if (kind !== 'train') line(`step ${step}/${steps}  ${kind}: ${measured(kind, metrics)}`);
      else if (step % every === 0 || step === steps) {
        line(`step ${step}/${steps}  ${mainOf(metrics)}  ${pace.rate(step)}, about ${pace.left(step, steps)} left`);
      }
    },
    note: line,
    warn: printWarning,
    stop() {},
  };
}

function jsonLines(steps: number, every: number): TrainOutput {
  return {
    start() {},
    write(entry) {
      const { step, kind } = entry;
      if (kind !== 'train' || step % every === 0 || step === steps) console.log(jsonLine(entry).trimEnd());
    },
    note() {},
    warn: (warning) => console.log(JSON.stringify({ warning })),
    stop() {},
  };
}

function warningLine({ message }: Warning): string {
  return `Warning: ${message}`;
}

function printWarning(warning: Warning): void {
  console.error(warningLine(warning));
}

/** How fast it goes since the start of this process. */
class Pace {
  #began = performance.now();
  #first = 0;

  start(step: number): void {
    this.#began = performance.now();
    this.#first = step;
  }

  rate(step: number): string {
    const rate = 1 / this.#secondsPerStep(step);
    return `${rate >= 10 ? rate.toFixed(0) : rate.toPrecision(2)} steps/s`;
  }

  left(step: number, steps: number): string {
    return duration(this.#secondsPerStep(step) * (steps - step));
  }

  #secondsPerStep(step: number): number {
    return (performance.now() - this.#began) / 1000 / Math.max(1, step - this.#first);
  }
}

/** The metrics that say whether a training is well, under short names. */
const MAIN = {
  loss: 'loss',
  accuracy: 'rewards/accuracies',
  margin: 'rewards/margins',
  masked: 'maskFraction',
  gradient: 'grad_norm',
} as const;

/** The same of held-out pairs. */
const HELD_OUT = {
  ...{ loss: 'loss', accuracy: 'rewards/accuracies', margin: 'rewards/margins' },
  ...{ chosen: 'errorChosen', rejected: 'errorRejected' },
} as const;

function mainOf(metrics: Metrics): string {
  return metrics.skipped === 1 ? 'skipped: not finite' : shown(MAIN, metrics);
}

function measured(kind: EntryKind, metrics: Metrics): string {
  return kind === 'validation' ? shown(HELD_OUT, metrics) : allOf(metrics);
}

function shown(names: Readonly<Record<string, string>>, metrics: Metrics): string {
  return Object.entries(names)
    .flatMap(([short, name]) => (metrics[name] === undefined ? [] : `${short} ${shortNumber(metrics[name])}`))
    .join('  ');
}

function allOf(metrics: Metrics): string {
  return Object.entries(metrics)
    .map(([name, value]) => `${printable(name)} ${shortNumber(value)}`)
    .join('  ');
}

/** Four significant digits. */
export function shortNumber(value: number): string {
  return String(Number(value.toPrecision(4)));
}
