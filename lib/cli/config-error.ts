/** Mistakes in a config or on the command line: messages without a stack, and an exit code of their own. */

import { type ErrorCode, SdpoError } from '../native/errors.js';

export function configError(message: string, cause?: unknown): SdpoError {
  return new SdpoError('ERR_SDPO_CONFIG', message, { cause });
}

/** Errors of this package's own checks of options. */
const OPTION_ERRORS: readonly ErrorCode[] = [
  'ERR_SDPO_INVALID_ARG_TYPE',
  'ERR_SDPO_INVALID_ARG_VALUE',
  'ERR_SDPO_INVALID_OPTION',
  'ERR_SDPO_UNKNOWN_OPTION',
  'ERR_SDPO_UNSUPPORTED_CONFIG',
];

/** The same error as one of the config, where it is about options that come from there. */
export function asConfigError(error: unknown): unknown {
  const { code, message } = error as SdpoError;
  return OPTION_ERRORS.includes(code) ? configError(message, error) : error;
}

/**
 * Runs what takes a part of a config as its `options`, and says where in the config the mistake is.
 *
 * @param where path of the part, or a function that gives the path of an argument such as `options.policy`
 */
export function withPath<T>(where: string | ((argument: string) => string), make: () => T): T {
  const rename = typeof where === 'function' ? where : (argument: string) => argument.replace(/^\w+/, where);
  try {
    return make();
  } catch (error) {
    const { code, message } = error as SdpoError;
    if (!OPTION_ERRORS.includes(code)) throw error;
    const renamed = message.replace(
      /^Expected ((?:options|config|name)[\w.[\]]*)/,
      (_, name) => `Expected ${rename(name)}`,
    );
    // What else it speaks of are options too.
    throw configError(
      renamed.replace(/\boptions\.\w+/g, (name) => rename(name)),
      error,
    );
  }
}
