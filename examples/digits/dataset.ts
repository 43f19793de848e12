/** The pairs of the example as a data module of `sdpo train` (docs/cli.md). */

import type { PairDataset } from 'sdpo/trainer';
import { loadDigits } from './data.js';
import { datasetOf, makePairs, PAIR_SOURCES, type PairSource } from './pairs.js';
import { seedsOf } from './seeds.js';

/** What the module reads from a config. */
export interface DigitsDatasetOptions {
  /** Where the pairs come from. Default N1. */
  source?: PairSource;
  /** Number of pairs. Default 2000. */
  count?: number;
  /** Share of the pairs with a wrong label. Default 0.1. */
  swapped?: number;
  /** The same seed gives the same pairs, whatever the seed of the training. Default 0. */
  seed?: number;
}

/** Pairs made of the digits for training. */
export default function digitsPairs(options: DigitsDatasetOptions): PairDataset {
  const { source = 'N1', count = 2000, swapped = 0.1, seed = 0, ...unknown } = options;
  const [name] = Object.keys(unknown);
  if (name !== undefined) throw new Error(`Expected the options source, count, swapped and seed, received ${name}`);
  if (!Object.hasOwn(PAIR_SOURCES, source)) {
    throw new Error(`Expected source to be one of ${Object.keys(PAIR_SOURCES).join(', ')}, received ${source}`);
  }
  const pairs = makePairs(loadDigits().train, { source, count, swapped, seeds: seedsOf('training pairs', seed) });
  return datasetOf(pairs, JSON.stringify({ source, count, swapped, seed }));
}
