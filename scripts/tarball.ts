/** What the published tarballs have to contain, and nothing else: shared by the packaging script and its tests. */
import { existsSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { entryPoints } from './entry-points.js';

const always = ['package.json', 'README.md', 'LICENSE'];

export type PackageName = 'sdpo' | 'sdpo-study';

interface Package {
  /** Within the repository. */
  readonly folder: string;
  /** Files at the top of the package. */
  readonly singles: readonly string[];
  /** Entry points at the top of dist/. */
  readonly flat: typeof entryPoints;
}

/** The packages of this repository; each may depend on those before it. */
export const packages: Readonly<Record<PackageName, Package>> = {
  sdpo: {
    folder: '.',
    singles: [...always, 'CHANGELOG.md', 'CMakeLists.txt', 'THIRD_PARTY_NOTICES.md', 'binding.d.ts'],
    flat: entryPoints,
  },
  'sdpo-study': { folder: 'study', singles: always, flat: [] },
};

/**
 * Whatever is in a tarball has to match one of these. There are no source maps: they would either carry the sources once more or name files that
 * are not there, and dist/ is the source without its types, comments included.
 */
const allowed = [
  /^dist\/.+\.(js|d\.ts)$/,
  /^native\/.+\.(cc|h|inl|cu|cuh)$/,
  /^schema\/[a-z-]+\.schema\.json$/,
  /^docs\/[a-z-]+\.md$/,
  /^prebuilds\/[a-z0-9]+-[a-z0-9]+\/sdpo\.(glibc|musl)\.node$/,
];

/**
 * Names the differences between a tarball's files and what belongs into it; empty when it is right.
 *
 * @param root of this repository
 * @param platforms those that must have a prebuilt binary, as "linux-x64"
 */
export function tarballProblems(
  root: string,
  name: PackageName,
  files: readonly string[],
  platforms: readonly string[] = [],
): string[] {
  const { folder, singles, flat } = packages[name];
  const own = join(root, folder);
  const present = new Set(files);
  const compiled = tree(own, 'lib').flatMap((file) => {
    const base = file.replace(/^lib\//, 'dist/').replace(/\.ts$/, '');
    return [`${base}.js`, `${base}.d.ts`];
  });
  compiled.push(...flat.flatMap(({ name }) => [`dist/${name}.js`, `dist/${name}.d.ts`]));
  const required = [
    ...singles,
    ...compiled,
    ...['native', 'schema', 'docs'].flatMap((part) => tree(own, part)),
    ...platforms.map((platform) => `prebuilds/${platform}/sdpo.glibc.node`),
  ];
  const problems = required.filter((file) => !present.has(file)).map((file) => `missing: ${file}`);
  for (const file of files) {
    if (!singles.includes(file) && !allowed.some((pattern) => pattern.test(file))) problems.push(`unexpected: ${file}`);
    if (file.startsWith('dist/') && !compiled.includes(file)) problems.push(`without a source in lib/: ${file}`);
  }
  return problems;
}

/**
 * The manifest as it is published: without what only a checkout can use. `prepare` would build where nobody has the sources' tools, and no other script of
 * ours is there to be run by who installs the package.
 */
export function publishedManifest(manifest: Readonly<Record<string, unknown>>): Record<string, unknown> {
  const { scripts, devDependencies, workspaces, tap, ...published } = manifest;
  return published;
}

/** All files below `folder`, relative to `root`, with forward slashes. */
function tree(root: string, folder: string): string[] {
  const start = join(root, folder);
  if (!existsSync(start)) return [];
  return readdirSync(start, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => relative(root, join(entry.parentPath, entry.name)).split(sep).join('/'))
    .sort();
}

/** The first TypeScript example of a Markdown text. */
export function firstExample(markdown: string): string {
  const block = /^```(?:ts|typescript|js|javascript)\n([\s\S]*?)^```$/m.exec(markdown);
  if (block === null) throw new Error('Expected the README to have a ```ts example');
  return block[1]!;
}
