/**
 * Runs the device code on the PTX runner: the self-test, the golden cases, the C interface, the GPU's check program, for both architectures
 * and under several schedulers.
 *
 *   npm run test:device                    all of it
 *   npm run test:device -- --short         a selection, for continuous integration
 *   npm run test:device -- --mutate [...]  breaks the code on purpose, in a copy, and looks whether the programs see it
 *
 * The last line says "N passed, N failed"; exit code 1 where anything failed. Where there is no runner or no nvcc it says so, and nothing has failed.
 */

import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { mutate } from './mutations.js';
import { build, environmentOf, execute, findRunner, root, type Setting } from './runner.js';

interface Run {
  name: string;
  command: string[];
  env: Record<string, string>;
}

const SHORT: readonly Setting[] = [
  { cc: 90, seed: 2 },
  { cc: 90, seed: 3 },
  { cc: 75, seed: 4 },
];

const WHOLE: readonly Setting[] = [0, 1, 2, 3, 4].flatMap((seed) => [
  { cc: 90, seed },
  { cc: 90, seed, resident: 1 },
  { cc: 75, seed },
  { cc: 75, seed, resident: 2 },
]);

function describe({ cc, seed, resident }: Setting): string {
  return `sm_${cc}, seed ${seed}${resident === undefined ? '' : `, ${resident} resident`}`;
}

function runsOf(out: string, short: boolean): Run[] {
  const node = [process.execPath, '--import', 'tsx'];
  const settings = short ? SHORT : WHOLE;
  const selftest = (cc: 75 | 90, more: Record<string, string>): Run => ({
    name: `selftest sm_${cc}`,
    command: [...node, 'lib/cli/cli.ts', 'selftest', '--device', 'cuda:0'],
    env: { ...environmentOf({ cc, seed: 2 }), ...more },
  });
  const check = (setting: Setting, more: Record<string, string>): Run => ({
    name: `check --small ${describe(setting)}`,
    command: [join(out, 'check'), '--small', '--no-timing'],
    env: { ...environmentOf(setting), ...more },
  });
  // The detector of races is most of the time. The short selection leaves it to the C interface and the golden cases, which run the same kernels.
  const unwatched = { PTXSIM_RACES: '0' };
  return [
    ...(short
      ? [selftest(90, unwatched), check({ cc: 90, seed: 3 }, unwatched)]
      : [
          ...([90, 75] as const).map((cc) => selftest(cc, {})),
          ...([90, 75] as const).map((cc) => check({ cc, seed: 3 }, {})),
        ]),
    ...settings.map((setting) => ({
      name: `C interface ${describe(setting)}`,
      command: [join(out, 'calls'), String(setting.seed), short ? '100' : '150'],
      env: environmentOf(setting),
    })),
    ...settings
      .filter(({ resident }) => resident === undefined)
      .flatMap((setting) =>
        ['float64', 'float32'].map((dtype) => ({
          name: `golden cases ${dtype} ${describe(setting)}`,
          command: [...node, 'test/device/reference-cases.ts', dtype],
          env: environmentOf(setting),
        })),
      ),
  ];
}

/** Loads and stores of single bytes in the PTX of a binary: the kernels have none, since every element is moved as what it is. */
function byteAccesses(binary: string): number {
  const ptx = readFileSync(binary, 'latin1');
  if (!ptx.includes('ld.global')) throw new Error(`${binary} holds no PTX in plain text`);
  return (ptx.match(/\b(ld|st)(\.global|\.shared)?(\.L[^ ]*)?\.[usb]8\b/g) ?? []).length;
}

async function main(args: readonly string[]): Promise<boolean> {
  const found = findRunner();
  if ('missing' in found) {
    console.log(`skipped: ${found.missing}\n0 passed, 0 failed, 1 skipped`);
    return true;
  }
  const start = performance.now();
  let passed = 0;
  let failed = 0;
  let launches = 0;
  const note = (ok: boolean, text: string, details = '') => {
    if (ok) passed++;
    else failed++;
    console.log(`${ok ? 'ok' : 'not ok'} - ${text}${details && `\n${details.replace(/^/gm, '    ')}`}`);
  };
  if (args[0] === '--mutate') {
    await mutate(found.runner, args.slice(1), note);
  } else {
    const out = await build(found.runner);
    console.log(`built in ${((performance.now() - start) / 1000).toFixed(0)} s`);
    const bytes = byteAccesses(join(out, 'calls'));
    note(bytes === 0, `no access to single bytes (${bytes})`);
    const queue = runsOf(out, args[0] === '--short');
    const worker = async () => {
      for (let run = queue.shift(); run !== undefined; run = queue.shift()) {
        const { code, output, seconds } = await execute(run.command, { env: run.env });
        const summary = /PTXSIM SUMMARY.* (\d+) launches/.exec(output);
        const ok = code === 0 && summary !== null;
        launches += Number(summary?.[1] ?? 0);
        const told = output.split('\n').filter((line) => /FINDING|FAIL|not ok|^\S*\.h:\d+:|:\d+: |SUMMARY/.test(line));
        note(
          ok,
          `${run.name} (${seconds.toFixed(1)} s, ${summary?.[1] ?? 'no'} launches)`,
          ok
            ? ''
            : [`exit code ${code}`, ...(told.length > 0 ? told.slice(0, 12) : output.split('\n').slice(-12))].join(
                '\n',
              ),
        );
      }
    };
    await Promise.all(Array.from({ length: Math.min(availableParallelism(), 4) }, worker));
    console.log(`${launches} launches`);
  }
  console.log(`${((performance.now() - start) / 1000).toFixed(0)} s\n${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0;
}

process.chdir(root);
process.exitCode = (await main(process.argv.slice(2))) ? 0 : 1;
