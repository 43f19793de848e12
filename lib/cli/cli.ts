#!/usr/bin/env node
/** The command line: a list of commands. What a command does is loaded when it runs, so that help is quick and a missing addon can be explained. */

import { addCalibrate } from './calibrate.js';
import { addDoctor } from './doctor.js';
import { runProgram } from './program.js';
import { addSelftest } from './selftest.js';
import { addReport, addStudy } from './study.js';
import { addTrain } from './train.js';

await runProgram(
  'sdpo',
  'Preference losses for diffusion models: training, calibration, and a check of the installation',
  new URL('../../package.json', import.meta.url),
  [addTrain, addCalibrate, addStudy, addReport, addDoctor, addSelftest],
);
