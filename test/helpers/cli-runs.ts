/** Starts `sdpo` as a user does, in processes of their own, and configs of a small training for it. */

import { type ChildProcess, spawn } from 'node:child_process';
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

export interface Ended {
  status: number | null;
  signal: NodeJS.Signals | null;
  stdout: string;
  stderr: string;
}

export interface Started {
  readonly process: ChildProcess;
  readonly ended: Promise<Ended>;
  /** Settles when standard error and standard output together have this text. */
  printed(text: string): Promise<void>;
}

const SOURCE = ['--import', 'tsx', join(root, 'lib/cli/cli.ts')];

interface StartOptions {
  env?: Record<string, string>;
  /** Arguments of node in front of those of the command line. */
  program?: readonly string[];
}

/** Starts the command line; settings of the test runner and of sdpo are not inherited. */
export function start(args: readonly string[], { env = {}, program = SOURCE }: StartOptions = {}): Started {
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_)/.test(name)));
  const child = spawn(process.execPath, [...program, ...args], {
    cwd: root,
    env: { ...clean, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  const text = { stdout: '', stderr: '' };
  const listeners = new Set<() => void>();
  for (const name of ['stdout', 'stderr'] as const) {
    child[name].setEncoding('utf8').on('data', (part: string) => {
      text[name] += part;
      for (const listener of listeners) listener();
    });
  }
  const ended = new Promise<Ended>((resolve) => {
    child.on('close', (status, signal) => resolve({ status, signal, ...text }));
  });
  const printed = (wanted: string) =>
    new Promise<void>((resolve, reject) => {
      const check = () => {
        if ((text.stderr + text.stdout).includes(wanted)) resolve();
      };
      listeners.add(check);
      check();
      void ended.then(() => reject(new Error(`It ended without ${JSON.stringify(wanted)}: ${text.stderr}`)));
    });
  return { process: child, ended, printed };
}

export function sdpo(args: readonly string[], options?: StartOptions): Promise<Ended> {
  return start(args, options).ended;
}

/** The same from dist/, as it is installed. */
export function built(args: readonly string[]): Promise<Ended> {
  return sdpo(args, { program: [join(root, 'dist/cli.js')] });
}

/** A training that takes a fraction of a second; `loss` and `training` are changed field by field. */
export function smallConfig(changes: Record<string, unknown> = {}): Record<string, unknown> {
  const { loss, training, ...rest } = changes;
  return {
    base: join(root, 'test/helpers'),
    policy: { module: 'linear-policy.js' },
    data: { format: 'module', module: 'linear-data.js' },
    schedule: { preset: 'sd15', inferenceSteps: 20 },
    loss: { objective: 'sdpo', beta: 10, weightSharpness: 4, ...(loss as object) },
    training: { steps: 12, pairsPerStep: 8, learningRate: { peak: 1e-3 }, ...(training as object) },
    checkpoints: { every: 5 },
    ...rest,
  };
}

/** Writes a config whose run goes to the folder `run` beside it. */
export function writeConfig(folder: string, changes: Record<string, unknown> = {}, name = 'config.json'): string {
  const file = join(folder, name);
  writeFileSync(file, JSON.stringify({ out: join(folder, 'run'), ...smallConfig(changes) }));
  return file;
}

/** The objects of an output with one JSON object per line. */
export function jsonLines(text: string): Record<string, unknown>[] {
  return text
    .split('\n')
    .filter((line) => line !== '')
    .map((line) => JSON.parse(line));
}
