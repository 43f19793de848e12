#!/usr/bin/env node
/** The command line: a list of commands. What a command does is loaded when it runs, so that help is quick and a missing addon can be explained. */

import { Command, CommanderError } from 'commander';
import { addCalibrate } from './calibrate.js';
import { addDoctor } from './doctor.js';
import { EXIT, EXIT_CODE_HELP } from './exit.js';
import { addReport } from './report.js';
import { addSelftest } from './selftest.js';
import { watchOutput } from './streams.js';
import { addStudy } from './study.js';
import { addTrain } from './train.js';

watchOutput();

const program = new Command('sdpo')
  .description(
    'Preference losses for diffusion models: training, calibration, studies, and a check of the installation',
  )
  .addHelpText('after', EXIT_CODE_HELP)
  .showHelpAfterError('(--help says more)')
  .exitOverride();

for (const add of [addTrain, addCalibrate, addStudy, addReport, addDoctor, addSelftest]) add(program);

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
