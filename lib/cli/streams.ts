/** Standard output and standard error that can no longer be written: a reader that went away, a terminal that was closed, a full disk. */

import { printable } from '../native/validate.js';
import { EXIT } from './exit.js';

/** Nobody reads any more: what is under way stops in order. The others are failures. */
const READER_GONE: readonly unknown[] = ['EPIPE', 'EIO', 'ECONNRESET', 'ERR_STREAM_DESTROYED'];

const closed = new AbortController();

/** Aborted when one of the two streams could not be written. */
export const outputClosed: AbortSignal = closed.signal;

/**
 * Takes the errors of both streams, which nobody else listens to and which would end the process with a stack trace. A reader that has gone, such
 * as `| head`, is no failure of the command and leaves its exit code alone; anything else makes it fail.
 */
export function watchOutput(): void {
  for (const [name, stream] of [
    ['standard output', process.stdout],
    ['standard error', process.stderr],
  ] as const) {
    stream.on('error', (error: NodeJS.ErrnoException) => {
      if (closed.signal.aborted) return;
      closed.abort(error);
      if (READER_GONE.includes(error.code)) return;
      console.error(`Expected ${name} to take what is printed, received ${printable(error.message)}`);
      process.on('exit', () => {
        if (process.exitCode === undefined || process.exitCode === EXIT.ok || process.exitCode === EXIT.interrupted) {
          process.exitCode = EXIT.failed;
        }
      });
    });
  }
}
