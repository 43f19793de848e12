/** `sdpo-study study <config>`: the arguments of the command. */

import { type Command, collect, EXIT_CODE_HELP, finish, positiveInteger } from 'sdpo/tools';

export interface StudyCommandOptions {
  readonly out?: string;
  readonly jobs?: number;
  readonly only: readonly string[];
  readonly quiet?: boolean;
  readonly json?: boolean;
}

export function addStudy(program: Command): void {
  program
    .command('study')
    .description('run the study that a file declares; what is done already is not done again')
    .argument('<config>', 'JSON file that declares the study (schema/study.schema.json)')
    .option('--out <folder>', 'folder of the results (default: results/<name of the file>, beside the file)')
    .option('--jobs <n>', 'processes at a time (default: the cores)', positiveInteger)
    .option(
      '--only <condition>',
      'runs whose name has this part, or field=value,… with group, source, beta, arm or seed (repeatable: all must hold)',
      collect,
      [],
    )
    .option('--quiet', 'print errors only')
    .option('--json', 'print one JSON object per line: each run that ends, then a summary')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((file: string, options: StudyCommandOptions) =>
      finish(async () => (await import('./study-run.js')).study(file, options), options),
    );
}
