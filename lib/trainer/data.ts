/** Preference pairs for the trainer: from memory, safetensors shards, Parquet files and any iterable. */

export {
  type ArrayPairOptions,
  type PairIterable,
  pairsFromArray,
  pairsFromStream,
  type StreamPairOptions,
} from './data-memory.js';
export type { PairOptions } from './data-pair.js';
export { type ParquetPairOptions, pairsFromParquet } from './data-parquet.js';
export { pairsFromSafetensors, type SafetensorsPairOptions } from './data-safetensors.js';
export type { FingerprintMode } from './files.js';
