/** `npm run bench`: measures this package, its ceilings and its peers on the CPU; `-- --help` lists the options. */

import { parseArgs } from 'node:util';
import { compare } from './compare.js';
import { readResults } from './results.js';

const usage = `npm run bench -- [options]
  --json <file>                 write the results there
  --quick                       fewer cases, rounds and peers: under a minute, for a first impression only
  --only <text>                 only cases whose name contains the text (repeatable), e.g. --only 'peers CogVideoX'
  --threads <n>                 threads of the multi-threaded providers; default: all cores
  --compare <a.json> <b.json>   no measurement: exit code 1 where b is slower than a beyond the noise
  --help`;

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    json: { type: 'string' },
    quick: { type: 'boolean', default: false },
    only: { type: 'string', multiple: true },
    threads: { type: 'string' },
    compare: { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});

if (values.help) {
  console.log(usage);
} else if (values.compare) {
  if (positionals.length !== 2) throw new Error(`--compare needs two files\n\n${usage}`);
  const { lines, slower } = compare(readResults(positionals[0]), readResults(positionals[1]));
  console.log(lines.join('\n'));
  process.exitCode = slower > 0 ? 1 : 0;
} else {
  const threads = values.threads === undefined ? undefined : Number(values.threads);
  if (threads !== undefined && !(Number.isInteger(threads) && threads > 0)) {
    throw new Error(`--threads must be a positive integer\n\n${usage}`);
  }
  // Loaded here, since comparing files needs neither the package nor its peers.
  const { measure } = await import('./suite.js');
  await measure({ threads, quick: values.quick, only: values.only, json: values.json });
}
