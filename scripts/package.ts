/**
 * Builds the npm packages, sdpo and sdpo-study, and proves that they work as a user gets them.
 *
 *   npm run package                       all of the steps below, for this machine's platform
 *   npm run package -- prebuild           this platform's binary into prebuilds/
 *   npm run package -- pack [--all]       the tarballs, with contents, manifest and types checked; --all: with the binary of every published platform
 *   npm run package -- smoke <tarball…>   installs them in empty folders, without scripts: README example, types; a study and its report
 *   npm run package -- source <tarball…>  sdpo without a binary: the command that the load error names has to build one
 *
 * The binary is a stripped copy of build/Release/sdpo.node, which is brought up to date first, with the options it was configured with.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { arch, platform, tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';
import { declaration, RUNS } from '../study/test/declaration.js';
import { compareVersions, inspect } from './binary.js';
import { firstExample, type PackageName, packages, publishedManifest, tarballProblems } from './tarball.js';

const root = fileURLToPath(new URL('..', import.meta.url)).replace(/\/$/, '');
const here = `${platform()}-${arch()}`;
const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  name: string;
  version: string;
  sdpo: { prebuilds: string[]; glibc: { prebuilt: string; source: string } };
};

// npm hands its own settings to the scripts it runs; a child npm in another folder would take that folder for ours.
const environment: NodeJS.ProcessEnv = Object.fromEntries(
  Object.entries(process.env).filter(
    ([name]) => !/^(npm_(package|lifecycle)_|npm_config_local_prefix$|INIT_CWD$)/.test(name),
  ),
);

function run(command: string, args: string[], cwd: string, extra: NodeJS.ProcessEnv = {}): void {
  console.log(`> ${[command, ...args].join(' ')}`);
  const { status, signal } = spawnSync(command, args, { cwd, env: { ...environment, ...extra }, stdio: 'inherit' });
  if (status !== 0) fail(`${command} ended with ${status ?? signal}`);
}

/** Runs the README example; the arrays that it prints are shown only where it fails. */
function runExample(folder: string, extra: NodeJS.ProcessEnv = {}): void {
  const { status, signal, stdout, stderr } = spawnSync('node', ['example.js'], {
    cwd: folder,
    env: { ...environment, ...extra },
    encoding: 'utf8',
  });
  if (status !== 0) fail(`The README example ended with ${status ?? signal}:\n${stdout}${stderr}`);
}

function fail(message: string): never {
  console.error(message);
  process.exit(1);
}

function prebuild(): void {
  const stage = join(root, 'build', 'prebuild');
  mkdirSync(stage, { recursive: true });
  const bin = join(root, 'node_modules', '.bin', 'prebuildify');
  const shim = join(root, 'scripts', 'node-gyp');
  const options = ['--napi', '--strip', '--tag-libc', '--name', manifest.name, '-t', process.versions.node];
  run(bin, [...options, '--node-gyp', shim, '--cwd', stage, '--out', root], root);
}

/** Makes the tarballs and returns their paths. */
function pack(all: boolean): string[] {
  const names = Object.keys(packages) as PackageName[];
  // Files of an earlier build whose source is gone would be shipped.
  for (const name of names) rmSync(join(root, packages[name].folder, 'dist'), { recursive: true, force: true });
  run('npm', ['run', '--silent', 'build:ts'], root);
  const platforms = all ? manifest.sdpo.prebuilds : [here];
  const problems = platforms.flatMap((name) =>
    prebuiltProblems(name, all ? manifest.sdpo.glibc.prebuilt : manifest.sdpo.glibc.source),
  );
  const tarballs = names.map((name) => {
    const { file, paths } = packOne(name);
    problems.push(...tarballProblems(root, name, paths, name === 'sdpo' ? platforms : []));
    return file;
  });
  if (problems.length > 0) fail(`The tarballs are not what they should be:\n  ${problems.join('\n  ')}`);
  for (const tarball of tarballs) lintTarball(tarball);
  return tarballs;
}

/** What publint and attw (are the types wrong?) find is an error. */
function lintTarball(tarball: string): void {
  run('npx', ['publint', '--strict', tarball], root);
  // There is no CommonJS build: Node 20.19, which the manifest asks for, can require ES modules, and TypeScript knows it with module nodenext.
  run(
    'npx',
    ['attw', '--no-color', '--format', 'table-flipped', '--ignore-rules', 'cjs-resolves-to-esm', '--', tarball],
    root,
  );
}

interface Packed {
  readonly filename: string;
  readonly size: number;
  readonly unpackedSize: number;
  readonly files: readonly { readonly path: string; readonly size: number }[];
}

function npmPack(folder: string, ...options: string[]): Packed {
  const output = execFileSync('npm', ['pack', '--json', '--ignore-scripts', ...options], {
    cwd: folder,
    env: environment,
    encoding: 'utf8',
  });
  return (JSON.parse(output) as [Packed])[0];
}

/** Packs a copy of what npm would pack, since the manifest of a checkout is not the one to publish. */
function packOne(name: PackageName): { file: string; paths: string[] } {
  const own = join(root, packages[name].folder);
  const destination = join(root, 'build');
  const stage = join(destination, 'pack', name);
  rmSync(stage, { recursive: true, force: true });
  for (const { path } of npmPack(own, '--dry-run').files) cpSync(join(own, path), join(stage, path));
  const published = publishedManifest(JSON.parse(readFileSync(join(own, 'package.json'), 'utf8')));
  writeFileSync(join(stage, 'package.json'), `${JSON.stringify(published, null, 2)}\n`);
  const tarball = npmPack(stage, '--pack-destination', destination);
  for (const file of tarball.files) console.log(`${String(file.size).padStart(9)}  ${file.path}`);
  console.log(
    `${tarball.filename}: ${tarball.files.length} files, ${tarball.size} bytes packed, ${tarball.unpackedSize} unpacked`,
  );
  return { file: join(destination, tarball.filename), paths: tarball.files.map((file) => file.path) };
}

function prebuiltProblems(name: string, limit: string): string[] {
  const file = join(root, 'prebuilds', name, `${manifest.name}.glibc.node`);
  if (!existsSync(file)) return [];
  const { glibc, glibcSymbols } = inspect(file);
  console.log(`${name}: ${statSync(file).size} bytes, needs glibc ${glibc}`);
  return compareVersions(glibc, limit) <= 0
    ? []
    : [`${name} needs glibc ${glibc} (${glibcSymbols.slice(0, 5).join(', ')}), at most ${limit} is promised`];
}

/** Installs tarballs as a user would, but without scripts, into an empty folder. */
function install(...tarballs: string[]): string {
  const folder = mkdtempSync(join(tmpdir(), 'sdpo-consumer-'));
  writeFileSync(join(folder, 'package.json'), JSON.stringify({ name: 'consumer', private: true, type: 'module' }));
  run('npm', ['install', '--ignore-scripts', '--no-audit', '--no-fund', '--loglevel=error', ...tarballs], folder);
  console.log(`installed: ${sizeOf(join(folder, 'node_modules'))} bytes in ${packagesIn(folder)} packages`);
  return folder;
}

function sizeOf(folder: string): number {
  const files = readdirSync(folder, { recursive: true, withFileTypes: true }).filter((entry) => entry.isFile());
  return files.reduce((sum, { parentPath, name }) => sum + statSync(join(parentPath, name)).size, 0);
}

/** Packages that an installation brought. */
function packagesIn(folder: string): number {
  const lock = JSON.parse(readFileSync(join(folder, 'package-lock.json'), 'utf8')) as { packages: object };
  return Object.keys(lock.packages).length - 1;
}

/** A folder with the package and the example of its README. */
function installExample(tarball: string): string {
  const folder = install(tarball);
  const example = firstExample(readFileSync(join(folder, 'node_modules', manifest.name, 'README.md'), 'utf8'));
  writeFileSync(join(folder, 'example.ts'), example);
  writeFileSync(join(folder, 'example.js'), javascript(example));
  return folder;
}

function javascript(typescript: string): string {
  const compilerOptions = { module: ts.ModuleKind.ESNext, target: ts.ScriptTarget.ES2022 };
  return ts.transpileModule(typescript, { compilerOptions }).outputText;
}

function smoke(tarball: string): void {
  const folder = installExample(tarball);
  runExample(folder, { PREBUILDS_ONLY: '1' });
  const required = "for (const name of ['sdpo', 'sdpo/trainer', 'sdpo/package.json']) require(name)";
  writeFileSync(join(folder, 'required.cjs'), required);
  run('node', ['required.cjs'], folder, { PREBUILDS_ONLY: '1' });
  checkTypes(folder);
  rmSync(folder, { recursive: true });
  console.log('The README example runs from the tarball, CommonJS can require it, and its types fit.');
}

/** A study of the tests, run and reported by the installed commands. */
function smokeStudy(tarball: string, study: string): void {
  const folder = install(tarball, study);
  const experiment = readFileSync(join(root, 'study/test/experiment.ts'), 'utf8');
  writeFileSync(join(folder, 'experiment.js'), javascript(experiment));
  writeFileSync(join(folder, 'study.json'), JSON.stringify({ ...declaration, experiment: './experiment.js' }));
  const command = join('node_modules', '.bin', 'sdpo-study');
  run(command, ['study', 'study.json', '--out', 'results'], folder, { PREBUILDS_ONLY: '1' });
  run(command, ['report', 'results'], folder, { PREBUILDS_ONLY: '1' });
  const runs = readdirSync(join(folder, 'results', 'runs')).length;
  if (runs !== RUNS) fail(`Expected ${RUNS} runs of the study, received ${runs}`);
  const page = readFileSync(join(folder, 'report.html'), 'utf8');
  if (!page.includes('<svg') || !page.includes('data:image/png')) fail('Expected the report to have plots and samples');
  rmSync(folder, { recursive: true });
  console.log('A study and its report run from the tarballs.');
}

/** What a caller may hand on: with exactOptionalPropertyTypes an option takes undefined only where its type says so. */
const MAYBE = `import { NoiseSchedule, PreferenceLoss, type Batch } from 'sdpo';
import { type CalibrateOptions, type PreferenceTrainerOptions } from 'sdpo/trainer';
declare const given: { [name: string]: number };
declare const batch: Batch;
const [beta = 1, steps, scale] = [given.beta, given.steps, given.scale];
const schedule = NoiseSchedule.preset('sd15', { inferenceSteps: steps, predictionType: undefined });
new PreferenceLoss({ objective: 'sdpo', beta, schedule, clipRange: given.clip, threads: undefined }).evaluate(
  { ...batch, rowWeights: undefined, chosen: { ...batch.chosen, reference: undefined } }, { gradientScale: scale, into: undefined });
export const calibration: Partial<CalibrateOptions> = { kappa: given.kappa, signal: undefined };
export const training: Partial<PreferenceTrainerOptions> = { pairsPerStep: given.pairs, ema: undefined, onWarning: undefined };
`;

/** The README example as a user's strict project sees it, declarations of the package included; and every way to import it that docs/install.md names. */
function checkTypes(folder: string): void {
  const strict = {
    strict: true,
    noEmit: true,
    skipLibCheck: false,
    target: 'es2022',
    typeRoots: [join(root, 'node_modules', '@types')],
  };
  const projects = {
    node: {
      ...strict,
      module: 'nodenext',
      lib: ['es2022'],
      types: ['node'],
      exactOptionalPropertyTypes: true,
      isolatedModules: true,
    },
    bundler: { ...strict, module: 'esnext', moduleResolution: 'bundler', lib: ['esnext', 'dom'], types: [] },
    commonjs: { ...strict, module: 'nodenext', types: ['node'] },
    plain: { ...strict, module: 'nodenext', types: [] }, // not everyone has @types/node
    node10: { ...strict, module: 'commonjs', moduleResolution: 'node10', types: ['node'], skipLibCheck: true },
    maybe: {
      ...strict,
      module: 'nodenext',
      types: ['node'],
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
    },
  };
  const entries = ['sdpo', 'sdpo/trainer', 'sdpo/tools'].map((path, i) => `export * as entry${i} from '${path}';\n`);
  writeFileSync(join(folder, 'entries.ts'), entries.join(''));
  writeFileSync(join(folder, 'entries.cts'), entries.join(''));
  writeFileSync(join(folder, 'plain.ts'), entries.slice(0, 2).join('')); // sdpo/tools names the types of commander, which needs Node's
  writeFileSync(join(folder, 'maybe.ts'), MAYBE);
  const own: Readonly<Record<string, string>> = {
    commonjs: 'entries.cts',
    plain: 'plain.ts',
    node10: 'entries.ts',
    maybe: 'maybe.ts',
  };
  for (const [name, compilerOptions] of Object.entries(projects)) {
    const file = join(folder, `tsconfig.${name}.json`);
    writeFileSync(file, JSON.stringify({ compilerOptions, files: [own[name] ?? 'example.ts'] }));
    run(join(root, 'node_modules', '.bin', 'tsc'), ['-p', file], folder);
  }
}

function source(tarball: string): void {
  const folder = installExample(tarball);
  rmSync(join(folder, 'node_modules', manifest.name, 'prebuilds'), { recursive: true, force: true });
  const { status, stderr } = spawnSync('node', ['example.js'], { cwd: folder, env: environment, encoding: 'utf8' });
  const command = /^ +(cd .+ cmake-js compile)$/m.exec(stderr)?.[1];
  if (status === 0 || command === undefined)
    fail(`Expected a load error that names the command to build from source, received:\n${stderr}`);
  // The command is run as it was printed. CUDA has its own build; here the one without it is shown to work.
  run('sh', ['-c', command], folder, { SDPO_CUDA: 'OFF' });
  runExample(folder);
  rmSync(folder, { recursive: true });
  console.log('The build from source that the load error names works.');
}

const [step, ...rest] = process.argv.slice(2);
/** The tarball among those given that is of this package. */
const tarballOf = (name: PackageName, given: readonly string[]) =>
  resolve(
    given.find((file) => basename(file) === `${name}-${manifest.version}.tgz`) ??
      fail(`Usage: npm run package -- ${step} <tarball…>, with ${name}-${manifest.version}.tgz among them`),
  );
const smokeAll = (given: readonly string[]) => {
  smoke(tarballOf('sdpo', given));
  smokeStudy(tarballOf('sdpo', given), tarballOf('sdpo-study', given));
};
switch (step) {
  case undefined: {
    rmSync(join(root, 'prebuilds'), { recursive: true, force: true });
    prebuild();
    const files = pack(false);
    smokeAll(files);
    source(tarballOf('sdpo', files));
    break;
  }
  case 'prebuild':
    prebuild();
    break;
  case 'pack':
    pack(rest.includes('--all'));
    break;
  case 'publish':
    fail(
      'The folder of a checkout is not what is published: npm run package -- pack --all makes the tarballs; publish those (CONTRIBUTING.md, Release)',
    );
    break;
  case 'smoke':
    smokeAll(rest);
    break;
  case 'source':
    source(tarballOf('sdpo', rest));
    break;
  default:
    fail(`Expected one of prebuild, pack, smoke, source, received ${step}`);
}
