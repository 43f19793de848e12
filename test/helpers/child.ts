/** Programs in processes of their own, for what would end or disturb the process of a test: crashes, exits, workers, environments. */

import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** Specifier of the library's sources, for the text of a child's program. */
export const library = JSON.stringify(new URL('../../lib/index.ts', import.meta.url).href);

export interface ChildOptions {
  /** Variables on top of the environment. */
  env?: Record<string, string>;
  /** Options of node itself. */
  node?: string[];
}

export interface ChildResult {
  /** Exit code; null where a signal ended the process. */
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

/** Runs the text of an ES module; TypeScript sources can be imported. Settings of the test runner and of sdpo are not inherited. */
export function runProgram(program: string, { env = {}, node = [] }: ChildOptions = {}): ChildResult {
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_)/.test(name)));
  const { status, signal, stdout, stderr } = spawnSync(
    process.execPath,
    ['--import', 'tsx', ...node, '--input-type=module', '-e', program],
    { cwd: root, encoding: 'utf8', env: { ...clean, ...env }, maxBuffer: 2 ** 26 },
  );
  return { status, signal, stdout, stderr };
}

/** What a program printed as JSON; an error with what it wrote where it did not end well. */
export function jsonOf<T>(program: string, options?: ChildOptions): T {
  const { status, signal, stdout, stderr } = runProgram(program, options);
  if (status !== 0) throw new Error(`the child ended with ${status ?? signal}: ${stderr}`);
  return JSON.parse(stdout) as T;
}
