/** Metrics writers: a JSON Lines file that a resumed run continues as if it had never stopped, and lines on a console. Any other tracker is a MetricsWriter too. */

import { appendFileSync } from 'node:fs';
import type { FileHandle } from 'node:fs/promises';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';
import { checkInteger, checkOptions, failType } from '../native/validate.js';
import { type FileTask, namingFiles } from './file-error.js';
import { jsonLine, openLog } from './jsonl.js';
import type { MetricsWriter } from './types.js';

export interface JsonlOptions {
  /**
   * Step of the checkpoint that a run resumes from: lines after the last one of this step or an earlier one are cut off, so that the file ends
   * up as if the run had never stopped. Left out: everything that is there stays.
   */
  from?: number | undefined;
}

/**
 * Appends one line `{"step":…,"kind":…,"metrics":{…}}` per entry; numbers that are not finite are null, as JSON has no other way. Every line is
 * handed to the operating system before `write` resolves, so killing the process loses none. A last line that is torn, from a crash of the
 * machine, is cut off.
 *
 * @throws from the first write: SdpoError `ERR_SDPO_DATA` with path and line where the file holds something else than such lines; from any:
 *   `ERR_SDPO_FILE` with step and path where the file cannot be written
 */
export function jsonlWriter(path: string, options: JsonlOptions = {}): MetricsWriter {
  if (typeof path !== 'string') failType('path', 'a path', path);
  options = checkOptions('options', options, ['from']);
  const from = options.from === undefined ? Infinity : checkInteger('options.from', options.from, 0);
  let opened: Promise<FileHandle> | undefined;
  let last: Promise<unknown> = Promise.resolve();
  let closed = false;

  const openOnce = () => {
    opened ??= openLog(path, from);
    return opened;
  };
  const inTurn = <T>(task: FileTask, work: () => Promise<T>): Promise<T> => {
    const done = last.then(() => namingFiles(task, work));
    last = done.catch(() => {});
    return done;
  };
  return {
    write({ step, kind, metrics }) {
      if (closed)
        throw new SdpoError(
          'ERR_SDPO_DISPOSED',
          `Expected the writer of ${printable(path)} to be open, received a closed one`,
        );
      // Made now: the caller may write the same object again before its turn has come.
      const line = jsonLine({ step, kind, metrics });
      return inTurn({ task: `append the entry of step ${step} to the log`, path }, async () => {
        // A line is written sooner than handed to the thread pool.
        appendFileSync((await openOnce()).fd, line);
      });
    },
    close() {
      if (closed) return;
      closed = true;
      // Opened in any case, so that a run that resumes and writes nothing has its later lines cut off too.
      return inTurn({ task: 'close the log', path }, async () => (await openOnce()).close());
    },
  };
}

export interface ConsoleOptions {
  /** Prints the updates whose step is a multiple of this; validations and evaluations are always printed. Default 10. */
  every?: number;
  /**
   * Metrics to print of an update, in this order; one that it lacks is printed as a dash. Default: loss, rewards/margins, rewards/accuracies,
   * maskFraction, grad_norm and learning_rate, as far as they are there. Held-out pairs print loss, rewards/margins, rewards/accuracies, errorChosen and
   * errorRejected, evaluations all they have.
   */
  fields?: readonly string[] | undefined;
}

const DEFAULT_FIELDS = {
  train: ['loss', 'rewards/margins', 'rewards/accuracies', 'maskFraction', 'grad_norm', 'learning_rate'],
  validation: ['loss', 'rewards/margins', 'rewards/accuracies', 'errorChosen', 'errorRejected'],
} as const;

/** Prints one line per entry to a stream, by default the standard output; the stream stays open. */
export function consoleWriter(
  stream: { write(text: string): unknown } = process.stdout,
  options: ConsoleOptions = {},
): MetricsWriter {
  if (typeof stream?.write !== 'function') failType('stream', 'a writable stream', stream);
  options = checkOptions('options', options, ['every', 'fields']);
  const every = checkInteger('options.every', options.every ?? 10, 1);
  const { fields } = options;
  if (fields !== undefined && !(Array.isArray(fields) && fields.every((name) => typeof name === 'string'))) {
    failType('options.fields', 'an array of names of metrics', fields);
  }
  return {
    write({ step, kind, metrics }) {
      if (kind === 'train' && step % every !== 0) return;
      const names =
        kind === 'evaluation'
          ? Object.keys(metrics)
          : ((kind === 'train' ? fields : undefined) ??
            DEFAULT_FIELDS[kind].filter((name) => Object.hasOwn(metrics, name)));
      const parts = names.map(
        (name) => `${printable(name)} ${Object.hasOwn(metrics, name) ? short(metrics[name]!) : '-'}`,
      );
      stream.write(`${[`${kind === 'train' ? 'step' : `${kind} at step`} ${step}`, ...parts].join('  ')}\n`);
    },
  };
}

/** Four significant digits, without zeros behind the last other one. */
function short(value: number): string {
  return Number.isInteger(value) ? String(value) : String(Number(value.toPrecision(4)));
}
