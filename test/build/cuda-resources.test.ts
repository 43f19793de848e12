/**
 * What the device compiler makes of the kernels: no spills, no stack, no more registers than test/build/cuda-host/budget.json allows; and, where there is a
 * cuobjdump, no local memory, 128-bit accesses in the loops over packs and no more instructions in them than test/build/cuda-host/sass.json allows.
 *
 * Compiled for sm_90; for all architectures of sass.json with SDPO_TEST_ARCHITECTURES=all (four times as long).
 */

import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { cudaCompiler, inFolder, root, run, versionOf } from '../helpers/cuda-program.js';
import { findDisassembler, localAccesses, type PackLoop, packLoops, readSass } from '../helpers/cuda-sass.js';

const folder = path.join(root, 'native/cuda');
const compiler = await versionOf(cudaCompiler);
const disassembler = compiler === undefined ? undefined : await findDisassembler();

async function readBudget<T>(name: string): Promise<T> {
  return JSON.parse(await readFile(new URL(`cuda-host/${name}`, import.meta.url), 'utf8')) as T;
}
const budget = await readBudget<{
  evaluate_kernel: Record<string, Record<string, number>>;
}>('budget.json');
/** By architecture and kernel. */
const sass = await readBudget<Record<string, Record<string, PackLoop[]>>>('sass.json');
const architectures = process.env.SDPO_TEST_ARCHITECTURES === 'all' ? Object.keys(sass) : ['sm_90'];

interface Usage {
  kernel: string;
  registers: number;
  stack: number;
  spills: number;
}

/** The report of `nvcc --resource-usage`: a line that names the kernel, one with stack and spills, one with registers. */
function usages(report: string): Usage[] {
  const pattern =
    /Compiling entry function '(\S+)'[\s\S]*?(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads[\s\S]*?Used (\d+) registers/g;
  return [...report.matchAll(pattern)].map(([, kernel = '', stack, stores, loads, registers]) => ({
    kernel,
    registers: Number(registers),
    stack: Number(stack),
    spills: Number(stores) + Number(loads),
  }));
}

/** `Uniform<BFloat16>` and `plain` from a mangled name of a kernel of the loss. */
function describe(kernel: string): { access: string; variant: string } | undefined {
  const match = /evaluate_kernelINS0_\d+(Uniform|Mixed)I(d|f|NS_\d+(\w+?)E)EELb(\d)EE/.exec(kernel);
  if (match === null) return undefined;
  const [, access, type, named, plain] = match;
  const element = type === 'd' ? 'double' : type === 'f' ? 'float' : named;
  return { access: `${access}<${element}>`, variant: plain === '1' ? 'plain' : 'general' };
}

/** Runs `use` for each item, two at a time: the compiler takes a core each, and most of the time is its own. */
async function twoAtATime<T>(items: readonly T[], use: (item: T) => Promise<void>): Promise<void> {
  const queue = [...items];
  const worker = async () => {
    for (let item = queue.shift(); item !== undefined; item = queue.shift()) await use(item);
  };
  await Promise.all([worker(), worker()]);
}

const byAccesses = (a: PackLoop, b: PackLoop) =>
  a.loads - b.loads || a.stores - b.stores || a.instructions - b.instructions;
const accesses = (loops: readonly PackLoop[]) => loops.map(({ loads, stores }) => ({ loads, stores }));

for (const architecture of architectures) {
  t.test(
    `kernels on ${architecture}`,
    { skip: compiler === undefined && `no CUDA compiler: ${cudaCompiler} cannot be run`, timeout: 900_000 },
    async (t) => {
      const allowedFor = (access: string, variant: string): number | undefined =>
        budget.evaluate_kernel[access]?.[variant];
      const sources = (await readdir(folder))
        .filter((name) => /^(loss_|elementwise|diagnose).*\.cu$/.test(name))
        .sort();
      const seen: string[] = [];
      const loops: Record<string, PackLoop[]> = {};
      await inFolder(async (out) => {
        await twoAtATime(sources, async (source) => {
          const cubin = path.join(out, `${source}.cubin`);
          const flags = [
            '-std=c++17',
            '-O3',
            '--resource-usage',
            '-cubin',
            `-arch=${architecture}`,
            '-Werror=all-warnings',
          ];
          const { stdout, stderr } = await run(cudaCompiler, [...flags, '-o', cubin, path.join(folder, source)]);
          const found = usages(stdout + stderr);
          t.ok(found.length > 0, `${source} has kernels`);
          for (const { kernel, registers, stack, spills } of found) {
            t.equal(spills, 0, `${kernel} spills nothing`);
            t.equal(stack, 0, `${kernel} uses no stack`);
            const described = describe(kernel);
            if (described === undefined) continue;
            const { access, variant } = described;
            seen.push(`${access} ${variant}`);
            const allowed = allowedFor(access, variant);
            t.ok(
              allowed !== undefined && registers <= allowed,
              `${access} ${variant}: ${registers} registers of ${allowed}`,
            );
          }
          if (disassembler === undefined) return;
          const listing = await run(disassembler, ['-sass', cubin], { maxBuffer: 1 << 28 });
          const kernels = readSass(listing.stdout);
          t.equal(kernels.size, found.length, `${source}: every kernel is listed`);
          for (const [kernel, instructions] of kernels) {
            t.ok(instructions.length > 0, `${kernel} has instructions`);
            t.same(localAccesses(instructions), [], `${kernel} uses no local memory`);
            const described = describe(kernel);
            // Mixtures read packs of 4, 8 and 16 bytes.
            if (described === undefined || described.access.startsWith('Mixed')) continue;
            loops[`${described.access} ${described.variant}`] = packLoops(instructions).sort(byAccesses);
          }
        });
      });
      const budgeted = Object.entries(budget.evaluate_kernel).flatMap(([access, variants]) =>
        Object.keys(variants).map((variant) => `${access} ${variant}`),
      );
      t.same(seen.sort(), budgeted.sort(), 'every kernel has a budget, every budget a kernel');

      t.test(
        'loops over packs',
        {
          skip:
            disassembler === undefined && 'no cuobjdump on the PATH, in CUOBJDUMP, beside nvcc or in a Triton package',
        },
        (t) => {
          const allowed = sass[architecture]!;
          t.same(
            Object.keys(loops).sort(),
            Object.keys(allowed).sort(),
            'every kernel has a budget, every budget a kernel',
          );
          for (const [kernel, found] of Object.entries(loops)) {
            const expected = allowed[kernel] ?? [];
            t.same(accesses(found), accesses(expected), `${kernel}: loops by 128-bit loads and stores`);
            for (const [i, loop] of found.entries()) {
              t.ok(
                loop.instructions <= (expected[i]?.instructions ?? 0),
                `${kernel}: ${loop.instructions} instructions of ${expected[i]?.instructions} for ${loop.loads} loads and ${loop.stores} stores`,
              );
            }
          }
          t.end();
        },
      );
    },
  );
}
