/** Compiles and runs the host programs of test/build/cuda-host, and finds the compilers of this machine. */

import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

export const run = promisify(execFile);
export const root = fileURLToPath(new URL('../..', import.meta.url));

/** The version line of a program, or `undefined` where it cannot be run. */
export async function versionOf(program: string): Promise<string | undefined> {
  try {
    const { stdout } = await run(program, ['--version']);
    return stdout.trim().split('\n').at(-1);
  } catch {
    return undefined;
  }
}

export const hostCompiler = process.env.CXX ?? 'g++';
export const cudaCompiler = process.env.CUDACXX ?? 'nvcc';

/** Runs `use` with an empty folder that is removed afterwards. */
export async function inFolder<T>(use: (folder: string) => Promise<T>): Promise<T> {
  const folder = await mkdtemp(path.join(tmpdir(), 'sdpo-cuda-'));
  try {
    return await use(folder);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

/**
 * Compiles sources, named from the repository's root, into one program and runs it. Resolves with its exit code and what it printed; with several lists of
 * arguments it runs once for each, and the outputs follow each other.
 */
export function runProgram(
  sources: readonly string[],
  runs: readonly (readonly string[])[] = [[]],
): Promise<{ code: number; output: string }> {
  return inFolder(async (folder) => {
    const program = path.join(folder, 'program');
    const objects = await Promise.all(
      sources.map(async (source, index) => {
        const object = path.join(folder, `${index}.o`);
        const flags = ['-std=c++17', '-O1', '-Wall', '-Wextra', '-Werror', '-ffp-contract=off'];
        await run(hostCompiler, [...flags, '-c', '-o', object, path.join(root, source)]);
        return object;
      }),
    );
    await run(hostCompiler, ['-o', program, ...objects, '-pthread']);
    try {
      let output = '';
      for (const parameters of runs) output += (await run(program, parameters)).stdout;
      return { code: 0, output };
    } catch (error) {
      const { code, stdout } = error as { code: number; stdout: string };
      return { code, output: stdout };
    }
  });
}
