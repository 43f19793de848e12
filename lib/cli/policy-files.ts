/** Fingerprints of the files that the options of a policy name: weights, for the most part, which decide what its reference gives. */

import { createHash } from 'node:crypto';
import { resolve } from 'node:path';
import { insteadOfFile } from '../files/open.js';
import { hashFile } from '../trainer/files.js';
import type { ModuleConfig } from './config.js';

/**
 * A fingerprint for each string in the options that is the path of a file, relative to `base` as everything in a config, by its place in the options.
 * As of data: size, and 64 pieces of 4 KiB. A folder is not looked into.
 */
export async function policyFiles({ options = {} }: ModuleConfig, base: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  const walk = async (place: string, value: unknown): Promise<void> => {
    if (typeof value === 'object' && value !== null) {
      for (const [name, entry] of Object.entries(value)) await walk(`${place}.${name}`, entry);
    } else if (typeof value === 'string' && value !== '') {
      const path = resolve(base, value);
      if (insteadOfFile(path) !== undefined) return;
      const hash = createHash('sha256');
      await hashFile(hash, path, 'sample', 'ERR_SDPO_CONFIG');
      found[place] = `sha256-sample:${hash.digest('hex')}`;
    }
  };
  await walk('options', options);
  return found;
}
