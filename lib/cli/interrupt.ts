/** Ctrl-C, SIGTERM, SIGHUP and output that nobody reads: the first of them asks the work to stop in order, a second signal ends the process. */

import { EXIT } from './exit.js';
import { outputClosed } from './streams.js';

/** A terminal signals every process of the job, and npm passes its signal on as well: so soon, it is the same key press. */
const SAME_KEY_PRESS_MS = 1000;

export interface Interruption {
  /** Aborted by the first signal, or when standard output or standard error can no longer be written. */
  readonly signal: AbortSignal;
  /** Gives the signals their usual effect again. */
  dispose(): void;
}

/**
 * @param notice called once, to say what happens now
 * @param leave called by a second signal, to leave the terminal as it was
 */
export function onInterrupt(notice: () => void, leave: () => void): Interruption {
  const controller = new AbortController();
  let first: number | undefined;
  const stop = () => {
    if (controller.signal.aborted) return;
    notice();
    controller.abort();
  };
  const handle = () => {
    if (first === undefined) {
      first = performance.now();
      stop();
    } else if (performance.now() - first > SAME_KEY_PRESS_MS) {
      leave();
      process.exit(EXIT.interrupted);
    }
  };
  // A terminal that is closed sends SIGHUP, and can then not be written either.
  const signals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;
  for (const name of signals) process.on(name, handle);
  if (outputClosed.aborted) stop();
  outputClosed.addEventListener('abort', stop);
  return {
    signal: controller.signal,
    dispose() {
      for (const name of signals) process.off(name, handle);
      outputClosed.removeEventListener('abort', stop);
    },
  };
}
