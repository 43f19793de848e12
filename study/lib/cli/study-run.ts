/** Runs a study and shows how far it is. */

import { existsSync } from 'node:fs';
import { basename, dirname, extname, join } from 'node:path';
import cliProgress from 'cli-progress';
import { asConfigError, configError, duration, EXIT, type ExitCode, onInterrupt } from 'sdpo/tools';
import type { StudyProgress, StudySummary } from '../progress.js';
import { runStudy } from '../runner.js';
import type { StudyCommandOptions } from './study.js';

interface StudyOutput {
  update(progress: StudyProgress): void;
  /** Shows a sentence beside the progress. */
  note(text: string): void;
  stop(): void;
}

export async function study(file: string, options: StudyCommandOptions): Promise<ExitCode> {
  if (!existsSync(file)) throw configError(`Expected ${file} to be a file, received no such file`);
  const { out = join(dirname(file), 'results', basename(file, extname(file))), jobs, only, quiet, json } = options;
  const output = outputOf(options);
  const interruption = onInterrupt(
    () => output.note('Stopping; what is done stays, and the same command goes on.'),
    () => output.stop(),
  );
  let summary: StudySummary;
  try {
    summary = await runStudy(file, {
      ...{ out, only, signal: interruption.signal },
      ...(jobs === undefined ? {} : { jobs }),
      onProgress: (progress) => output.update(progress),
    });
  } catch (error) {
    throw asConfigError(error);
  } finally {
    output.stop();
    interruption.dispose();
  }
  if (json) console.log(JSON.stringify({ summary: { ...summary, out } }));
  else printSummary(summary, out, quiet);
  if (summary.aborted) return EXIT.interrupted;
  return summary.failed.length > 0 ? EXIT.failed : EXIT.ok;
}

function printSummary({ total, done, skipped, failed, seconds }: StudySummary, out: string, quiet = false): void {
  for (const { cell, error } of failed) console.error(`${cell.id} failed: ${error}`);
  if (quiet) return;
  const made = done - skipped;
  const broken = failed.length === 0 ? '' : `, ${failed.length} failed`;
  console.log(`${done} of ${total} runs done${broken}: ${made} in ${duration(seconds)}, ${skipped} earlier`);
  console.log(`Results in ${out}; sdpo-study report ${out} makes a page of them.`);
}

function outputOf({ quiet, json }: StudyCommandOptions): StudyOutput {
  if (json)
    return onEachEnd(
      (progress) => console.log(JSON.stringify(progress)),
      () => {},
    );
  if (quiet) return { update() {}, note() {}, stop() {} };
  const line = (text: string) => process.stderr.write(`${text}\n`);
  return process.stderr.isTTY ? terminalBar() : onEachEnd((progress) => line(describe(progress)), line);
}

/** Tells of the start and whenever a run has ended. */
function onEachEnd(tell: (progress: StudyProgress) => void, note: (text: string) => void): StudyOutput {
  let told: string | undefined;
  return {
    update(progress) {
      const state = `${progress.phase} ${progress.done} ${progress.failed}`;
      if (state === told) return;
      told = state;
      tell(progress);
    },
    note,
    stop() {},
  };
}

function terminalBar(): StudyOutput {
  const bars = new cliProgress.MultiBar({
    format: '{bar} {value}/{total}  {status}',
    barCompleteChar: '█',
    barIncompleteChar: '░',
    barsize: 24,
    hideCursor: true,
    stream: process.stderr,
  });
  let bar: cliProgress.SingleBar | undefined;
  return {
    update(progress) {
      bar ??= bars.create(progress.total, 0, { status: '' });
      bar.update(progress.done + progress.failed, { status: statusOf(progress) });
    },
    note: (text) => bars.log(`${text}\n`),
    stop() {
      bars.update();
      bars.stop();
    },
  };
}

function describe(progress: StudyProgress): string {
  return `${progress.done + progress.failed}/${progress.total} runs  ${statusOf(progress)}`;
}

function statusOf({ phase, failed, running, left }: StudyProgress): string {
  const now = running.map(({ id, share }) => `${id} ${Math.round(100 * share)} %`);
  return [
    ...(failed > 0 ? [`${failed} failed`] : []),
    ...(left === undefined ? [] : [`about ${duration(left)} left`]),
    phase === 'prepare' ? `preparing${now.length > 0 ? ` ${now[0]!.replace(/^prepare /, '')}` : ''}` : now.join(', '),
  ].join('  ');
}
