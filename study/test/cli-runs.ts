/** Starts `sdpo-study` as a user does, in processes of their own. */

import { fileURLToPath } from 'node:url';
import { type Ended, type Started, start as startProgram } from '../../test/helpers/cli-runs.js';

const program = ['--import', 'tsx', fileURLToPath(new URL('../lib/cli/cli.ts', import.meta.url))];

export function start(args: readonly string[]): Started {
  return startProgram(args, { program });
}

export function sdpoStudy(args: readonly string[]): Promise<Ended> {
  return start(args).ended;
}
