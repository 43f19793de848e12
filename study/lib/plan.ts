/** Reads the declaration of a study and lays out its runs. */

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Ajv, type ErrorObject } from 'ajv';
import { PreferenceLoss, type PreferenceLossOptions, SdpoRangeError } from 'sdpo';
import { describe, failValue, insteadOfFile, jsonProblem, printable, readTextFile, SOUND_JSON } from 'sdpo/tools';
import type { StudyCell, StudyConfig } from './types.js';

const CODE = 'ERR_SDPO_INVALID_ARG_VALUE';

type Settings = StudyCell['settings'];

/** The published JSON Schema of a study file. */
export const STUDY_SCHEMA = new URL('../schema/study.schema.json', import.meta.url);

/**
 * Reads and checks the declaration of a study. Throws where the file is not JSON, does not fit the schema, names an arm that is not declared, or
 * gives an arm options that its objective does not take; the message names the file and the path in it.
 */
export function readStudy(file: string): StudyConfig {
  const text = readTextFile(file, CODE);
  let config: StudyConfig;
  try {
    config = JSON.parse(text);
  } catch (error) {
    return refuse(file, [`Expected the file to be JSON: ${printable((error as Error).message)}`]);
  }
  const problem = jsonProblem(text);
  if (problem !== undefined) refuse(file, [`Expected the file to be ${SOUND_JSON}, received ${problem}`]);
  const problems = problemsOfStudy(config);
  if (problems.length > 0) refuse(file, problems);
  return config;
}

/** What is wrong with a declaration; its defaults are filled in. */
export function problemsOfStudy(config: StudyConfig): string[] {
  const problems = schemaProblems(config);
  return problems.length > 0 ? problems : [...referenceProblems(config), ...lossProblems(config)];
}

/** URL of the module that a study's experiment is in. Throws where there is no file: importing a FIFO waits for ever. */
export function experimentUrl(file: string, config: StudyConfig): string {
  const path = resolve(dirname(file), config.experiment);
  const instead = insteadOfFile(path);
  if (instead !== undefined)
    refuse(file, [`Expected experiment to be a module, received ${instead}: ${printable(path)}`]);
  return pathToFileURL(path).href;
}

function refuse(file: string, problems: readonly string[]): never {
  throw new SdpoRangeError(CODE, problems.map((problem) => `${printable(file)}: ${problem}`).join('\n'));
}

function schemaProblems(config: unknown): string[] {
  const ajv = new Ajv({ allErrors: true, verbose: true, useDefaults: true, allowUnionTypes: true, strict: true });
  const check = ajv.compile(JSON.parse(readFileSync(STUDY_SCHEMA, 'utf8')));
  if (check(config)) return [];
  // A name that fails is reported by what it fails and once more as a property; the first says all.
  return check.errors!.filter(({ keyword }) => keyword !== 'propertyNames').map(schemaProblem);
}

function schemaProblem({ instancePath, keyword, params, message, data, propertyName }: ErrorObject): string {
  const path = readablePath(instancePath);
  if (keyword === 'additionalProperties' || keyword === 'required') {
    const name = params.additionalProperty ?? params.missingProperty;
    const expected = keyword === 'required' ? 'to have the field' : 'not to have the field';
    return `Expected ${path} ${expected} ${JSON.stringify(name)}`;
  }
  if (propertyName !== undefined) {
    return `Expected the name ${JSON.stringify(propertyName)} in ${path} to fit ${params.pattern}`;
  }
  if (keyword === 'false schema') return `Expected ${path} to be absent, since the cell or the experiment decides it`;
  const expected = message!.replace(/^must be /, '').replace(/^must /, 'something that must ');
  return `Expected ${path} to be ${expected}, received ${describe(data)}`;
}

/** '/groups/0/betas/1' as groups[0].betas[1]. */
function readablePath(pointer: string): string {
  if (pointer === '') return 'the study';
  return pointer
    .slice(1)
    .split('/')
    .map((part) => part.replaceAll('~1', '/').replaceAll('~0', '~'))
    .map((part, i) => (/^\d+$/.test(part) ? `[${part}]` : i === 0 ? part : `.${part}`))
    .join('');
}

/** Names that stand for nothing. */
function referenceProblems({ arms, groups, questions }: StudyConfig): string[] {
  const problems: string[] = [];
  const known = new Set(groups.flatMap(({ sources }) => sources));
  const check = (path: string, kind: string, name: string, names: Iterable<string>) => {
    const all = [...names];
    if (!all.includes(name)) {
      problems.push(`Expected ${path} to be ${kind} (${all.join(', ')}), received ${describe(name)}`);
    }
  };
  groups.forEach((group, g) => {
    group.arms.forEach((arm, i) => {
      check(`groups[${g}].arms[${i}]`, 'a declared arm', arm, Object.keys(arms));
    });
    if (groups.findIndex(({ name }) => name === group.name) !== g) {
      problems.push(`Expected groups[${g}].name to be unique, received ${describe(group.name)}`);
    }
  });
  questions.forEach((question, q) => {
    check(`questions[${q}].arm`, 'a declared arm', question.arm, Object.keys(arms));
    check(`questions[${q}].baseline`, 'a declared arm', question.baseline, Object.keys(arms));
    question.sources.forEach((source, i) => {
      check(`questions[${q}].sources[${i}]`, 'a source of a group', source, known);
    });
  });
  return problems;
}

/** What the loss itself would refuse in a worker, said before anything runs. */
function lossProblems({ arms }: StudyConfig): string[] {
  return Object.entries(arms).flatMap(([name, { loss }]) => {
    try {
      new PreferenceLoss({ ...loss, beta: 1 } as PreferenceLossOptions);
      return [];
    } catch (error) {
      return [(error as Error).message.replaceAll('options', `arms.${name}.loss`)];
    }
  });
}

/** A run with the groups that ask for it. */
export interface PlannedCell {
  readonly cell: StudyCell;
  readonly groups: readonly string[];
}

/**
 * Every run of a study once, all of the smallest seed first and in each seed the groups in their order, so that a study that was stopped is a
 * smaller one that is complete.
 */
export function planCells(config: StudyConfig): StudyCell[] {
  return plan(config).map(({ cell }) => cell);
}

/** As {@link planCells}, with the groups of every run. */
export function plan(config: StudyConfig): PlannedCell[] {
  const cells = new Map<string, { cell: StudyCell; groups: string[] }>();
  const seeds = [...new Set(config.groups.flatMap((group) => group.seeds))].sort((a, b) => a - b);
  for (const seed of seeds) {
    for (const group of config.groups) {
      if (!group.seeds.includes(seed)) continue;
      for (const source of group.sources) {
        for (const beta of group.betas) {
          for (const arm of group.arms) {
            const cell = makeCell(config, { arm, source, beta, seed }, group.settings ?? {});
            const known = cells.get(cell.id);
            if (known === undefined) cells.set(cell.id, { cell, groups: [group.name] });
            else known.groups.push(group.name);
          }
        }
      }
    }
  }
  return [...cells.values()];
}

/** A run by its names; `extra` are settings on top of those of the arm. */
export function makeCell(
  config: Pick<StudyConfig, 'arms'>,
  { arm, source, beta, seed }: Pick<StudyCell, 'arm' | 'source' | 'beta' | 'seed'>,
  extra: Settings,
): StudyCell {
  const { loss, settings } = config.arms[arm]!;
  const cell = { arm, source, beta, seed, loss, settings: { ...settings, ...extra } };
  const parts = Object.entries(extraSettings(config, cell)).map(([name, value]) => `${name}-${fileSafe(value)}`);
  return { id: [source, `beta${beta}`, arm, `seed${seed}`, ...parts].join('_'), ...cell };
}

/** The settings of a run that are not those of its arm, in the order of their names. */
export function extraSettings(
  { arms }: Pick<StudyConfig, 'arms'>,
  { arm, settings }: Pick<StudyCell, 'arm' | 'settings'>,
): Settings {
  const own = arms[arm]!.settings ?? {};
  const extra = Object.entries(settings).filter(([name, value]) => own[name] !== value);
  return Object.fromEntries(extra.sort(([a], [b]) => (a < b ? -1 : 1)));
}

/** A value as a part of a file name; what had to be changed is told apart by a hash. */
function fileSafe(value: string | number | boolean): string {
  const text = String(value);
  const safe = text.replaceAll(/[^A-Za-z0-9.+-]/g, '-').slice(0, 40);
  return safe === text ? text : `${safe}-${sha256(text).slice(0, 8)}`;
}

/** Of JSON values alike but for the order of their fields, the same. */
export function fingerprint(value: unknown): string {
  const sorted = (_: string, part: unknown) =>
    typeof part === 'object' && part !== null && !Array.isArray(part)
      ? Object.fromEntries(Object.entries(part).sort(([a], [b]) => (a < b ? -1 : 1)))
      : part;
  return sha256(JSON.stringify(value, sorted)).slice(0, 16);
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}

const FIELDS = ['group', 'source', 'beta', 'arm', 'seed'] as const;

/**
 * The runs that satisfy every condition of `only`: a part of its id, or `field=value,value…` with a field among group, source, beta, arm and seed.
 * Throws where nothing is left.
 */
export function selectCells(planned: readonly PlannedCell[], only: readonly string[]): StudyCell[] {
  const conditions = only.map((text) => {
    const [, name, list] = /^(\w+)=(.*)$/.exec(text) ?? [];
    if (name === undefined || list === undefined) return ({ cell }: PlannedCell) => cell.id.includes(text);
    const field = FIELDS.find((known) => known === name);
    if (field === undefined) failValue('only', `a part of an id or one of ${FIELDS.join(', ')} with =`, text);
    const wanted = list.split(',');
    const valuesOf = ({ cell, groups }: PlannedCell) => (field === 'group' ? groups : [String(cell[field])]);
    return (candidate: PlannedCell) => valuesOf(candidate).some((value) => wanted.includes(value));
  });
  const cells = planned.filter((candidate) => conditions.every((holds) => holds(candidate))).map(({ cell }) => cell);
  if (cells.length === 0) failValue('only', 'conditions that some run of the study satisfies', only.join(' '));
  return cells;
}
