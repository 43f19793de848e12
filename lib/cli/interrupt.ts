/** Ctrl-C and SIGTERM: the first one asks the work to stop in order, the second one ends the process. */

import { EXIT } from './exit.js';

/** A terminal signals every process of the job, and npm passes its signal on as well: so soon, it is the same key press. */
const SAME_KEY_PRESS_MS = 1000;

export interface Interruption {
  /** Aborted by the first signal. */
  readonly signal: AbortSignal;
  /** Gives the signals their usual effect again. */
  dispose(): void;
}

/**
 * @param notice called by the first signal, to say what happens now
 * @param leave called by the second one, to leave the terminal as it was
 */
export function onInterrupt(notice: () => void, leave: () => void): Interruption {
  const controller = new AbortController();
  let first: number | undefined;
  const handle = () => {
    if (first === undefined) {
      first = performance.now();
      notice();
      controller.abort();
    } else if (performance.now() - first > SAME_KEY_PRESS_MS) {
      leave();
      process.exit(EXIT.interrupted);
    }
  };
  const signals = ['SIGINT', 'SIGTERM'] as const;
  for (const name of signals) process.on(name, handle);
  return {
    signal: controller.signal,
    dispose() {
      for (const name of signals) process.off(name, handle);
    },
  };
}
