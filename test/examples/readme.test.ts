/** The snippets of README.md, docs/ and study/docs/ run as they are printed, in processes of their own, over dist/ and under the package's own name. */

import { spawnSync } from 'node:child_process';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import t, { type Test } from 'tap';

const root = fileURLToPath(new URL('../..', import.meta.url));
const require = createRequire(import.meta.url);

interface Snippet {
  name: string;
  language: string;
  text: string;
}

/** Every fenced block in TypeScript or JavaScript, named by file and line. */
function snippetsOf(file: string): Snippet[] {
  const found: Snippet[] = [];
  const lines = readFileSync(join(root, file), 'utf8').split('\n');
  for (let i = 0; i < lines.length; i++) {
    const language = /^```(ts|js)\b/.exec(lines[i])?.[1];
    if (language === undefined) continue;
    const end = lines.indexOf('```', i);
    found.push({ name: `${file}:${i + 1}`, language, text: `${lines.slice(i + 1, end).join('\n')}\n` });
    i = end;
  }
  return found;
}

/** A snippet that imports the package is complete; others go on from the text around them. */
const isComplete = ({ text }: Snippet) => /from 'sdpo(\/|')/.test(text);

const node = (...args: string[]) => {
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_)/.test(name)));
  return spawnSync(process.execPath, args, { cwd: root, encoding: 'utf8', env: clean });
};

const readme = snippetsOf('README.md');
const pages = ['docs', 'study/docs'].flatMap((folder) =>
  readdirSync(join(root, folder))
    .filter((file) => file.endsWith('.md'))
    .flatMap((file) => snippetsOf(`${folder}/${file}`)),
);
/** adapters.md is left to the tests of the adapters, which run its examples with the frameworks. */
const docs = pages.filter(({ name }) => !name.startsWith('docs/adapters.md'));

t.test('there is something to run', async (t) => {
  t.ok(existsSync(join(root, 'dist/index.js')), 'dist/ is built (npm run build:ts)');
  t.ok(readme.length > 0, 'README.md has snippets');
  t.ok(readme.every(isComplete), 'a reader can run every one of them by itself');
  t.ok(docs.some(isComplete), 'docs/ has some that run');
});

for (const snippet of [...readme, ...docs.filter(isComplete)]) {
  t.test(snippet.name, async (t) => {
    // Inside the package's own folder, 'sdpo' is the package itself.
    const file = join(t.testdir({ [`snippet.${snippet.language}`]: snippet.text }), `snippet.${snippet.language}`);
    const { status, signal, stderr } = node('--import', 'tsx', file);
    t.same({ status, signal }, { status: 0, signal: null }, 'it runs', { stderr });
    t.notMatch(stderr, /error/i, 'without complaint');
  });
}

t.test('TypeScript takes them, with every check that docs/install.md says may be on', async (t) => {
  const snippets = [...readme, ...pages.filter(isComplete)].filter(({ language }) => language === 'ts');
  const files = snippets.map(({ name, text }) => [`${name.replace(/\W+/g, '-')}.ts`, text] as const);
  const tsconfig = {
    compilerOptions: {
      strict: true,
      exactOptionalPropertyTypes: true,
      noUncheckedIndexedAccess: true,
      module: 'nodenext',
      target: 'es2022',
      types: ['node'],
      skipLibCheck: true, // for the frameworks of the adapters
      noEmit: true,
    },
    files: files.map(([name]) => name),
  };
  const folder = t.testdir({ ...Object.fromEntries(files), 'tsconfig.json': JSON.stringify(tsconfig) });
  const { status, stdout } = node(require.resolve('typescript/bin/tsc'), '-p', folder);
  t.equal(status, 0, stdout);
});

/** Commands of README.md, without their comments. */
const commands = [...readFileSync(join(root, 'README.md'), 'utf8').matchAll(/^```sh\n(.*?)^```$/gms)].flatMap(
  ([, text]) => {
    return text.split('\n').flatMap((line) => line.replace(/\s+#.*/, '').trim() || []);
  },
);

/** How each of them is run here: installing has been done by whoever runs this. */
const RUNS: Readonly<Record<string, (t: Test) => Promise<void>>> = {
  'npm ci && npm start': async (t) => {
    const out = t.testdir({});
    const { status, stdout, stderr } = npm('start', '--', '--quiet', '--out', out);
    t.equal(status, 0, stderr);
    const numbers = (file: string) =>
      [...readFileSync(file, 'utf8').matchAll(/>([^<]+)<\/text>/g)].map(([, text]) => text);
    const committed = join(root, 'examples/digits/samples.svg');
    t.same(
      numbers(join(out, 'samples.svg')),
      numbers(committed),
      'README.md shows what this gives: else copy it there',
    );
    t.match(stdout, pathToFileURL(join(out, 'samples.svg')).href, 'it says which file to open');
  },
  'npm ci && npm test': async (t) => {
    const { status, stdout, stderr } = npm('test', '--', '--reporter=tap', 'test/native/printable.test.ts');
    t.equal(status, 0, stderr);
    t.match(stdout, /^ok 1 - test\/native\/printable.test.ts/m, 'a file of tests ran');
    const ci = readFileSync(join(root, '.ci/run'), 'utf8');
    t.match(ci, /^step .* npm ci\b/m, 'CI runs the first part');
    t.match(ci, /^ *npm test\b/m, 'and the second, whole');
  },
};

function npm(...args: string[]) {
  // Neither what tap tells its own processes nor what npm tells the scripts that it runs.
  const own = Object.entries(process.env).filter(([name]) => !/^(NODE_OPTIONS|SDPO_|TAP|_TAPJS|npm_)/.test(name));
  return spawnSync('npm', args, { cwd: root, encoding: 'utf8', env: Object.fromEntries(own) });
}

t.test('every command of README.md', async (t) => {
  t.same(commands, Object.keys(RUNS), 'is run below');
  for (const [command, run] of Object.entries(RUNS)) await t.test(command, run);
});

t.test('the snippets of README.md have the types that the package declares', async (t) => {
  const typed = readme.filter(({ language }) => language === 'ts');
  const folder = t.testdir(Object.fromEntries(typed.map(({ text }, i) => [`snippet${i}.ts`, text])));
  const files = typed.map((_, i) => join(folder, `snippet${i}.ts`));
  const options = [
    '--noEmit',
    '--strict',
    '--skipLibCheck',
    '--module',
    'nodenext',
    '--target',
    'es2022',
    '--types',
    'node',
  ];
  const libraries = ['--lib', 'es2022,es2024.arraybuffer,esnext.disposable,dom'];
  const { status, stdout } = node(require.resolve('typescript/lib/tsc.js'), ...options, ...libraries, ...files);
  t.same({ status, stdout }, { status: 0, stdout: '' });
});
