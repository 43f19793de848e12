/**
 * What the device compiler makes of the kernels on sm_90: no spills, no stack, no more registers than test/build/cuda-host/budget.json allows.
 */

import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import t from 'tap';
import { cudaCompiler, inFolder, root, run, versionOf } from '../helpers/cuda-program.js';

const architecture = 'sm_90';
const folder = path.join(root, 'native/cuda');
const compiler = await versionOf(cudaCompiler);

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

/** `Uniform<BFloat16>` and `plain`, or `cluster`, from a mangled name of a kernel of the loss. */
function describe(kernel: string): { access: string; variant: string } | undefined {
  const match = /(evaluate|cluster)_kernelINS0_\d+(Uniform|Mixed)I(d|f|NS_\d+(\w+?)E)EE(?:Lb(\d)E)?E/.exec(kernel);
  if (match === null) return undefined;
  const [, name, access, type, named, plain] = match;
  const element = type === 'd' ? 'double' : type === 'f' ? 'float' : named;
  return {
    access: `${access}<${element}>`,
    variant: name === 'cluster' ? 'cluster' : plain === '1' ? 'plain' : 'general',
  };
}

t.test(
  `resources on ${architecture}`,
  { skip: compiler === undefined && `no CUDA compiler: ${cudaCompiler} cannot be run`, timeout: 600_000 },
  async (t) => {
    const budget = JSON.parse(await readFile(new URL('cuda-host/budget.json', import.meta.url), 'utf8')) as {
      evaluate_kernel: Record<string, Record<string, number>>;
      cluster_kernel: Record<string, number>;
    };
    const allowedFor = (access: string, variant: string): number | undefined =>
      variant === 'cluster' ? budget.cluster_kernel[access] : budget.evaluate_kernel[access]?.[variant];
    const sources = (await readdir(folder)).filter((name) => /^(loss_|elementwise|diagnose).*\.cu$/.test(name)).sort();
    const seen: string[] = [];
    await inFolder(async (out) => {
      const compile = async (source: string) => {
        const flags = [
          '-std=c++17',
          '-O3',
          '--resource-usage',
          '-cubin',
          `-arch=${architecture}`,
          '-Werror=all-warnings',
        ];
        const { stdout, stderr } = await run(cudaCompiler, [
          ...flags,
          '-o',
          path.join(out, `${source}.cubin`),
          path.join(folder, source),
        ]);
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
      };
      // Two at a time: the compiler takes a core each, and most of the time is its own.
      const queue = [...sources];
      const worker = async () => {
        for (let source = queue.shift(); source !== undefined; source = queue.shift()) await compile(source);
      };
      await Promise.all([worker(), worker()]);
    });
    const budgeted = [
      ...Object.entries(budget.evaluate_kernel).flatMap(([access, variants]) =>
        Object.keys(variants).map((variant) => `${access} ${variant}`),
      ),
      ...Object.keys(budget.cluster_kernel).map((access) => `${access} cluster`),
    ];
    t.same(seen.sort(), budgeted.sort(), 'every kernel has a budget, every budget a kernel');
  },
);
