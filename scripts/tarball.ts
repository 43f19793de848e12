/** What the published tarball has to contain, and nothing else: shared by the packaging script and its test. */
import { existsSync, readdirSync } from 'node:fs';
import { join, relative, sep } from 'node:path';
import { entryPoints } from './entry-points.js';

const singles = ['package.json', 'README.md', 'LICENSE', 'CHANGELOG.md', 'CMakeLists.txt', 'binding.d.ts'];

/** Whatever is in the tarball has to match one of these. */
const allowed = [
  /^dist\/.+\.(js|js\.map|d\.ts)$/,
  /^native\/.+\.(cc|h|inl|cu|cuh)$/,
  /^schema\/[a-z-]+\.schema\.json$/,
  /^docs\/[a-z-]+\.md$/,
  /^prebuilds\/[a-z0-9]+-[a-z0-9]+\/sdpo\.(glibc|musl)\.node$/,
];

/**
 * Names the differences between the tarball's files and what belongs into it; empty when it is right.
 * `platforms` are those that must have a prebuilt binary, as "linux-x64".
 */
export function tarballProblems(root: string, files: readonly string[], platforms: readonly string[]): string[] {
  const present = new Set(files);
  const compiled = tree(root, 'lib').flatMap((file) => {
    const base = file.replace(/^lib\//, 'dist/').replace(/\.ts$/, '');
    return [`${base}.js`, `${base}.d.ts`, `${base}.js.map`];
  });
  compiled.push(...entryPoints.flatMap(({ name }) => [`dist/${name}.js`, `dist/${name}.d.ts`]));
  const required = [
    ...singles,
    ...compiled,
    ...tree(root, 'native'),
    ...tree(root, 'schema'),
    ...tree(root, 'docs'),
    ...platforms.map((platform) => `prebuilds/${platform}/sdpo.glibc.node`),
  ];
  const problems = required.filter((file) => !present.has(file)).map((file) => `missing: ${file}`);
  for (const file of files) {
    if (!singles.includes(file) && !allowed.some((pattern) => pattern.test(file))) problems.push(`unexpected: ${file}`);
    if (file.startsWith('dist/') && !compiled.includes(file)) problems.push(`without a source in lib/: ${file}`);
  }
  return problems;
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
  return block[1];
}
