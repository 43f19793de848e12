/** What a process of a study runs: it loads the experiment once and makes the runs that it is told to make. */

import type { Experiment, ExperimentContext, StudyCell } from './types.js';
import type { FromWorker, ToWorker } from './worker-process.js';

/** Messages about progress are no more frequent than this. */
const PROGRESS_MILLISECONDS = 200;

const stop = new AbortController();

// Ctrl-C reaches every process of a terminal; the study decides when its workers end.
process.on('SIGINT', () => {});
process.on('SIGTERM', () => stop.abort());
// The study is gone, killed perhaps: nobody would take the result.
process.on('disconnect', () => process.exit(1));

function send(message: FromWorker): Promise<void> {
  return new Promise((sent) => process.send!(message, undefined, {}, () => sent()));
}

async function loadExperiment(url: string): Promise<Experiment> {
  const { default: experiment } = await import(url).catch((error: NodeJS.ErrnoException) => {
    if (error.code !== 'ERR_UNKNOWN_FILE_EXTENSION') throw error;
    const hint = 'TypeScript needs a loader: NODE_OPTIONS="--import tsx" npx sdpo-study study …';
    throw new Error(`Expected ${url} to be a module that node can load. ${hint}`, { cause: error });
  });
  if (typeof experiment?.prepare !== 'function' || typeof experiment.run !== 'function') {
    throw new TypeError(`Expected ${url} to have an Experiment as its default export, received ${typeof experiment}`);
  }
  return experiment;
}

/** The experiment and its context, of the first message. */
let started: Promise<{ experiment: Experiment; context: Omit<ExperimentContext, 'progress'> }> | undefined;

async function prepare(): Promise<FromWorker> {
  const { experiment, context } = await started!;
  await experiment.prepare({ ...context, progress: progressOf() });
  return { type: 'prepared', metrics: { ...experiment.metrics }, sources: { ...experiment.sources } };
}

async function run(cell: StudyCell): Promise<FromWorker> {
  const { experiment, context } = await started!;
  return { type: 'run', run: await experiment.run(cell, { ...context, progress: progressOf() }) };
}

function progressOf(): ExperimentContext['progress'] {
  let last = -Infinity;
  return (done, total) => {
    const now = performance.now();
    if (now - last < PROGRESS_MILLISECONDS) return;
    last = now;
    void send({ type: 'progress', done, total });
  };
}

async function handle(message: ToWorker): Promise<void> {
  if (message.type === 'start') {
    const { experiment: url, ...context } = message;
    const { options, shared, decidingMetric } = context;
    started = loadExperiment(url).then((experiment) => {
      return { experiment, context: { options, shared, decidingMetric, signal: stop.signal } };
    });
    started.catch(() => {}); // told with the first thing that is asked
    return;
  }
  try {
    await send(message.type === 'prepare' ? await prepare() : await run(message.cell));
  } catch (error) {
    await send({ type: 'error', error: error instanceof Error ? (error.stack ?? error.message) : String(error) });
  }
  if (stop.signal.aborted) process.exit(0);
}

process.on('message', (message: ToWorker) => void handle(message));
