/** Reads JSON as Python writes it: with a byte order mark, NaN and Infinity; and says what a file is that is none. */

import { jsonProblem, SOUND_JSON } from '../files/json-problem.js';
import { readTextFile } from '../files/text.js';
import { SdpoError } from '../native/errors.js';
import { printable } from '../native/printable.js';

const CODE = 'ERR_SDPO_CONFIG';

/** A `scheduler_config.json` as JSON.parse gives it. */
export type DiffusersConfig = Readonly<Record<string, unknown>>;

/** Stands for NaN, which no JSON number is parsed to. */
const NAN = '\u0000NaN';

/**
 * Parses a scheduler config as Python's json module writes it, which JSON.parse refuses where it has NaN, Infinity or a byte order mark.
 *
 * @param name what an error calls the text
 * @throws SdpoError ERR_SDPO_CONFIG, which says of a git LFS pointer, of comments and of an HTML page what they are; a name that stands twice and endless
 *   nesting are refused too
 */
export function parseSchedulerConfig(text: string, name = 'the scheduler config'): DiffusersConfig {
  const value = parsePythonJson(text, name);
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw failure(`Expected ${name} to be a JSON object, received ${JSON.stringify(value).slice(0, 60)}`);
  }
  return value as DiffusersConfig;
}

/** The scheduler config in a file. */
export function readConfigFile(path: string): DiffusersConfig {
  return parseSchedulerConfig(readTextFile(path, CODE), printable(path));
}

/** JSON with NaN, Infinity and -Infinity where a number may stand, and a byte order mark before it. */
function parsePythonJson(text: string, name: string): unknown {
  const json = text
    .replace(/^\uFEFF/, '')
    // Strings are matched first, so that what they say is left alone. A number too large is parsed to Infinity.
    .replace(/"(?:[^"\\]|\\.)*"|-?\bInfinity\b|\bNaN\b/gs, (token) =>
      token.startsWith('"') ? token : token === 'NaN' ? JSON.stringify(NAN) : token.replace('Infinity', '1e999'),
    );
  try {
    JSON.parse(json);
  } catch (error) {
    const received = kindOf(text) ?? printable((error as Error).message);
    throw failure(`Expected ${name} to be readable JSON, received: ${received}`, error);
  }
  const problem = jsonProblem(json);
  if (problem !== undefined) throw failure(`Expected ${name} to be ${SOUND_JSON}, received ${problem}`);
  // Only now: a reviver is called by recursion, which endless nesting would break.
  return JSON.parse(json, (_, value) => (value === NAN ? Number.NaN : value));
}

/** What a text is that is no JSON, where that can be told. */
function kindOf(text: string): string | undefined {
  const start = text.replace(/^\uFEFF/, '').trimStart();
  if (start === '') return 'an empty file';
  if (start.startsWith('version https://git-lfs.github.com/spec/')) {
    return 'a git LFS pointer: the file itself has not been fetched (git lfs pull)';
  }
  if (/^<(!doctype|html|\?xml)/i.test(start))
    return 'a page of markup, as a server sends in place of a file it does not give out';
  // Outside strings.
  const bare = start.replace(/"(?:[^"\\]|\\.)*"/gs, '""');
  if (/\/\/|\/\*|^\s*#/m.test(bare)) return 'JSON with comments, which JSON does not have: remove them';
  return undefined;
}

function failure(message: string, cause?: unknown): SdpoError {
  return new SdpoError(CODE, message, { cause });
}
