/** The main job of the example: fine-tunes the base with each method on the same pairs and compares the results. */

import { pathToFileURL } from 'node:url';
import type { PreferenceLoss } from 'sdpo';
import { loadDigits } from './data.js';
import { Evaluator } from './evaluation.js';
import { finetune, implicitAccuracy, METHODS, type Method, TITLES } from './finetune.js';
import { dispose, type Params } from './jax.js';
import { JUDGE_SHAPES } from './judge.js';
import { DENOISER_SHAPES } from './model.js';
import { type Options, readOptions, UsageError } from './options.js';
import { makePairs } from './pairs.js';
import { startProgress } from './progress.js';
import { formatTable, type Outcome, Results } from './results.js';
import { seedsOf } from './seeds.js';
import { loadWeights, WEIGHTS_FOLDER } from './weights.js';

const TRAINING_PAIRS = 2000;
const HELD_OUT_PAIRS = 500;
/** Share of the training pairs with a wrong label. */
const LABEL_NOISE = 0.1;
/** What a shell reports for a process that SIGINT ended. */
const EXIT_INTERRUPTED = 130;
const SAME_KEY_PRESS_MS = 1000;

async function run(options: Options): Promise<void> {
  const began = performance.now();
  const signal = abortOnInterrupt();
  const digits = loadDigits();
  const base = loadWeights(new URL('base.safetensors', WEIGHTS_FOLDER), DENOISER_SHAPES);
  const judge = loadWeights(new URL('judge.safetensors', WEIGHTS_FOLDER), JUDGE_SHAPES);
  const evaluator = new Evaluator(digits, judge, options.samples);
  const { pairs: source, seed } = options;
  const pairs = makePairs(digits.train, {
    source,
    count: TRAINING_PAIRS,
    seeds: seedsOf('training pairs', seed),
    swapped: LABEL_NOISE,
  });
  const heldOut = makePairs(digits.test, { source, count: HELD_OUT_PAIRS, seeds: seedsOf('held-out pairs', seed) });
  const results = new Results(options.out);

  const measure = async (params: Params, loss: PreferenceLoss) => ({
    samples: evaluator.evaluate(params),
    implicitAccuracy: await implicitAccuracy(loss, params, base, heldOut, seedsOf('implicit accuracy', seed)),
  });
  const outcomes: Outcome[] = [{ name: 'base', title: 'base', ...(await measure(base, METHODS.sdpo(options.beta))) }];
  for (const name of Object.keys(METHODS) as Method[]) {
    if (signal.aborted) break;
    const loss = METHODS[name](options.beta);
    const progress = startProgress(TITLES[name], options.steps, options.quiet);
    const { params, steps, milliseconds } = await finetune({
      base,
      loss,
      pairs,
      steps: options.steps,
      seeds: seedsOf('training', seed),
      signal,
      onStep(step, entries) {
        results.logStep(name, step, entries);
        progress.update(step, `loss ${entries.loss?.toFixed(4)}`);
      },
    });
    progress.stop();
    results.writeWeights(name, params, { method: name, beta: String(options.beta), steps: String(steps) });
    if (steps === options.steps) {
      outcomes.push({
        name,
        title: TITLES[name],
        ...(await measure(params, loss)),
        training: {
          steps,
          millisecondsPerStep: milliseconds.total / steps,
          lossMillisecondsPerStep: milliseconds.loss / steps,
        },
      });
    }
    dispose(params);
  }

  const seconds = (performance.now() - began) / 1000;
  results.finish(heading(options), outcomes, {
    options,
    interrupted: signal.aborted,
    validDistance: evaluator.validDistance,
    seconds,
  });
  report(options, outcomes, results, seconds);
  if (signal.aborted) {
    console.log(
      'Stopped after the step under way; a method that was not finished has weights and metrics but no line above.',
    );
    process.exitCode = EXIT_INTERRUPTED;
  }
}

function heading({ pairs, beta, steps, samples }: Options): string {
  return `Pairs ${pairs}, β = ${beta}, ${steps} steps, ${samples} samples each`;
}

function report(options: Options, outcomes: readonly Outcome[], results: Results, seconds: number): void {
  console.log(`\n${heading(options)}:\n`);
  console.log(formatTable(outcomes));
  console.log(`\nreward: the judge's probability of a preferred digit (0 to 4); valid: as near to a real digit as real digits are to
each other; good: valid and a preferred digit; implicit accuracy: on ${HELD_OUT_PAIRS} held-out pairs.`);
  for (const { title, training } of outcomes) {
    if (!training) continue;
    const { millisecondsPerStep: step, lossMillisecondsPerStep: loss } = training;
    const share = ((100 * loss) / step).toFixed(1);
    console.log(
      `${title}: ${step.toFixed(1)} ms a step, ${loss.toFixed(2)} ms (${share} %) of it in the preference loss`,
    );
  }
  console.log(
    `\nResults in ${results.path}: metrics.jsonl, samples.svg, summary.json, *.safetensors (${seconds.toFixed(0)} s)
Samples before and after, to open in a browser: ${pathToFileURL(results.picture)}`,
  );
}

/**
 * A signal that the first Ctrl-C aborts; another one ends the process at once, unless it comes so soon that it is the same key press:
 * the terminal signals every process of the job, and npm passes its signal on to this one.
 */
function abortOnInterrupt(): AbortSignal {
  const controller = new AbortController();
  let first: number | undefined;
  process.on('SIGINT', () => {
    if (first === undefined) {
      first = performance.now();
      controller.abort();
      console.error('\nStopping after this step; press Ctrl-C again to stop at once.');
    } else if (performance.now() - first > SAME_KEY_PRESS_MS) {
      process.exit(EXIT_INTERRUPTED);
    }
  });
  return controller.signal;
}

try {
  const options = readOptions(process.argv.slice(2));
  if (options) await run(options);
} catch (error) {
  if (!(error instanceof UsageError)) throw error;
  console.error(error.message);
  process.exitCode = 2;
}
