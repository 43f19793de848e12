/** What a target of the fuzzer is: files to damage, and what has to hold of whatever comes out. */

/** A file to damage. */
export interface Seed {
  readonly name: string;
  readonly bytes: Buffer;
  /** Ranges that a checksum covers: changed there, the file has to be refused or read as it was. */
  readonly covered?: readonly (readonly [begin: number, end: number])[];
  /** The file with a part of its content replaced, rather than bytes. */
  alter?(random: () => number): Buffer;
}

export interface Target {
  readonly name: string;
  readonly seeds: readonly Seed[];
  /**
   * Reads a damaged file at `path`. Throws an error of the package where it is refused, and anything else where something is wrong.
   *
   * @param covered whether only bytes under a checksum were changed
   */
  read(path: string, seed: Seed, damaged: Buffer, covered: boolean): Promise<void> | void;
}

/** Something that must not happen, whatever the file. */
export class Violation extends Error {}

export function demand(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Violation(what);
}

/** Whether an error is one that a damaged file may lead to: with a code of the package, whose classes a study has from where it is installed. */
export function isRefusal(error: unknown, codes: RegExp): boolean {
  return error instanceof Error && codes.test(String((error as NodeJS.ErrnoException).code));
}
