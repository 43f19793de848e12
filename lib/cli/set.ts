/** `--set path=value`: changes of a config that are given on the command line. */

import { printable } from '../native/printable.js';
import { configError } from './config-error.js';

type Container = Record<string, unknown>;

/**
 * Applies `loss.beta=30` to a config: a path of names and of indexes of existing arrays, and a value in JSON; what is no JSON is a string.
 * Objects on the way are made where there are none.
 *
 * @param isOptional whether a field may be absent: `null` takes it out
 * @throws SdpoError ERR_SDPO_CONFIG for what is no such assignment.
 */
export function applySetting(
  config: Container,
  assignment: string,
  isOptional: (names: readonly string[]) => boolean,
): void {
  const at = assignment.indexOf('=');
  const path = at < 0 ? assignment : assignment.slice(0, at);
  const names = path.split('.');
  if (at < 0 || names.includes('')) {
    throw configError(
      `Expected --set to be followed by <path>=<value>, such as loss.beta=30, received ${JSON.stringify(assignment)}`,
    );
  }
  const value = parse(assignment.slice(at + 1));
  const remove = value === null && isOptional(names);
  const last = names.pop()!;
  let container = config;
  for (const [depth, name] of names.entries()) {
    if (!Object.hasOwn(container, name)) {
      if (remove) return;
      define(container, name, {}, path);
    }
    const next = container[name];
    if (typeof next !== 'object' || next === null) {
      const here = names.slice(0, depth + 1).join('.');
      throw configError(
        `Expected ${printable(here)} of --set ${printable(path)} to be an object, received ${JSON.stringify(next)}`,
      );
    }
    container = next as Container;
  }
  if (remove) delete container[last];
  else define(container, last, value, path);
}

/** Makes a field of its own even where the name is `__proto__`, so that the check of the names sees it. */
function define(container: Container, name: string, value: unknown, path: string): void {
  if (Array.isArray(container) && !Object.hasOwn(container, name)) {
    const expected = `an index below ${container.length}`;
    throw configError(
      `Expected the part ${JSON.stringify(name)} of --set ${printable(path)} to be ${expected}, received none`,
    );
  }
  Object.defineProperty(container, name, { value, enumerable: true, configurable: true, writable: true });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
