/** The command line of the digits experiment. */

import { parseArgs } from 'node:util';
import { PAIR_SOURCES, type PairSource } from './pairs.js';

const HELP = `Fine-tunes a small denoiser of handwritten digits with Diffusion-DPO, DPO-C&M, SDPO and Diffusion-DPO with a KL anchor, and compares them.

Usage: npm start -- [options]

  --steps <n>     fine-tuning steps of each method (300)
  --beta <x>      strength of the preference (10)
  --pairs <name>  where the pairs come from: ${Object.keys(PAIR_SOURCES).join(', ')} (N1; see pairs.ts)
  --samples <n>   samples of each evaluation (512)
  --seed <n>      seed of the pairs and of the training (0)
  --out <folder>  where the results go (examples/digits/results/<time>)
  --quiet         no progress
  --help          this text`;

export interface Options {
  steps: number;
  beta: number;
  pairs: PairSource;
  samples: number;
  seed: number;
  out: string | undefined;
  quiet: boolean;
}

/** A mistake on the command line, to be shown without a stack. */
export class UsageError extends Error {}

/** Reads the arguments after the script's name; undefined when they ask for the help text, which has then been printed. */
export function readOptions(args: string[]): Options | undefined {
  const values = parse(args);
  if (values.help) {
    console.log(HELP);
    return undefined;
  }
  const pairs = values.pairs.toUpperCase();
  if (!Object.hasOwn(PAIR_SOURCES, pairs)) {
    throw new UsageError(
      `Expected --pairs to be one of ${Object.keys(PAIR_SOURCES).join(', ')}, received ${values.pairs}`,
    );
  }
  const beta = Number(values.beta);
  if (values.beta.trim() === '' || !Number.isFinite(beta) || beta <= 0) {
    throw new UsageError(`Expected --beta to be a number > 0, received ${values.beta}`);
  }
  return {
    steps: readInteger('--steps', values.steps, 1),
    beta,
    pairs: pairs as PairSource,
    samples: readInteger('--samples', values.samples, 1),
    seed: readInteger('--seed', values.seed, 0),
    out: values.out,
    quiet: values.quiet,
  };
}

function parse(args: string[]) {
  try {
    return parseArgs({
      args,
      options: {
        steps: { type: 'string', default: '300' },
        beta: { type: 'string', default: '10' },
        pairs: { type: 'string', default: 'N1' },
        samples: { type: 'string', default: '512' },
        seed: { type: 'string', default: '0' },
        out: { type: 'string' },
        quiet: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(`${(error as Error).message}\nSee npm start -- --help`);
  }
}

function readInteger(name: string, text: string, min: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || !Number.isSafeInteger(value) || value < min) {
    throw new UsageError(`Expected ${name} to be an integer >= ${min}, received ${text}`);
  }
  return value;
}
