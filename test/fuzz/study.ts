/** Declarations and results of studies, damaged. */

import { readFileSync } from 'node:fs';
import { readStudy } from '../../lib/study/plan.js';
import { readResults } from '../../lib/study/results-file.js';
import { demand, type Target } from './target.js';

const EXAMPLES = new URL('../../examples/digits/', import.meta.url);
