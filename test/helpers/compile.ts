/** C++ programs of the tests, which use the native sources as the addon does. */

import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** The compiler that can build such programs; undefined where there is none. */
export function compiler(): string | undefined {
  const name = process.env.CXX || 'g++';
  return spawnSync(name, ['--version']).status === 0 ? name : undefined;
}

/**
 * Builds `test/build/native/<name>.cc` into a folder, without a warning.
 *
 * @param sources files of the native core beside it
 * @returns the program; throws what the compiler said where it does not compile
 */
export function compile(folder: string, name: string, sources: readonly string[] = [], flags: readonly string[] = []) {
  const program = join(folder, name);
  const args = ['-std=c++17', '-Wall', '-Wextra', '-Werror', '-ffp-contract=off', ...flags];
  const files = [`test/build/native/${name}.cc`, ...sources].map((file) => join(root, file));
  const { status, stderr } = spawnSync(compiler()!, [...args, ...files, '-pthread', '-o', program], {
    encoding: 'utf8',
  });
  if (status !== 0) throw new Error(stderr);
  return program;
}
