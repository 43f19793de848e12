#!/usr/bin/env node
/** The command line of studies and reports. What a command does is loaded when it runs. */

import { runProgram } from 'sdpo/tools';
import { addReport } from './report.js';
import { addStudy } from './study.js';

await runProgram(
  'sdpo-study',
  'Studies of preference losses over many runs, and reports about studies and trainings',
  new URL('../../package.json', import.meta.url),
  [addStudy, addReport],
);
