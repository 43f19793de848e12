/** Standard output and standard error that can no longer be written: a reader that went away, a terminal that was closed, a full disk. */

import { isatty } from 'node:tty';
import { printable } from '../native/printable.js';
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
  const terminals = [0, 1, 2].filter(isatty);
  process.on('exit', () => {
    if (terminals.every(isatty)) return;
    // Where the terminal is gone, Node before 22.16 and 24.1 aborts when it restores its settings (nodejs/node#58200): a core dump after a run that
    // ended in order. So it ends as the terminal would have ended it.
    process.removeAllListeners('SIGHUP');
    process.kill(process.pid, 'SIGHUP');
  });
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
