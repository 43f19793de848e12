/** Reads from a built addon what it needs of the system that loads it and what it shows to others. */
import { execFileSync } from 'node:child_process';
import { readFileSync } from 'node:fs';

export interface BinaryFacts {
  /** Shared libraries that the dynamic loader has to find (DT_NEEDED), and its search path if it has one. */
  needed: string[];
  searchPath: string[];
  /** The newest glibc symbol version it refers to, e.g. "2.28", and the symbols that bring it. */
  glibc: string;
  glibcSymbols: string[];
  /** Symbols it defines for others, and those it expects from neither glibc nor its own code. */
  exported: string[];
  foreign: string[];
}

export function inspect(file: string): BinaryFacts {
  const dynamic = readelf('--dynamic', file);
  const symbols = readelf('--dyn-syms', file)
    .split('\n')
    .flatMap((line) => {
      const [number, , , , bind, , section, name] = line.trim().split(/\s+/); // Num: Value Size Type Bind Vis Ndx Name
      return number !== undefined && /^\d+:$/.test(number) && name !== undefined ? [{ bind, section, name }] : [];
    });
  const versions = new Map<string, string[]>();
  for (const { name } of symbols) {
    const match = /^(\w+)@+GLIBC_([\d.]+)/.exec(name);
    if (match) versions.set(match[2]!, [...(versions.get(match[2]!) ?? []), match[1]!]);
  }
  const newest = [...versions.keys()].sort(compareVersions).at(-1) ?? '0';
  return {
    needed: [...dynamic.matchAll(/\(NEEDED\).*\[(.+)\]/g)].map((match) => match[1]!),
    searchPath: [...dynamic.matchAll(/\((?:RPATH|RUNPATH)\).*\[(.+)\]/g)].map((match) => match[1]!),
    glibc: newest,
    glibcSymbols: versions.get(newest) ?? [],
    exported: symbols.filter(({ section }) => section !== 'UND').map(({ name }) => name),
    foreign: symbols
      .filter(({ section, bind, name }) => section === 'UND' && bind !== 'WEAK' && !/@+GLIBC_/.test(name))
      .map(({ name }) => name),
  };
}

/** Whether `text` occurs anywhere in the file. */
export function contains(file: string, text: string): boolean {
  return readFileSync(file).includes(text);
}

/** Orders "2.9" before "2.28". */
export function compareVersions(a: string, b: string): number {
  const numbers = (version: string) => version.split('.').map(Number);
  const [left, right] = [numbers(a), numbers(b)];
  for (let i = 0; i < Math.max(left.length, right.length); i++) {
    const difference = (left[i] ?? 0) - (right[i] ?? 0);
    if (difference !== 0) return difference;
  }
  return 0;
}

function readelf(option: string, file: string): string {
  return execFileSync('readelf', ['--wide', option, file], { encoding: 'utf8', env: { ...process.env, LC_ALL: 'C' } });
}
