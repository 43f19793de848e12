/** How a command ends: the exit codes, and what is printed of an error. */

import { printable } from '../native/printable.js';
import { isSystemError } from '../trainer/file-error.js';

/** Exit codes of `sdpo`; part of the public contract (docs/cli.md). */
export const EXIT = {
  ok: 0,
  /** Something failed: a check, a file, a module of the user. */
  failed: 1,
  /** The command line or a config asks for something that does not exist or does not fit. */
  usage: 2,
  /** The training met numbers that are not finite. */
  diverged: 3,
  /** SIGINT, SIGTERM, SIGHUP, or output that nobody reads; as a shell reports a process that SIGINT ended. */
  interrupted: 130,
} as const;

export type ExitCode = (typeof EXIT)[keyof typeof EXIT];

export const EXIT_CODE_HELP = `
Exit codes: ${EXIT.ok} done, ${EXIT.failed} failed, ${EXIT.usage} wrong usage or config, ${EXIT.diverged} the training diverged, ${EXIT.interrupted} interrupted`;

const CODES: { readonly [code: string]: ExitCode } = {
  ERR_SDPO_CONFIG: EXIT.usage,
  ERR_SDPO_LOCKED: EXIT.usage,
  ERR_SDPO_DIVERGED: EXIT.diverged,
  ERR_SDPO_ABORTED: EXIT.interrupted,
};

/** Sets the exit code; the process ends by itself, so that everything that was written arrives. */
export async function finish(command: () => Promise<ExitCode>, { json = false }: { json?: boolean }): Promise<void> {
  try {
    process.exitCode = await command();
  } catch (error) {
    printError(error, json);
    process.exitCode = CODES[String((error as { code?: unknown } | null)?.code)] ?? EXIT.failed;
  }
}

/**
 * One line of JSON on standard output, or text on standard error; with the stack where the error is neither one that this package words nor one of
 * the operating system, which has the path and the call in its message.
 */
export function printError(error: unknown, json: boolean): void {
  const {
    code,
    message = String(error),
    stack,
  } = (error ?? {}) as { code?: unknown; message?: string; stack?: string };
  const worded = String(code).startsWith('ERR_SDPO_') || isSystemError(error);
  if (json) console.log(JSON.stringify({ error: { code, message } }));
  else console.error((worded ? message : (stack ?? message)).split('\n').map(printable).join('\n')); // nothing in it acts on the terminal
}
