/** Progress of a long job: a bar with the remaining time on a terminal, a line now and then elsewhere, nothing when quiet. */

import cliProgress from 'cli-progress';

/** How often a job reports where the output is not a terminal, as a share of its steps. */
const REPORT_SHARE = 0.25;

export interface Progress {
  /** Reports that `step` steps are done; `note` is a short remark such as the current loss. */
  update(step: number, note?: string): void;
  /** Ends the report; after it the cursor is on a new line. */
  stop(): void;
}

/** Starts reporting a job of `total` steps called `name`. */
export function startProgress(name: string, total: number, quiet: boolean): Progress {
  if (quiet) return { update() {}, stop() {} };
  return process.stderr.isTTY ? terminalBar(name, total) : plainLines(name, total);
}

function terminalBar(name: string, total: number): Progress {
  const bar = new cliProgress.SingleBar({
    format: `${name.padEnd(14)} {bar} {value}/{total}  ETA {eta_formatted}  {note}`,
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 28,
    hideCursor: true,
    stream: process.stderr,
  });
  bar.start(total, 0, { note: '' });
  return {
    update: (step, note = '') => bar.update(step, { note }),
    stop: () => bar.stop(),
  };
}

function plainLines(name: string, total: number): Progress {
  const began = performance.now();
  let reported = 0;
  return {
    update(step, note = '') {
      if (step < total && step - reported < total * REPORT_SHARE) return;
      reported = step;
      const seconds = (performance.now() - began) / 1000;
      const left = Math.ceil((seconds / step) * (total - step));
      process.stderr.write(`${name}: ${step}/${total} steps, ${seconds.toFixed(1)} s, about ${left} s left  ${note}\n`);
    },
    stop() {},
  };
}
