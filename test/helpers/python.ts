/** Runs the Python package's own tests from tap, with each interpreter there is, and says why not where one is missing. */

import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Test } from 'tap';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Debian's own interpreter, for which python3-torch is packaged; SDPO_PYTHON names another one. */
const debian = process.env.SDPO_PYTHON ?? '/usr/bin/python3';
/** A current PyTorch, in the environment that scripts/python-env makes. */
const current = join(root, 'build/venv/bin/python');

export interface Interpreter {
  readonly name: string;
  readonly path: string;
  /** Why its tests cannot run here, or false. */
  readonly skip: string | false;
}

const described = (path: string, advice: string): Interpreter => {
  const refuse = (skip: string): Interpreter => ({ name: path, path, skip });
  if (!existsSync(path)) return refuse(`${path} is missing (${advice})`);
  if (!existsSync(join(root, 'build/Release/libsdpo.so')))
    return refuse('build/Release/libsdpo.so is missing (npm run build:native)');
  const { status, stdout, stderr } = spawnSync(path, ['-c', 'import torch; print(torch.__version__)'], {
    encoding: 'utf8',
  });
  if (status !== 0) return refuse(`${path} has no torch (${advice}): ${stderr.trim().split('\n').at(-1)}`);
  return { name: `torch ${stdout.trim()}`, path, skip: false };
};

export const interpreters = (): readonly Interpreter[] => [
  described(debian, 'apt-get install python3-torch, or set SDPO_PYTHON'),
  described(current, 'scripts/python-env'),
];

/** Runs modules of python/tests, and reports each of their tests as one of `t`'s. */
export async function runPythonTests(
  t: Test,
  python: Interpreter,
  modules: readonly string[],
  env: NodeJS.ProcessEnv = {},
): Promise<void> {
  const child = spawn(python.path, ['-m', 'unittest', '--verbose', ...modules.map((name) => `tests.${name}`)], {
    cwd: join(root, 'python'),
    env: { ...process.env, PYTHONDONTWRITEBYTECODE: '1', ...env },
    stdio: ['ignore', 'ignore', 'pipe'],
  });
  const { output, status } = await finished(child);
  // "test_name (module.Class.test_name)", a doc comment on a line of its own, " ... ok"; what a test prints may come in between.
  const anything = '(?:.|\\n)*?';
  const line = new RegExp(
    `^(test_\\w+) \\((\\S+)\\)${anything}\\.\\.\\. (?:${anything}\\n)??(ok|FAIL|ERROR|skipped '([^\\n]*)')$`,
    'gm',
  );
  const results = [...output.matchAll(line)];
  for (const [, name, where, result, reason] of results) {
    const title = `${where!.replace(/^tests\./, '').replace(`.${name}`, '')}: ${name!.replace(/^test_/, '').replaceAll('_', ' ')}`;
    if (reason !== undefined) t.pass(title, { skip: reason });
    else if (result === 'ok') t.pass(title);
    else t.fail(title);
  }
  const ran = Number(/^Ran (\d+) tests? in/m.exec(output)?.[1]);
  t.ok(ran > 0 && results.length === ran, `all ${ran} tests are reported`);
  if (status !== 0) t.comment(output);
  t.equal(status, 0, 'the interpreter ends with 0');
}

function finished(child: ChildProcess): Promise<{ output: string; status: number | null }> {
  let output = '';
  child.stderr!.setEncoding('utf8').on('data', (text: string) => {
    output += text;
  });
  return new Promise((resolve, reject) =>
    child.on('error', reject).on('close', (status) => resolve({ output, status })),
  );
}
