/** What is wrong with a Parquet file, as found by the checks that come before the decoding; whoever calls them adds file, column and rows. */

export class Damage extends Error {}

/** @param received what the file holds in place of something that can be read, as the end of "Expected … to be readable, received …" */
export function damaged(received: string): never {
  throw new Damage(received);
}

/** A count or an offset of the file as a number that is exact. */
export function countOf(what: string, value: unknown): number {
  const count = typeof value === 'bigint' ? Number(value) : value;
  if (typeof count === 'number' && Number.isSafeInteger(count) && count >= 0) return count;
  return damaged(`${what} of ${value}`);
}

/** What helps where a healthy file is beyond the limits. */
export const SMALLER = ' (if that is right, smaller row groups are read)';
