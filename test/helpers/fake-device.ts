/** The addon with a stand-in for CUDA (fake-cuda/cuda.cc), built once per test file, for what the API does with devices on machines without one. */

import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, renameSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');

/** Rooms of native/ that see SDPO_WITH_CUDA; the CPU backend's objects are those of the last build. */
const rooms = ['core', 'node'];

/** Builds it and gives the environment in which lib/ loads it, or the reason why it cannot be built here. */
export function fakeDevice(): { env: Record<string, string> } | { missing: string } {
  const compiler = process.env.CXX || 'g++';
  if (spawnSync(compiler, ['--version']).status !== 0) return { missing: `there is no C++ compiler (${compiler})` };
  const objects = join(root, 'build/CMakeFiles/sdpo_core.dir/native/cpu');
  if (!existsSync(objects)) return { missing: 'the addon was not built in build/' };
  const base = join(root, 'build/fake-cuda');
  mkdirSync(join(base, 'build/Release'), { recursive: true });
  // Test files run at the same time: each puts a finished file in place, and what is loaded stays as it was.
  const library = join(base, 'build/Release/sdpo.node');
  const made = `${library}.${process.pid}`;
  const include = (folder: string) => ['-isystem', join(root, 'node_modules', folder)];
  const { status, stderr } = spawnSync(
    compiler,
    [
      ...['-std=c++17', '-O1', '-Wall', '-Wextra', '-Werror', '-fPIC', '-shared', '-pthread'],
      ...['-DSDPO_WITH_CUDA', '-DNAPI_VERSION=8', `-I${join(root, 'native')}`],
      ...['-DNODE_ADDON_API_CPP_EXCEPTIONS', '-DNODE_ADDON_API_CPP_EXCEPTIONS_ALL'],
      ...[...include('node-addon-api'), ...include('node-api-headers/include')],
      ...['-o', made, join(root, 'test/build/fake-cuda/cuda.cc')],
      ...rooms.flatMap((room) => sourcesOf(join(root, 'native', room))),
      ...readdirSync(objects).map((name) => join(objects, name)),
      '-Wl,-z,nodelete',
    ],
    { encoding: 'utf8' },
  );
  if (status !== 0) throw new Error(`the addon with a fake device does not compile:\n${stderr}`);
  renameSync(made, library);
  return { env: { SDPO_PREBUILD: base } };
}

function sourcesOf(folder: string): string[] {
  return readdirSync(folder)
    .filter((name) => name.endsWith('.cc'))
    .map((name) => join(folder, name));
}
