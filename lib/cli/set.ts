/** `--set key=value`: changes of a config that are given on the command line. */

import { configError } from './config-error.js';

type Container = Record<string, unknown> | unknown[];

/**
 * Applies `loss.beta=30` to a config: a path of names and of indexes of existing arrays, and a value in JSON; what is no JSON is a string.
 * Objects on the way are made where there are none.
 * @throws SdpoError ERR_SDPO_CONFIG for what is no such assignment.
 */
export function applySetting(config: Record<string, unknown>, assignment: string): void {
  const at = assignment.indexOf('=');
  const path = at < 0 ? assignment : assignment.slice(0, at);
  const names = path.split('.');
  if (at < 0 || names.some((name) => name === '')) {
    throw configError(`Expected --set to be <path>=<value>, such as loss.beta=30, received ${JSON.stringify(assignment)}`);
  }
  let container: Container = config;
  for (const [depth, name] of names.entries()) {
    const here = `--set ${path}: ${names.slice(0, depth).join('.') || 'the config'}`;
    if (Array.isArray(container) && !/^\d+$/.test(name)) {
      throw configError(`Expected an index behind ${here}, which is an array, received ${JSON.stringify(name)}`);
    }
    if (depth === names.length - 1) define(container, name, parse(assignment.slice(at + 1)));
    else {
      const next: unknown = Object.hasOwn(container, name) ? (container as Record<string, unknown>)[name] : undefined;
      if (next === undefined) define(container, name, {});
      else if (typeof next !== 'object' || next === null) {
        throw configError(`Expected ${here ? `${path}` : ''} to go through objects, received ${JSON.stringify(next)} at ${names.slice(0, depth + 1).join('.')}`);
      }
      container = (container as Record<string, Container>)[name];
    }
  }
}

/** A field of its own even where the name is `__proto__`, so that the check of the names sees it. */
function define(container: Container, name: string, value: unknown): void {
  Object.defineProperty(container, name, { value, enumerable: true, configurable: true, writable: true });
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}
