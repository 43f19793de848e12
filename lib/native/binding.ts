/** Finds and loads the native addon, and explains what to do when it cannot. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { arch, platform } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Binding } from '../../binding.js';
import { SdpoError } from './errors.js';

/** node-gyp-build picks one file (build/Release, build/Debug, then prebuilds/) and loads it. */
interface Loader {
  (root: string): unknown;
  resolve(root: string): string;
}

/** The package's own folder: this file lies two levels below it, in `lib/` as in `dist/`. */
const here = import.meta.url as string | undefined; // a bundle of CommonJS has none
const root = here === undefined ? '' : fileURLToPath(new URL('../..', here)).replace(/[\\/]$/, '');

function load(): { file: string; binding: Binding } {
  let file: string | undefined;
  try {
    const require = createRequire(here as string);
    const loader = require('node-gyp-build') as Loader;
    file = loader.resolve(root);
    return { file, binding: require(file) as Binding };
  } catch (cause) {
    throw new SdpoError('ERR_SDPO_NO_BINARY', explain(file, cause), { cause });
  }
}

/**
 * What was looked for, where, what the loader said, and the command that mends it. It runs where an installation is not what it should be, so it takes
 * nothing for granted that lies beside this file.
 */
function explain(file: string | undefined, cause: unknown): string {
  const reason = cause instanceof Error ? cause.message.trim() : String(cause);
  const manifest = published();
  if (manifest === undefined) return explainBundle(reason);
  return [
    `Expected a native addon of sdpo for ${system()}, and could not load one.`,
    '',
    'Looked in:',
    ...searched().map((folder) => `  - ${folder}`),
    '',
    file === undefined ? 'The loader said:' : `The loader chose ${file} and said:`,
    ...reason.split('\n').map((line) => `    ${line.trim()}`),
    '',
    'To mend it:',
    ...remedies(file, reason, manifest).map((line) => `  - ${line}`),
  ].join('\n');
}

/** This code lies somewhere else than in its package: a bundler has put it into a file of its own, and left the addon behind. */
function explainBundle(reason: string): string {
  return [
    `Expected the package sdpo around ${here === undefined ? 'its code' : fileURLToPath(here)}, with its native addon, and found neither: a bundler has taken its code out of the package.`,
    '',
    'The loader said:',
    ...reason.split('\n').map((line) => `    ${line.trim()}`),
    '',
    'To mend it, keep sdpo external and install it where the bundle runs:',
    '  - esbuild: --external:sdpo --external:sdpo/*; Rollup and Vite: external: [/^sdpo(\\/|$)/]',
    '  - webpack: externals: { sdpo: "module sdpo" }; Next.js: serverExternalPackages: ["sdpo"]',
  ].join('\n');
}

function system(): string {
  return `${platform()}-${arch()} (${libc()}), Node-API 8 or newer; this is Node ${process.versions.node} with Node-API ${process.versions.napi}`;
}

/** The C library of this system and its version. */
export function libc(): string {
  if (platform() !== 'linux') return `libc of ${platform()}`;
  const glibc = glibcVersion();
  return glibc === undefined ? 'musl' : `glibc ${glibc}`;
}

function glibcVersion(): string | undefined {
  const report = process.report?.getReport() as { header?: { glibcVersionRuntime?: string } } | undefined;
  return report?.header?.glibcVersionRuntime;
}

/** The folders node-gyp-build looks in, in its order, each with what lies there. */
function searched(): string[] {
  const base = process.env.SDPO_PREBUILD || root;
  const tuple = `${platform()}-${arch()}`;
  const skipped = process.env.PREBUILDS_ONLY ? ' (not used: PREBUILDS_ONLY is set)' : '';
  const lines = ['Release', 'Debug'].map((kind) => {
    const folder = join(base, 'build', kind);
    return `${folder}: ${contents(folder)}${skipped}`;
  });
  for (const prebuilds of [join(base, 'prebuilds'), join(dirname(process.execPath), 'prebuilds')]) {
    const folder = join(prebuilds, tuple);
    const others = list(prebuilds).filter((name) => name !== tuple);
    lines.push(`${folder}: ${contents(folder)}${others.length > 0 ? `; beside it ${others.join(', ')}` : ''}`);
  }
  return lines;
}

function contents(folder: string): string {
  if (!existsSync(folder)) return 'no such folder';
  const binaries = list(folder).filter((name) => name.endsWith('.node'));
  return binaries.length > 0 ? binaries.join(', ') : 'no .node file';
}

function list(folder: string): string[] {
  try {
    return readdirSync(folder).sort();
  } catch {
    return [];
  }
}

function remedies(file: string | undefined, reason: string, { prebuilds, glibc }: Published): string[] {
  if (platform() !== 'linux') return ['sdpo is made for Linux: on Windows use WSL 2, elsewhere a Linux container.'];
  const lines: string[] = [];
  const needed = /GLIBC_([\d.]+)' not found/.exec(reason)?.[1];
  if (Number(process.versions.napi) < 8) lines.push('Use Node 20.19 or newer: this one lacks Node-API 8.');
  if (needed !== undefined) {
    lines.push(
      `The file needs glibc ${needed}, and this system has ${glibcVersion()}: build it here, or use a newer system.`,
    );
  } else if (file === undefined) {
    const offer = `Prebuilt binaries are published for ${prebuilds.join(' and ')} with glibc ${glibc} or newer.`;
    const fits = prebuilds.includes(`${platform()}-${arch()}`) && glibcVersion() !== undefined;
    lines.push(fits && !isCheckout() ? `${offer} Yours should be among them: reinstall the package.` : offer);
  }
  lines.push(
    `Build it from source (needs CMake 3.21 or newer, a C++17 compiler, and make or Ninja):\n        ${buildCommand()}`,
  );
  return lines;
}

/** The command is the same for every package manager: it installs nothing outside npm's own cache. */
function buildCommand(): string {
  const folder = /^[\w@%+=:,./-]+$/.test(root) ? root : `'${root.replaceAll("'", "'\\''")}'`;
  return isCheckout()
    ? `cd ${folder} && npm install && npm run build:native`
    : `cd ${folder} && npx --yes --package cmake-js@8 --package node-addon-api@8 -- cmake-js compile`;
}

/** The published package has no TypeScript sources. */
function isCheckout(): boolean {
  return existsSync(join(root, 'lib', 'native', 'binding.ts'));
}

interface Published {
  readonly prebuilds: readonly string[];
  readonly glibc: string;
}

/** What the manifest of the package says of its binaries; undefined where the folder is not that of the package. */
function published(): Published | undefined {
  try {
    const { name, sdpo } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8'));
    return name === 'sdpo' ? { prebuilds: sdpo.prebuilds, glibc: sdpo.glibc.prebuilt } : undefined;
  } catch {
    return undefined;
  }
}

const loaded = load();

/** The native addon of this process, and the file it came from. */
export const binding: Binding = loaded.binding;
export const binaryFile: string = loaded.file;
