/** Loads the framework behind an adapter, which is the user's own dependency, and says how to get it where it is missing. */

import { SdpoError } from '../native/errors.js';

/**
 * Imports a peer dependency. The adapters must share the user's one copy of the framework, and not everybody has each of them: hence
 * peers, imported at run time.
 * @throws SdpoError ERR_SDPO_NO_PEER where the package is not installed; whatever the package throws while it is loaded.
 */
export async function importPeer<T>(name: string, adapter: string, load: () => Promise<T>): Promise<T> {
  try {
    return await load();
  } catch (cause) {
    if (!isMissing(cause, name)) throw cause;
    throw new SdpoError(
      'ERR_SDPO_NO_PEER',
      `Expected ${name} to be installed, since ${adapter} is an adapter to it, received none: npm install ${name}`,
      { cause },
    );
  }
}

/** Whether it is this package that was not found, rather than one of its own dependencies. */
function isMissing(error: unknown, name: string): boolean {
  const { code, message } = error as { code?: unknown; message?: unknown };
  const notFound = code === 'ERR_MODULE_NOT_FOUND' || code === 'MODULE_NOT_FOUND';
  return notFound && String(message).includes(`'${name}'`);
}
