/** `sdpo study` and `sdpo report`: commands of a package of their own, so that who wants the loss does not install what draws plots. */

import type { Command } from 'commander';
import { configError } from './config-error.js';
import { finish } from './exit.js';

export function addStudy(program: Command): void {
  addElsewhere(program, 'study', 'run a study of many trainings');
}

export function addReport(program: Command): void {
  addElsewhere(program, 'report', 'write a page about trainings or a study');
}

function addElsewhere(program: Command, name: string, purpose: string): void {
  program
    .command(name)
    .description(`${purpose} (npm install sdpo-study)`)
    .argument('[arguments...]')
    .allowUnknownOption()
    .action((given: readonly string[]) =>
      finish(
        async () => {
          const command = ['npx', 'sdpo-study', name, ...given].map(quoted).join(' ');
          throw configError(
            `Expected a command of sdpo, received ${name}, which is one of the package sdpo-study: npm install sdpo-study, then ${command}`,
          );
        },
        { json: given.includes('--json') },
      ),
    );
}

/** As a shell takes it for one word. */
function quoted(text: string): string {
  return /^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
