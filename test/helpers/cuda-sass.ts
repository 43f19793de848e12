/** Reads machine code of NVIDIA GPUs as `cuobjdump -sass` prints it: the instructions of a kernel, and what the loops over packs cost. */

import { existsSync } from 'node:fs';
import path from 'node:path';
import { cudaCompiler, run, versionOf } from './cuda-program.js';

/** An instruction with its address in bytes from the beginning of the kernel. */
export interface Instruction {
  address: number;
  text: string;
}

/** One turn of a loop on its widest path: 128-bit loads from and stores to global memory, and all instructions of a thread. */
export interface PackLoop {
  loads: number;
  stores: number;
  instructions: number;
}

/**
 * `CUOBJDUMP`, or one on the PATH, beside nvcc, or in the Triton package of `SDPO_PYTHON` or python3 (which brings one along); `undefined` where there is
 * none.
 */
export async function findDisassembler(): Promise<string | undefined> {
  const candidates = process.env.CUOBJDUMP === undefined ? ['cuobjdump'] : [process.env.CUOBJDUMP];
  try {
    const { stdout } = await run('sh', ['-c', `readlink -f "$(command -v ${cudaCompiler})"`]);
    candidates.push(path.join(path.dirname(stdout.trim()), 'cuobjdump'));
  } catch {}
  for (const python of [process.env.SDPO_PYTHON, 'python3']) {
    if (python === undefined) continue;
    try {
      const find = 'import importlib.util as u; print(u.find_spec("triton").submodule_search_locations[0])';
      const { stdout } = await run(python, ['-c', find]);
      candidates.push(path.join(stdout.trim(), 'backends/nvidia/bin/cuobjdump'));
    } catch {}
  }
  for (const candidate of candidates) {
    if (candidate.includes(path.sep) && !existsSync(candidate)) continue;
    if ((await versionOf(candidate)) !== undefined) return candidate;
  }
  return undefined;
}

/** The kernels of a listing by their mangled names. */
export function readSass(listing: string): Map<string, Instruction[]> {
  const kernels = new Map<string, Instruction[]>();
  let current: Instruction[] | undefined;
  for (const line of listing.split('\n')) {
    const name = /^\s*Function : (\S+)/.exec(line)?.[1];
    if (name !== undefined) {
      current = [];
      kernels.set(name, current);
      continue;
    }
    const [, address, text] = /^\s+\/\*([0-9a-f]{4,})\*\/\s+(.*?)\s*;/.exec(line) ?? [];
    if (address !== undefined) current?.push({ address: Number.parseInt(address, 16), text: text! });
  }
  return kernels;
}

/** The instructions that reach local memory: arrays or spilled registers. */
export function localAccesses(kernel: readonly Instruction[]): string[] {
  return kernel.map(({ text }) => text).filter((text) => /^(@!?U?P\w+ )?(LDL|STL)\b/.test(text));
}

const isGlobal = (text: string) => /\b(LDG|STG)\.E/.test(text);
const isWide = (text: string) => isGlobal(text) && /\.128\b/.test(text);

/** Where a branch goes, and whether it may also not be taken; `undefined` for what is no branch. */
function branchOf(text: string): { target: number; conditional: boolean } | undefined {
  const match = /^(@!?U?P\w+ )?BRA(\.\w+)*(.*?)\b0x([0-9a-f]+)$/.exec(text);
  if (match === null) return undefined;
  return { target: Number.parseInt(match[4]!, 16), conditional: match[1] !== undefined || /P\d|UR\d/.test(match[3]!) };
}

interface Path {
  wide: number;
  loads: number;
  stores: number;
  instructions: number;
  addresses: number[];
}

/** The path from `head` to a branch back to it with the most wide accesses, of these the shortest; never through a narrow access or another loop's turn. */
function widestTurn(kernel: readonly Instruction[], head: number, last: number): Path | undefined {
  const first = kernel.findIndex((i) => i.address === head);
  const best = new Map<number, Path>([[head, { wide: 0, loads: 0, stores: 0, instructions: 0, addresses: [] }]]);
  let turn: Path | undefined;
  const better = (a: Path, b: Path | undefined) =>
    b === undefined || a.wide > b.wide || (a.wide === b.wide && a.instructions < b.instructions);
  for (let i = first; i < kernel.length && kernel[i]!.address <= last; i++) {
    const { address, text } = kernel[i]!;
    const before = best.get(address);
    if (before === undefined || (isGlobal(text) && !isWide(text)) || /^(EXIT|RET)\b/.test(text)) continue;
    const wide = isWide(text) ? 1 : 0;
    const here: Path = {
      wide: before.wide + wide,
      loads: before.loads + (text.includes('LDG') ? wide : 0),
      stores: before.stores + (text.includes('STG') ? wide : 0),
      instructions: before.instructions + 1,
      addresses: [...before.addresses, address],
    };
    const branch = branchOf(text);
    const go = (to: number) => {
      if (better(here, best.get(to))) best.set(to, here);
    };
    if (branch?.target === head && better(here, turn)) turn = here;
    if (branch !== undefined && branch.target > address) go(branch.target);
    const next = kernel[i + 1];
    if (next !== undefined && (branch === undefined || branch.conditional)) go(next.address);
  }
  return turn;
}

/** The innermost loops that read or write 128 bits at a time, in the order of their addresses. */
export function packLoops(kernel: readonly Instruction[]): PackLoop[] {
  const ends = new Map<number, number>(); // the last branch back, by the head of the loop
  for (const { address, text } of kernel) {
    const branch = branchOf(text);
    if (branch !== undefined && branch.target < address) ends.set(branch.target, address);
  }
  const turns = [...ends]
    .sort(([a], [b]) => a - b)
    .map(([head, last]) => ({ head, path: widestTurn(kernel, head, last) }))
    .filter((turn): turn is { head: number; path: Path } => turn.path !== undefined && turn.path.wide > 0);
  const inner = turns.filter(
    ({ head, path }) => !turns.some((other) => other.head !== head && path.addresses.includes(other.head)),
  );
  return inner.map(({ path }) => ({ loads: path.loads, stores: path.stores, instructions: path.instructions }));
}
