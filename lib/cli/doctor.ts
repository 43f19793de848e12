/** `sdpo doctor`: what this installation is and can do. */

import type { Command } from 'commander';
import { EXIT, type ExitCode, finish } from './exit.js';

interface DoctorOptions {
  json?: boolean;
}

export function addDoctor(program: Command): void {
  program
    .command('doctor')
    .description('print what was found: versions, binary, processor, CUDA and devices')
    .option('--json', 'print JSON')
    .action((options: DoctorOptions) => finish(() => doctor(options), options));
}

async function doctor({ json }: DoctorOptions): Promise<ExitCode> {
  const { describeDiagnosis, diagnose } = await import('../selftest/diagnose.js');
  const found = diagnose();
  console.log(json ? JSON.stringify(found, null, 2) : describeDiagnosis(found));
  return EXIT.ok;
}
