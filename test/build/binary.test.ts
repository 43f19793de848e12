/** The built addon as a file: what it needs of the system, what it shows, and that the instruction sets stay apart. */
import { execFileSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { homedir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import t from 'tap';
import { compareVersions, contains, inspect } from '../../scripts/binary.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const file = join(root, 'build', 'Release', 'sdpo.node');
const { glibc: limits } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).sdpo;
const objects = join(root, 'build', 'CMakeFiles', 'sdpo_core.dir', 'native', 'cpu');
const kernels = (existsSync(objects) ? readdirSync(objects) : []).filter((name) => /^kernels_.*\.o$/.test(name));
const skip = process.platform === 'linux' ? false : 'the file is examined with readelf: Linux only';
const run = (tool: string, ...args: string[]) => execFileSync(tool, args, { encoding: 'utf8', maxBuffer: 2 ** 28 });

t.test('needs glibc and nothing else', { skip }, (t) => {
  const { needed, searchPath, foreign } = inspect(file);
  t.ok(needed.includes('libc.so.6'));
  const glibc = /^(libc|libm|libpthread|libdl|librt)\.so\.\d+$|^ld-linux.*\.so\.\d+$/;
  t.same(
    needed.filter((name) => !glibc.test(name)),
    [],
    'C++, compiler and CUDA runtimes are linked statically',
  );
  t.same(searchPath, [], 'no search path of the building machine');
  t.same(
    foreign.filter((name) => !/^(napi|node_api)_/.test(name)),
    [],
    'every other symbol comes from Node-API',
  );
  t.end();
});

t.test('needs no newer glibc than is stated', { skip }, (t) => {
  const { glibc, glibcSymbols } = inspect(file);
  const system = (process.report.getReport() as unknown as { header: { glibcVersionRuntime: string } }).header
    .glibcVersionRuntime;
  // Static runtimes refer to what the glibc they were built for has, so only a system that is no newer than those releases are made on tells.
  if (compareVersions(system, '2.36') > 0)
    t.pass(`needs ${glibc}`, { skip: `glibc ${system} is newer than those binaries are built on` });
  else
    t.ok(
      compareVersions(glibc, limits.source) <= 0,
      `needs ${glibc} (${glibcSymbols.join(', ')}), stated is ${limits.source}`,
    );
  t.ok(compareVersions(limits.prebuilt, limits.source) <= 0);
  t.end();
});

t.test('shows the entry points of a Node-API module only', { skip }, (t) => {
  t.same(inspect(file).exported.sort(), ['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
  t.end();
});

t.test('holds no path of the machine that built it', { skip }, (t) => {
  for (const path of [root, `${homedir()}/`]) {
    if (path.length > 3) t.notOk(contains(file, path), path);
  }
  t.end();
});

t.test(
  'an instruction set stays in its own file',
  { skip: skip || (kernels.length === 0 && 'no object files in build/') },
  (t) => {
    t.ok(kernels.includes('kernels_baseline.cc.o'));
    if (process.arch === 'x64') t.ok(kernels.includes('kernels_avx512.cc.o') && kernels.includes('kernels_avx2.cc.o'));
    for (const name of kernels) {
      const object = join(objects, name);
      // The linker keeps one copy of a weak symbol (an inline function, a template instance), perhaps the one with AVX-512 instructions,
      // for every caller, and then a processor without them stops.
      const weak = run('nm', '--defined-only', '--demangle', object)
        .split('\n')
        .filter((line) => / [WVu] /.test(line))
        .filter((line) => !line.includes(`::${name.replace(/^kernels_|\.cc\.o$/g, '')}::`));
      t.same(weak, [], `${name} defines no symbol that other files share`);
      // The kernels ask for z - x y themselves where x y is exact; a compiler would mostly fuse z + x y.
      const fused = run('objdump', '-d', '--no-show-raw-insn', object).match(
        /\b(vf(madd|msub|nmsub|maddsub|msubadd)[0-9a-z]*|fn?m(add|sub)|fml[as])\s/g,
      );
      t.equal(fused, null, `${name} fuses no multiplication with an addition`);
    }
    t.end();
  },
);
