/** Loading the addon, and the message that a user gets when no binary fits: in child processes over a copy of the package. */
import { spawnSync } from 'node:child_process';
import { cpSync, existsSync, mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { build as bundle } from 'esbuild';
import t, { type Test } from 'tap';
import ts from 'typescript';
import { inspect } from '../../scripts/binary.js';

const root = fileURLToPath(new URL('../..', import.meta.url)).replace(/\/$/, '');
const tuple = `${process.platform}-${process.arch}`;
const other = process.platform === 'darwin' ? 'win32-x64' : 'darwin-x64';

const glibcOfThisSystem = () =>
  (process.report.getReport() as unknown as { header: { glibcVersionRuntime: string } }).header.glibcVersionRuntime;

/** An installed package with nothing but what loading needs; `files` are added to it. */
function installed(t: Test, files: Record<string, string> = {}): string {
  const folder = join(t.testdir({}), 'node_modules', 'sdpo');
  mkdirSync(join(folder, 'dist', 'native'), { recursive: true });
  cpSync(join(root, 'package.json'), join(folder, 'package.json'));
  symlinkSync(join(root, 'node_modules', 'node-gyp-build'), join(folder, '..', 'node-gyp-build'));
  for (const name of ['binding', 'errors', 'printable']) {
    const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
    const { outputText } = ts.transpileModule(readFileSync(join(root, 'lib', 'native', `${name}.ts`), 'utf8'), {
      compilerOptions,
    });
    writeFileSync(join(folder, 'dist', 'native', `${name}.js`), outputText);
  }
  for (const [name, text] of Object.entries(files)) {
    mkdirSync(join(folder, name, '..'), { recursive: true });
    writeFileSync(join(folder, name), text);
  }
  return folder;
}

interface Outcome {
  loaded?: string[];
  name?: string;
  code?: string;
  message?: string;
  cause?: string;
}

/** Loads the package in a process of its own, after `before` has run there, and returns what came of it. */
function load(folder: string, env: Record<string, string> = {}, before = ''): Outcome {
  const script = `
    ${before}
    const show = (value) => console.log(JSON.stringify(value));
    import(${JSON.stringify(join(folder, 'dist', 'native', 'binding.js'))}).then(
      ({ binding }) => show({ loaded: Object.keys(binding) }),
      ({ name, code, message, cause }) => show({ name, code, message, cause: cause?.message }),
    );`;
  // A binary that is unfit in an unforeseen way may end the process, which must not be this one.
  const clean = Object.fromEntries(
    Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|PREBUILDS_ONLY|SDPO_)/.test(name)),
  );
  const child = spawnSync(process.execPath, ['-e', script], { encoding: 'utf8', env: { ...clean, ...env } });
  if (child.status !== 0) throw new Error(`the child ended with ${child.status ?? child.signal}: ${child.stderr}`);
  return JSON.parse(child.stdout);
}

/** The message, after checking what every message has to say. */
function explained(t: Test, folder: string, env?: Record<string, string>): string {
  const { name, code, message = '', cause } = load(folder, env);
  t.equal(name, 'SdpoError');
  t.equal(code, 'ERR_SDPO_NO_BINARY');
  t.ok(cause, 'the original error is kept');
  t.ok(message.includes(`${process.platform}-${process.arch} (`), 'platform, architecture and libc');
  t.ok(
    message.includes(`Node-API ${process.versions.napi}`) && message.includes(process.versions.node),
    'Node and Node-API',
  );
  for (const part of [
    ['build', 'Release'],
    ['build', 'Debug'],
    ['prebuilds', tuple],
  ]) {
    t.ok(message.includes(join(folder, ...part)), `names ${part.join('/')}`);
  }
  return message;
}

t.test('nothing to load', (t) => {
  const folder = installed(t);
  const message = explained(t, folder);
  t.match(message, /No native build was found/);
  t.match(message, /build.Release: no such folder/);
  const { prebuilds, glibc } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')).sdpo;
  t.ok(message.includes(prebuilds.join(' and ')) && message.includes(`glibc ${glibc.prebuilt}`), 'what is published');
  t.ok(
    message.includes(`cd ${folder} && npx --yes --package cmake-js@8 --package node-addon-api@8 -- cmake-js compile`),
    'how to build',
  );
  t.end();
});

t.test('the command survives a path with a space and a quote', (t) => {
  const plain = installed(t);
  const folder = join(plain, '..', '..', "it's a folder", 'node_modules', 'sdpo');
  cpSync(join(plain, '..'), join(folder, '..'), { recursive: true });
  const command = /^ +(cd .+) && npx/m.exec(explained(t, folder))?.[1];
  const { stdout } = spawnSync('sh', ['-c', `${command} && pwd`], { encoding: 'utf8' });
  t.equal(stdout.trim(), folder);
  t.end();
});

t.test('a checkout is built with its own script', (t) => {
  const folder = installed(t, { 'lib/native/binding.ts': '' });
  const message = explained(t, folder);
  t.ok(message.includes(`cd ${folder} && npm install && npm run build:native`));
  t.notMatch(message, /npx|reinstall/);
  t.end();
});

t.test('binaries for other systems are named', (t) => {
  const folder = installed(t, { [`prebuilds/${other}/sdpo.node`]: '', [`prebuilds/${tuple}/sdpo.abi1.node`]: '' });
  const message = explained(t, folder);
  t.match(message, /sdpo\.abi1\.node/);
  t.match(message, new RegExp(`beside it ${other}`));
  t.end();
});

t.test('systems without prebuilt binaries', { skip: process.platform !== 'linux' && 'Linux plays them here' }, (t) => {
  const folder = installed(t);
  const musl = load(folder, {}, `process.report.getReport = () => ({ header: {} });`).message ?? '';
  t.match(musl, `for linux-${process.arch} (musl)`);
  t.match(musl, /cmake-js compile/);
  t.notMatch(musl, /reinstall/, 'the published files are for glibc');
  for (const system of ['win32', 'darwin']) {
    const pretend = `require('os').platform = () => '${system}'; require('module').syncBuiltinESMExports();`;
    const { code, message = '' } = load(folder, {}, pretend);
    t.equal(code, 'ERR_SDPO_NO_BINARY');
    t.match(message, `for ${system}-${process.arch}`);
    t.match(message, /WSL 2.*Linux container/);
    t.notMatch(message, /cmake-js/, 'no command that cannot work');
  }
  t.end();
});

t.test('a damaged binary: which file, and what the system said', (t) => {
  const file = 'build/Release/sdpo.node';
  const folder = installed(t, {
    [file]: 'this is no shared library, but it is long enough to be read as one'.repeat(10),
  });
  const message = explained(t, folder);
  t.match(message, `The loader chose ${join(folder, file)} and said:`);
  t.notMatch(message, /Prebuilt binaries/, 'a file was there: another one is not the remedy');
  t.match(message, /cmake-js compile/);
  const prebuiltOnly = explained(t, folder, { PREBUILDS_ONLY: '1' });
  t.match(prebuiltOnly, /Release: sdpo\.node \(not used: PREBUILDS_ONLY is set\)/);
  t.match(prebuiltOnly, /No native build was found/);
  t.end();
});

t.test(
  'a binary for a newer glibc: the versions are named',
  { skip: process.platform !== 'linux' && 'glibc is Linux only' },
  (t) => {
    const folder = installed(t, { 'build/Release/sdpo.node': '' });
    const built = join(root, 'build', 'Release', 'sdpo.node');
    const needed = inspect(built).glibc;
    const newer = needed.replace(/^2/, '9');
    // The same file, asking for a version that no system has yet.
    const patched = readFileSync(built, 'latin1').replaceAll(`GLIBC_${needed}\0`, `GLIBC_${newer}\0`);
    writeFileSync(join(folder, 'build', 'Release', 'sdpo.node'), patched, 'latin1');
    t.match(explained(t, folder), `The file needs glibc ${newer}, and this system has ${glibcOfThisSystem()}`);
    t.end();
  },
);

t.test('the built addon loads, twice and in a worker', async (t) => {
  const folder = installed(t);
  const built = join(root, 'build', 'Release', 'sdpo.node');
  t.ok(existsSync(built), 'npm run build:native made it');
  mkdirSync(join(folder, 'prebuilds', tuple), { recursive: true });
  cpSync(built, join(folder, 'prebuilds', tuple, 'sdpo.glibc.node'));
  const { loaded } = load(folder, { PREBUILDS_ONLY: '1' });
  t.ok(loaded && loaded.length > 0);

  const url = JSON.stringify(join(folder, 'dist', 'native', 'binding.js'));
  const script = `const { parentPort } = require('node:worker_threads');
    import(${url}).then(({ binding }) => parentPort.postMessage(Object.keys(binding)));`;
  const first = await import(join(folder, 'dist', 'native', 'binding.js'));
  t.same(Object.keys(first.binding), loaded);
  const inWorker = await new Promise((done, failed) => {
    const worker = new Worker(script, { eval: true });
    worker.once('message', done);
    worker.once('error', failed);
  });
  t.same(inWorker, loaded);
});

t.test('code that a bundler has taken out of the package says so', async (t) => {
  const folder = t.testdir({
    'package.json': '{"name":"app"}',
    'main.mjs': `import { NoiseSchedule } from ${JSON.stringify(join(root, 'lib/index.ts'))};
      console.log(NoiseSchedule.preset('sd15').signal(5));`,
  });
  for (const [format, name] of [
    ['esm', 'out.mjs'],
    ['cjs', 'out.cjs'],
  ] as const) {
    const outfile = join(folder, 'dist', name);
    await bundle({
      entryPoints: [join(folder, 'main.mjs')],
      bundle: true,
      platform: 'node',
      format,
      outfile,
      logLevel: 'silent',
      external: ['@jax-js/jax', '@tensorflow/tfjs'],
    });
    const { status, stderr } = spawnSync(process.execPath, [outfile], { encoding: 'utf8', cwd: folder });
    t.equal(status, 1);
    t.match(stderr, 'ERR_SDPO_NO_BINARY', `${format}: the code`);
    t.match(stderr, 'a bundler has taken its code out of the package', 'what happened');
    t.match(stderr, 'keep sdpo external', 'what helps');
    t.notMatch(stderr, 'Cannot read properties');
  }
});
