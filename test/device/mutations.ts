/**
 * The code of the device path broken on purpose, one place at a time and in a copy: what the C interface's program and the runner must see. A mutation
 * is a substitution that has to apply, so a change of the code that makes one meaningless shows.
 */

import { copyFile, cp, mkdir, readFile, rename, rm, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { build, environmentOf, execute, folder, root, type Setting } from './runner.js';

interface Mutation {
  name: string;
  /** In native/cuda/. */
  file: string;
  from: string;
  to: string;
  /** The files of native/cuda/ that are compiled again; default the kernels of float32, which are then what is run. */
  compile?: readonly string[];
}

const KERNELS = ['loss_float32'] as const;

const MUTATIONS: readonly Mutation[] = [
  // What blocks tell each other, and what a launch leaves to the next.
  {
    name: 'a ticket is read before it is there',
    file: 'kernel.cuh',
    from: 'if (threadIdx.x == 0) shared.ticket = shared.next;\n    __syncthreads();',
    to: 'if (threadIdx.x == 0) shared.ticket = shared.next;',
  },
  {
    name: 'the next ticket does not wait for the block',
    file: 'kernel.cuh',
    from: '    __syncthreads();  // shared memory is free again\n',
    to: '',
  },
  {
    name: 'a row is finished before its totals are there',
    file: 'kernel.cuh',
    from: 'shared.sums.warp[0][threadIdx.x] = total;\n    __syncwarp();',
    to: 'shared.sums.warp[0][threadIdx.x] = total;',
  },
  {
    name: 'a tile arrives before the other lanes',
    file: 'kernel.cuh',
    from: 'w.partials[step.index % w.ring * kSums + threadIdx.x] = total;\n    __syncwarp();',
    to: 'w.partials[step.index % w.ring * kSums + threadIdx.x] = total;',
  },
  {
    name: 'who brought the last tile is not waited for',
    file: 'kernel.cuh',
    from: '  __syncthreads();\n  if (shared.last) finish_row_as_block',
    to: '  if (shared.last) finish_row_as_block',
  },
  {
    name: 'a gradient does not wait for the lanes that wait',
    file: 'kernel.cuh',
    from: '* row + lane);\n  __syncwarp();',
    to: '* row + lane);',
  },
  {
    name: 'metrics are formed before the last block leaves',
    file: 'kernel.cuh',
    from: 'arrive(&control->blocks_left) == gridDim.x - 1;\n  __syncthreads();',
    to: 'arrive(&control->blocks_left) == gridDim.x - 1;',
  },
  { name: 'tickets go on counting', file: 'kernel.cuh', from: '    control->ticket = 0;\n', to: '' },
  { name: 'arrivals go on counting', file: 'kernel.cuh', from: '    a.workspace.arrived[row] = 0;\n', to: '' },
  {
    name: 'coefficients stay for the next launch',
    file: 'kernel.cuh',
    from: 'a.workspace.coefficients[i] = RowWord::pending;',
    to: 'static_cast<void>(i);',
  },
  {
    name: 'slots of the ring are not waited for',
    file: 'kernel.cuh',
    from: 'if (step.index >= w.ring) {',
    to: 'if (step.index < 0) {',
  },
  {
    name: 'a failed row keeps what was in its gradient',
    file: 'kernel.cuh',
    from: 'if (a.poison) poison_tile<E>(a,',
    to: 'if (a.poison && a.rows < 0) poison_tile<E>(a,',
  },

  // Words that blocks exchange.
  {
    name: 'coefficients do not release',
    file: 'exchange.cuh',
    from: '  __threadfence();\n',
    to: '',
  },
  {
    name: 'coefficients release to their block only',
    file: 'exchange.cuh',
    from: '__threadfence();',
    to: '__threadfence_block();',
  },
  { name: 'coefficients are plain stores', file: 'exchange.cuh', from: 'st.relaxed.gpu.global', to: 'st.global' },
  { name: 'coefficients are not acquired', file: 'exchange.cuh', from: 'ld.acquire.gpu', to: 'ld.relaxed.gpu' },
  { name: 'arrivals order nothing', file: 'exchange.cuh', from: 'atom.acq_rel.gpu', to: 'atom.relaxed.gpu' },
  {
    name: 'coefficients are looked at once',
    file: 'exchange.cuh',
    from: 'while ((value = load_acquire(word)) == RowWord::pending) __nanosleep(64);',
    to: 'value = load_acquire(word);',
  },

  // Sums and elements.
  {
    name: 'warps are added before they are there',
    file: 'reduce.cuh',
    from: '  __syncthreads();\n  double total = 0;',
    to: '  double total = 0;',
  },
  {
    name: 'half of a warp is not added',
    file: 'reduce.cuh',
    from: 'for (int offset = 16; offset > 0; offset /= 2)\n      sum = combine_sums(f, sum, __shfl',
    to: 'for (int offset = 8; offset > 0; offset /= 2)\n      sum = combine_sums(f, sum, __shfl',
  },
  {
    name: 'a shuffle without all lanes',
    file: 'reduce.cuh',
    from: '__shfl_xor_sync(0xffffffffu',
    to: '__shfl_xor_sync(0x0000ffffu',
  },
  {
    name: 'a barrier without one thread',
    file: 'reduce.cuh',
    from: '  __syncthreads();\n  double total = 0;',
    to: '  if (threadIdx.x != 5) __syncthreads();\n  double total = 0;',
  },
  {
    name: 'a pack beyond the end of a row',
    file: 'tile.cuh',
    from: 'if (vector && element + E::kPack <= a.size) {\n      whole',
    to: 'if (vector && element < a.size) {\n      whole',
  },
  {
    name: 'packs at any address',
    file: 'access.cuh',
    from: 'aligned(Source s) { return is_aligned(s, kAccessBytes); }',
    to: 'aligned(Source) { return true; }',
  },
  {
    name: 'elements byte by byte',
    file: 'pack.cuh',
    from: 'SDPO_CUDA_HD To bit_cast(From from) {',
    to: 'SDPO_CUDA_HD To bit_cast(const From& from) {',
  },
  { name: 'one gradient of a failed row is not NaN', file: 'poison.cuh', from: 'branch < 2', to: 'branch < 1' },
  {
    name: 'a failed row is NaN up to its last tile',
    file: 'poison.cuh',
    from: '[&](int64_t i) { E::store_one(out, i, S(NAN)); }',
    to: '[&](int64_t) {}',
  },
  {
    name: 'the coefficients of a failed row are not NaN',
    file: 'row.cuh',
    from: 'a.poison && (a.passes & Pass::objective)',
    to: 'a.poison && a.rows < 0',
  },
  {
    name: 'the workspace of a mixture is that of a plain batch',
    file: 'entry.cuh',
    from: 'kSumsOf<kPlain>}',
    to: 'kSumsOf<true>}',
    compile: ['loss_mixed_float32'],
  },

  // The host's side: order, room, graphs.
  {
    name: 'a gradient before the moments of its row',
    file: 'order.h',
    from: 'const int64_t moments = rows * moment_tiles;',
    to: 'const int64_t moments = (rows * moment_tiles + 1) / 2;',
  },
  {
    name: 'a ring shorter than a row',
    file: 'policy.h',
    from: 'const int64_t wanted = 2 * tiles_per_row + 2 * blocks;',
    to: 'const int64_t wanted = (tiles_per_row + 1) / 2 + 0 * blocks;',
    compile: ['loss'],
  },
  {
    name: 'a workspace grows during a capture',
    file: 'stream.cu',
    from: 'if (captured) {\n      return report(',
    to: 'if (captured && bytes == 0) {\n      return report(',
    compile: ['stream'],
  },
  {
    name: 'a workspace that a graph uses is freed',
    file: 'stream.cu',
    from: 'if (buffer->captured) {',
    to: 'if (buffer->captured && bytes == 0) {',
    compile: ['stream'],
  },
  {
    name: 'a capture of a workspace is forgotten',
    file: 'stream.cu',
    from: 'buffer->captured = buffer->captured || captured;',
    to: 'buffer->captured = false;',
    compile: ['stream'],
  },
  {
    name: 'results that the host reads are captured',
    file: 'loss.cu',
    from: 'if (captured && (on_host_ || result)) {',
    to: 'if (captured && problem_.rows < 0) {',
    compile: ['loss'],
  },
  {
    name: 'a refused call waits for the stream',
    file: 'loss.cu',
    from: 'bool begun_ = false;',
    to: 'bool begun_ = true;',
    compile: ['loss'],
  },
  {
    name: 'nothing is reserved',
    file: 'loss.cu',
    from: 'if (asked != Status::ok || problem.rows == 0) return asked;',
    to: 'if (asked != Status::ok || problem.rows >= 0) return asked;',
    compile: ['loss'],
  },
];

/** The schedulers that a mutation is given to, in turn. */
const SEEDS: readonly Pick<Setting, 'seed' | 'resident'>[] = [2, 3, 0].flatMap((seed) =>
  [0, 1].map((resident) => ({ seed, resident })),
);

const copy = join(folder, 'mutants/source');
const objects = join(folder, 'mutants/cmake');
const program = join(folder, 'mutants/build/Release/calls');

/** What is seen of the program as it is built now: undefined where nothing is. */
async function seen(): Promise<string | undefined> {
  if (/\b(ld|st)\.global(\.L[^ ]*)?\.[usb]8\b/.test(await readFile(program, 'latin1')))
    return 'an access to a single byte';
  for (const scheduler of SEEDS) {
    // Float32 alone, since its kernels are what is compiled again.
    const env = { ...environmentOf({ cc: 90, ...scheduler }), PTXSIM_SMS: '3' };
    const { code, output } = await execute([program, '3', '40', 'float32'], { env, limit: 180 });
    if (code === 0) continue;
    const line = output.split('\n').find((text) => /FINDING|FAIL/.test(text)) ?? `it ended with ${code}`;
    return `seed ${scheduler.seed}, resident ${scheduler.resident}: ${line.trim().slice(0, 160)}`;
  }
  return undefined;
}

const objectOf = (source: string) => `CMakeFiles/sdpo_core.dir/native/cuda/${source}.cu.o`;

/** Compiles some files of the copy again and links the program, whatever else depends on what has changed. */
async function compile(sources: readonly string[]): Promise<void> {
  const compiled = await execute(['ninja', '-C', objects, ...sources.map(objectOf)]);
  if (compiled.code !== 0) throw new Error(compiled.output.slice(-2000));
  const command = await execute(['ninja', '-C', objects, '--quiet', '-t', 'commands', '-s', program]);
  if (command.code !== 0 || command.output === '') throw new Error(`there is no command that links ${program}`);
  const linked = await execute(['sh', '-c', command.output], { cwd: objects });
  if (linked.code !== 0) throw new Error(linked.output.slice(-2000));
}

/** Makes the mutations of the given names, or all, and notes for each whether it was seen. */
export async function mutate(
  runner: string,
  names: readonly string[],
  note: (ok: boolean, text: string, details?: string) => void,
): Promise<void> {
  const chosen = MUTATIONS.filter(({ name }) => names.length === 0 || names.includes(name));
  if (chosen.length < names.length)
    throw new Error(`expected names of mutations:\n${MUTATIONS.map(({ name }) => name).join('\n')}`);
  await rm(copy, { recursive: true, force: true });
  await mkdir(copy, { recursive: true });
  for (const part of [
    'native',
    'test/device',
    'test/build/cuda-host',
    'benchmarks/gpu',
    'CMakeLists.txt',
    'package.json',
  ]) {
    await cp(join(root, part), join(copy, part), { recursive: true, preserveTimestamps: true });
  }
  await build(runner, copy, objects, ['gpu_calls'], { SDPO_ADDON: 'OFF' });
  const nothing = await seen();
  note(nothing === undefined, 'the code as it is', nothing);
  for (const { name, file, from, to, compile: sources = KERNELS } of chosen) {
    const path = join(copy, 'native/cuda', file);
    const text = await readFile(path, 'utf8');
    if (text.split(from).length !== 2) {
      note(false, name, `the substitution does not apply to ${file} exactly once`);
      continue;
    }
    const whole = sources.map((source) => join(objects, objectOf(source)));
    for (const object of whole) await copyFile(object, `${object}.whole`);
    try {
      await writeFile(
        path,
        text.replace(from, () => to),
      );
      await compile(sources);
      const found = await seen();
      note(found !== undefined, name, found ?? 'nothing was seen of it');
    } catch (error) {
      note(false, name, String(error));
    } finally {
      await writeFile(path, text);
      for (const object of whole) await rename(`${object}.whole`, object);
    }
  }
}
