/** Tables of calls that must fail: the class, the stable code, and a message that names the argument, what was expected and what came. */

import t from 'tap';
import { SdpoRangeError, SdpoTypeError } from '../../lib/index.js';

export type Code = 'ARG_TYPE' | 'ARG_VALUE' | 'LENGTH' | 'OPTION' | 'UNKNOWN' | 'DISPOSED' | 'DEVICE';
/** What is called, the code, and what the message must contain: the argument first, then what was expected and what was received. */
export type Case = readonly [call: () => unknown, code: Code, ...parts: string[]];

const codes: Record<Code, string> = {
  ARG_TYPE: 'ERR_SDPO_INVALID_ARG_TYPE',
  ARG_VALUE: 'ERR_SDPO_INVALID_ARG_VALUE',
  LENGTH: 'ERR_SDPO_INVALID_LENGTH',
  OPTION: 'ERR_SDPO_INVALID_OPTION',
  UNKNOWN: 'ERR_SDPO_UNKNOWN_OPTION',
  DISPOSED: 'ERR_SDPO_DISPOSED',
  DEVICE: 'ERR_SDPO_DEVICE',
};
const isType = (code: Code) => code === 'ARG_TYPE' || code === 'UNKNOWN';

export function check(name: string, cases: readonly Case[]): void {
  t.test(name, async (t) => {
    for (const [call, code, ...parts] of cases) {
      const error = await failureOf(call);
      const label = `${code}: ${parts.join(' … ')}`;
      if (error === undefined) {
        t.fail(`${label}: nothing was thrown`);
        continue;
      }
      t.equal((error as { code?: string }).code, codes[code], label);
      if (code !== 'DISPOSED' && code !== 'DEVICE') {
        t.ok(error instanceof (isType(code) ? SdpoTypeError : SdpoRangeError), `${error.name} of the package`);
        t.ok(error instanceof (isType(code) ? TypeError : RangeError), 'and of the language');
      }
      let from = error.message.startsWith('Expected ') ? 0 : -1;
      for (const part of parts) from = from < 0 ? from : error.message.indexOf(part, from);
      t.ok(from >= 0 && error.message.includes('received '), error.message);
    }
  });
}

export async function failureOf(call: () => unknown): Promise<Error | undefined> {
  try {
    await call();
  } catch (error) {
    return error as Error;
  }
  return undefined;
}

/** A value of any type where the signature says otherwise. */
export const wrong = (value: unknown) => value as never;
