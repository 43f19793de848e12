/** Reads JSON files that a study has left, and checks that they have the shape of what was written. */

import { Ajv, type Schema } from 'ajv';
import { configError, jsonProblem, printable, readTextFile, SOUND_JSON } from 'sdpo/tools';

const ajv = new Ajv({ strict: false });

/** Parts of the schemas of such files; more fields than these may be there. */
export const number = { type: 'number' };
export const text = { type: 'string' };
export const numberOrNull = { type: ['number', 'null'] };
export const listOf = (items: object) => ({ type: 'array', items });
export const recordOf = (additionalProperties: object) => ({ type: 'object', additionalProperties });
export const objectOf = (properties: Readonly<Record<string, object>>, required = Object.keys(properties)) => ({
  ...{ type: 'object', properties, required },
});

/**
 * The content of a file.
 *
 * @param what the file should hold, for the message
 * @throws SdpoError `ERR_SDPO_CONFIG` with the path: no file, no JSON, or not as the schema says, with the place
 */
export function readJsonFile<T>(path: string, what: string, schema: Schema): T {
  const content = readTextFile(path, 'ERR_SDPO_CONFIG');
  const file = printable(path);
  let value: unknown;
  try {
    value = JSON.parse(content);
  } catch (error) {
    throw configError(`Expected ${file} to be JSON, received: ${printable((error as Error).message)}`, error);
  }
  const problem = jsonProblem(content);
  if (problem !== undefined) throw configError(`Expected ${file} to be ${SOUND_JSON}, received ${problem}`);
  const check = ajv.compile<T>(schema);
  if (check(value)) return value;
  const { instancePath, message } = check.errors![0]!;
  throw configError(`Expected ${file} to hold ${what}: ${printable(instancePath) || 'it'} ${message}`);
}
