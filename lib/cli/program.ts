/** Runs a command line: help, mistakes in the arguments, and an exit code whatever happens. */

import { readFileSync } from 'node:fs';
import { Command, CommanderError } from 'commander';
import { EXIT, EXIT_CODE_HELP } from './exit.js';
import { watchOutput } from './streams.js';

/**
 * Parses the arguments of this process and does what they say; gives no promise that rejects for what a user did wrong.
 *
 * @param manifest the package.json of the package whose commands these are, for --version
 * @param commands each adds one command
 */
export async function runProgram(
  name: string,
  description: string,
  manifest: URL,
  commands: readonly ((program: Command) => void)[],
): Promise<void> {
  watchOutput();
  const program = new Command(name)
    .description(description)
    .version(JSON.parse(readFileSync(manifest, 'utf8')).version)
    .addHelpText('after', EXIT_CODE_HELP)
    .showHelpAfterError('(--help says more)')
    .exitOverride();
  for (const add of commands) add(program);

  // A promise that nothing will settle ends the process without a word.
  let waiting = true;
  process.on('beforeExit', () => {
    if (!waiting) return;
    console.error('Expected the command to end, received a promise that never settles (of a module in the config?)');
    process.exitCode = EXIT.failed;
  });

  try {
    await program.parseAsync();
  } catch (error) {
    if (!(error instanceof CommanderError)) throw error;
    // What is wrong has been printed; help that was asked for is no mistake.
    process.exitCode = error.exitCode === 0 ? EXIT.ok : EXIT.usage;
  } finally {
    waiting = false;
  }
}
