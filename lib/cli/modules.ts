/** Loads the modules that a config names and calls their functions. */

import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { insteadOfFile } from '../files/open.js';
import { printable } from '../native/printable.js';
import type { ModuleConfig } from './config.js';
import { configError } from './config-error.js';
import { suggest } from './schema.js';

/**
 * Calls the function that a part of the config names.
 *
 * @param path of that part in the config, for messages
 */
export async function callModule<T>(path: string, config: ModuleConfig, base: string, context: object): Promise<T> {
  const name = config.export ?? 'default';
  const loaded = await importModule(`${path}.module`, resolve(base, config.module));
  const made = loaded[name];
  if (typeof made !== 'function') {
    const known = Object.keys(loaded);
    const received = made === undefined ? `a module that exports ${known.join(', ') || 'nothing'}` : typeof made;
    throw configError(
      `Expected ${path}.module to export a function ${name}, received ${received}${suggest(name, known)} (${printable(config.module)})`,
    );
  }
  return (await made(config.options ?? {}, context)) as T;
}

/** Codes of what is no module at all: JSON without its attribute, a folder. */
const UNUSABLE = /^ERR_(IMPORT_A|UNSUPPORTED_DIR_IMPORT)/;

async function importModule(path: string, file: string): Promise<Record<string, unknown>> {
  // Importing a FIFO waits for ever, and a device never ends.
  const instead = insteadOfFile(file);
  if (instead !== undefined)
    throw configError(`Expected ${path} to be a module, received ${instead}: ${printable(file)}`);
  try {
    return await import(pathToFileURL(file).href);
  } catch (error) {
    const { code, message } = error as NodeJS.ErrnoException;
    if (error instanceof SyntaxError || UNUSABLE.test(String(code))) {
      // Node keeps the place of a syntax error to itself until nobody catches it.
      const hint = error instanceof SyntaxError ? ` (node ${printable(file)} shows where)` : '';
      throw configError(
        `Expected ${path} to be a module that Node can import, received ${printable(file)}: ${message}${hint}`,
        error,
      );
    }
    if (code !== 'ERR_UNKNOWN_FILE_EXTENSION') throw error;
    throw configError(
      `Expected ${path} to be a module that Node ${process.versions.node} can import, received ${printable(file)}; for TypeScript: npm install tsx, and NODE_OPTIONS="--import tsx"`,
      error,
    );
  }
}
