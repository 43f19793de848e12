/** The second study of the digits (study/docs/readings.md): the rule that makes its deciding stage of its screening, and how that stage decides. */

import { PreferenceLoss, type PreferenceLossOptions } from 'sdpo';
import { type Arm, acrossSources, type StudyConfig, type StudyResults } from 'sdpo-study';

/** An arm at a β. */
export interface Setting {
  readonly arm: string;
  readonly beta: number;
}

/** Arms of this family are Diffusion-DPO with a KL anchor of some weight, 0 included. */
export const BASELINE = 'kl';
/** What the first study recommended; it takes part in the deciding stage whatever the screening says. */
const RECOMMENDED = 'recommended';
/** Settings of the baseline in the deciding stage: about as many as there are candidates. */
const BASELINE_SETTINGS = 4;
/** Weight of the anchor of `first+kl` where the best baseline has none. */
const LEAST_ANCHOR = 0.1;
/** The β that candidates are taken from; others are asked about, not chosen. */
const BETAS = [3, 10, 30];

const TASKS = {
  digits: {
    title: 'Which reading helps: the deciding stage, first task',
    options: { bases: 5, firstBase: 3, otherModelSteps: 1500 },
    sources: ['N1', 'on-policy', 'A', 'N2', 'C', 'S', 'other-model', 'on-policy-refreshed'],
    seeds: [30, 31, 32, 33, 34],
  },
  odd: {
    title: 'Which reading helps: the deciding stage, second task',
    options: { bases: 3, firstBase: 3, otherModelSteps: 1500, preference: 'odd', width: 192 },
    sources: ['N1', 'on-policy', 'C', 'other-model'],
    seeds: [40, 41, 42],
  },
} as const;
export type Task = keyof typeof TASKS;
export const TASK_NAMES = Object.keys(TASKS) as readonly Task[];

/** What the deciding stage runs, by the rule. */
export interface Choice {
  /** Best first. */
  readonly baseline: readonly Setting[];
  /** The best single change, and the best one of another family that can be combined with it. */
  readonly first: Setting;
  readonly second: Setting;
  readonly recommended: Setting;
}

/**
 * The rule. Settings are ranked by the mean of the deciding metric over the screening's sources after the last step, on the choosing samples. The baseline
 * gets its four best settings. Candidates are the best single change and the best of another family whose options can be merged with it.
 */
export function choose(screening: StudyResults): Choice {
  const { config } = screening;
  const ranked = acrossSources(screening).settings;
  const familyOf = ({ arm }: Setting) => config.arms[arm]!.family ?? arm;
  const setting = ({ arm, beta }: Setting): Setting => ({ arm, beta });
  const singles = ranked.filter(
    (each) => ![BASELINE, RECOMMENDED].includes(familyOf(each)) && BETAS.includes(each.beta),
  );
  const first = singles[0]!;
  const second = singles.find(
    (each) =>
      familyOf(each) !== familyOf(first) && combined(config.arms[first.arm]!, config.arms[each.arm]!) !== undefined,
  )!;
  return {
    baseline: ranked
      .filter((each) => familyOf(each) === BASELINE)
      .slice(0, BASELINE_SETTINGS)
      .map(setting),
    first: setting(first),
    second: setting(second),
    recommended: setting(ranked.find((each) => familyOf(each) === RECOMMENDED)!),
  };
}

/**
 * An arm with the options and the settings of both, of which `diffusion-dpo` is the objective that gives way; undefined where they contradict each other
 * or the loss refuses them together.
 */
export function combined(a: Arm, b: Arm): Arm | undefined {
  const plain = 'diffusion-dpo';
  const objective = a.loss.objective === plain ? b.loss.objective : a.loss.objective;
  if (![plain, objective].includes(b.loss.objective)) return undefined;
  const loss = merged({ ...a.loss, objective }, { ...b.loss, objective });
  const settings = merged(a.settings ?? {}, b.settings ?? {});
  if (loss === undefined || settings === undefined) return undefined;
  try {
    new PreferenceLoss({ ...loss, beta: 1 } as unknown as PreferenceLossOptions);
  } catch {
    return undefined;
  }
  const arm = { title: `${a.title} + ${b.title}`, loss: loss as Arm['loss'] };
  return Object.keys(settings).length > 0 ? { ...arm, settings: settings as NonNullable<Arm['settings']> } : arm;
}

type Fields = Readonly<Record<string, unknown>>;

function merged(a: object, b: object): Fields | undefined {
  const [left, right] = [a as Fields, b as Fields];
  const same = (name: string) => JSON.stringify(left[name]) === JSON.stringify(right[name]);
  return Object.keys(left).every((name) => !(name in right) || same(name)) ? { ...left, ...right } : undefined;
}

/** The declaration of the deciding stage of a task. */
export function decidingStudy(screening: StudyResults, task: Task): StudyConfig {
  const { arms, experiment, options, decidingMetric } = screening.config;
  const { baseline, first, second, recommended } = choose(screening);
  const best = arms[baseline[0]!.arm]!.loss.klWeight ?? 0;
  const anchor: Arm = {
    title: `${best || LEAST_ANCHOR} KL`,
    loss: { objective: 'diffusion-dpo', klWeight: best || LEAST_ANCHOR },
  };
  const candidates: readonly (readonly [name: string, arm: Arm | undefined, beta: number])[] = [
    ['first', arms[first.arm], first.beta],
    ['second', arms[second.arm], second.beta],
    ['both', combined(arms[first.arm]!, arms[second.arm]!), first.beta],
    ['first+kl', combined(arms[first.arm]!, anchor), first.beta],
    ['recommended', arms[recommended.arm], recommended.beta],
  ];
  const cells = [
    ...candidates.flatMap(([name, arm, beta]) =>
      arm === undefined ? [] : [{ name, arm: { ...arm, family: name }, beta }],
    ),
    ...baseline.map(({ arm, beta }) => ({ name: arm, arm: arms[arm]!, beta })),
  ];
  const { title, options: own, sources, seeds } = TASKS[task];
  return {
    title,
    experiment,
    decidingMetric,
    options: { ...options, ...own },
    arms: Object.fromEntries(cells.map(({ name, arm }) => [name, arm])),
    groups: [...new Set(cells.map(({ beta }) => beta))].map((beta) => ({
      name: `beta ${beta}`,
      sources: [...sources],
      betas: [beta],
      arms: cells.filter((cell) => cell.beta === beta).map(({ name }) => name),
      seeds: [...seeds],
    })),
    questions: [],
  };
}
