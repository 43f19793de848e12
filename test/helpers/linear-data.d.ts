import type { PairDataset, PairStream, PreferencePair } from '../../lib/trainer/index.js';

export interface LinearDataOptions {
  count?: number;
  seed?: number;
  spread?: number;
}
export function makePairs(options?: LinearDataOptions): PreferencePair[];
export default function linearData(options: LinearDataOptions): PairDataset & { get(index: number): PreferencePair };
export function stream(options: LinearDataOptions): PairStream;
