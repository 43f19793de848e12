/** `sdpo-study report <run…>`: one page about what a study or trainings have left. */

import { existsSync } from 'node:fs';
import { asConfigError, type Command, configError, EXIT, EXIT_CODE_HELP, finish } from 'sdpo/tools';

interface ReportOptions {
  readonly out: string;
}

export function addReport(program: Command): void {
  program
    .command('report')
    .description('write one HTML page about the results of a study, or about training runs')
    .argument('<run...>', 'one study: its folder or file of results; or folders of training runs')
    .option('--out <file>', 'the page', 'report.html')
    .addHelpText('after', EXIT_CODE_HELP)
    .action((paths: string[], options: ReportOptions) =>
      finish(async () => {
        for (const path of paths) {
          if (!existsSync(path)) throw configError(`Expected ${path} to be a run, received no such file or folder`);
        }
        const { writeReport } = await import('../report/write.js');
        try {
          await writeReport(paths, options);
        } catch (error) {
          throw asConfigError(error);
        }
        console.log(options.out);
        return EXIT.ok;
      }, {}),
    );
}
