/**
 * Builds this checkout for the PTX runner, a CUDA runtime that executes the kernels on the CPU and watches every access: the runtime itself, then
 * the addon and the programs, by the project's own CMake with that runtime in the place of CUDA's.
 */

import { spawn, spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

const compiler = process.env.CUDACXX || 'nvcc';

/** Everything that is made here; nothing is written to the runner's folder. */
export const folder = join(root, 'build/device');

/** The runner's folder, or the reason why there is nothing to run on. A folder that was named has to be one. */
export function findRunner(): { runner: string } | { missing: string } {
  const named = process.env.SDPO_PTX_RUNNER;
  const runner = named ? resolve(named) : resolve(root, '../shared/ptx');
  if (!existsSync(join(runner, 'Makefile'))) {
    if (named) throw new Error(`SDPO_PTX_RUNNER: expected the folder of the PTX runner, received ${named}`);
    return { missing: `there is no PTX runner in ${runner}, and SDPO_PTX_RUNNER names none` };
  }
  if (spawnSync(compiler, ['--version']).status !== 0) return { missing: `there is no CUDA compiler (${compiler})` };
  return { runner };
}

export interface Ended {
  /** Exit code; null where a signal or the limit ended it. */
  code: number | null;
  output: string;
  seconds: number;
}

/** Runs a command to its end, or for `limit` seconds. Settings of this package are those given, whatever the environment says. */
export function execute(
  command: readonly string[],
  { env = {}, cwd = root, limit = 1800 }: { env?: Record<string, string>; cwd?: string; limit?: number } = {},
): Promise<Ended> {
  const inherited = Object.entries(process.env).filter(
    ([name]) => !/^(SDPO_(?!WERROR)|PTXSIM_|TAP|NODE_OPTIONS)/.test(name),
  );
  const start = performance.now();
  return new Promise((done, failed) => {
    const child = spawn(command[0], command.slice(1), {
      cwd,
      env: { ...Object.fromEntries(inherited), ...env } as NodeJS.ProcessEnv,
      timeout: limit * 1000,
      killSignal: 'SIGKILL',
    });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding('utf8').on('data', (text: string) => {
        output += text;
      });
    }
    child.on('error', failed);
    child.on('close', (code) => done({ code, output, seconds: (performance.now() - start) / 1000 }));
  });
}

/** As `execute`; a command that fails is an error with what it said. */
async function succeed(command: readonly string[], env: Record<string, string> = {}): Promise<void> {
  const { code, output } = await execute(command, { env });
  if (code !== 0) throw new Error(`${command.join(' ')} ended with ${code}:\n${output.slice(-6000)}`);
}

/** Builds the targets of the checkout at `source` into `build` on the runner, and gives the folder of what was built. */
export async function build(
  runner: string,
  source = root,
  into = join(folder, 'cmake'),
  targets: readonly string[] = [],
  more: Record<string, string> = {},
): Promise<string> {
  const jobs = process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? '2';
  const runtime = join(folder, 'runner');
  // The Makefile wants to know of a checkout for its other targets.
  await succeed(['make', '-s', `-j${jobs}`, '-C', runner, `SDPO=${root}`, `B=${runtime}`, `NVCC=${compiler}`, 'lib']);
  const out = join(into, '..', 'build/Release');
  const settings = {
    SDPO_CUDA: 'ON',
    SDPO_CUDA_ARCHITECTURES: '75-virtual;90-virtual',
    SDPO_CUDART: join(runtime, 'libcudart_ptx.a'),
    ...more,
  };
  const ninja = (await execute(['ninja', '--version']).catch(() => ({ code: 1 }))).code === 0;
  await succeed(
    [
      ...['cmake', '-S', source, '-B', into, ...(ninja ? ['-G', 'Ninja'] : [])],
      ...['-DCMAKE_CUDA_FLAGS=--compress-mode=none', `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${out}`],
      `-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=${out}`,
    ],
    settings,
  );
  await succeed(['cmake', '--build', into, '--parallel', jobs, ...targets.flatMap((target) => ['--target', target])]);
  return out;
}

/** A device, and how it schedules: PTXSIM_SEED chooses the policy of the scheduler, RESIDENT how many blocks run at once. */
export interface Setting {
  cc: 75 | 90;
  seed: number;
  resident?: number;
}

/** Variables of a device with few multiprocessors, of another number for each seed. */
export function environmentOf({ cc, seed, resident = -1 }: Setting): Record<string, string> {
  return {
    PTXSIM_CC: String(cc),
    PTXSIM_SEED: String(seed),
    PTXSIM_RESIDENT: String(resident),
    PTXSIM_SMS: String(2 + (seed % 4)),
    PTXSIM_OCC: String(1 + (seed % 3)),
    PTXSIM_FUSE: String(seed % 2),
    SDPO_PREBUILD: folder,
  };
}
