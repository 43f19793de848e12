/** `sdpo train <config>`: the arguments of the command. */

import type { Command } from 'commander';
import { collect, positiveInteger } from './arguments.js';
import type { TrainOptions } from './command-options.js';
import { EXIT_CODE_HELP, finish } from './exit.js';

export function addTrain(program: Command): void {
  program
    .command('train')
    .description('fine-tune a policy on preference pairs')
    .argument('<config>', 'JSON file (docs/cli.md, schema/train.schema.json)')
    .option('--set <path=value>', 'change the config: loss.beta=30 (repeatable)', collect, [])
    .option('--out <folder>', "folder of the run, in place of the config's out")
    .option('--resume', 'go on from the latest checkpoint of the run in the folder; begin where there is none')
    .option(
      '--from-checkpoint <folder>',
      'begin a new run with a checkpoint of another one (…/checkpoint-700), with other settings on purpose',
    )
    .option(
      '--log-every <steps>',
      'steps between lines of output (default: a twentieth of all; 1 with --json)',
      positiveInteger,
    )
    .option('--quiet', 'print errors only')
    .option('--json', 'print one JSON object per line: the log entries, then a summary')
    .option('--profile', 'print where the time went')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((file: string, options: TrainOptions) =>
      finish(async () => (await import('./train-run.js')).train(file, options), options),
    );
}
