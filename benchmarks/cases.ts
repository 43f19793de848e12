/** What is measured: the shapes, rows, dtypes and objectives of the CPU benchmarks, and the providers that take part in each case. */

export type BenchDType = 'float32' | 'bfloat16' | 'float16';
type BenchObjective = 'diffusion-dpo' | 'dpo-cm' | 'sdpo';

/** Latents of published models, without the row axis. */
const shapes = {
  'SD1.5': [4, 64, 64],
  SDXL: [4, 128, 128],
  CogVideoX: [13, 16, 60, 90],
  'Wan2.1': [16, 21, 60, 104],
} as const;
type ShapeName = keyof typeof shapes;

/** The part of the report that a case belongs to. */
export type Group = 'default' | 'shapes' | 'objectives' | 'peers' | 'calls' | 'size' | 'rows';

/** Which providers take part: `ceilings` are the probes, `ours` the calls of this package that reuse a result, `api` all its ways to be called, `peers` the others. */
type Participants = 'ceilings' | 'ours' | 'api' | 'peers';

export interface Case {
  group: Group;
  /** The shape's name, or `D` for the cases that only have a size. */
  shape: ShapeName | 'D';
  rows: number;
  /** D, elements of a row. */
  size: number;
  dtype: BenchDType;
  objective: BenchObjective;
  /** false: loss and statistics only. */
  gradients: boolean;
  participants: readonly Participants[];
}

/** A name for a case that is the same in every run. */
export function caseId(c: Omit<Case, 'participants'>): string {
  return [c.group, c.shape, `${c.rows}x${c.size}`, c.dtype, c.objective, c.gradients ? 'gradient' : 'loss'].join(' ');
}

const dtypes: readonly BenchDType[] = ['float32', 'bfloat16', 'float16'];

function sizeOf(shape: ShapeName): number {
  return shapes[shape].reduce((product: number, extent) => product * extent, 1);
}

/** Elements of a batch up to which the loss alone and the peers are measured: beyond, seconds a call, and nothing new. */
const longestLoss = 1e7;
const longestOfPeers = 5e6;

const base = { dtype: 'float32', objective: 'sdpo', gradients: true } as const;

function shapeCase(group: Group, shape: ShapeName, rows: number, more: Partial<Case>): Case {
  return { ...base, group, shape, rows, size: sizeOf(shape), participants: ['ceilings', 'ours'], ...more };
}

function defaultCase(shape: ShapeName, rows: number, dtype: BenchDType): Case {
  return shapeCase('default', shape, rows, { dtype, participants: ['ceilings', 'api'] });
}

/** The cases of a run, in the order they are measured. */
export function casesOf(quick: boolean): Case[] {
  const names = (quick ? ['SD1.5', 'CogVideoX'] : Object.keys(shapes)) as ShapeName[];
  const rowCounts = quick ? [1] : [1, 4, 16];
  const cases: Case[] = [
    // What people write first, a call without `into`, beside one with it: the first lines of every run.
    ...(quick ? [] : (['float32', 'bfloat16'] as const)).map((dtype) => defaultCase('CogVideoX', 8, dtype)),
    ...(['CogVideoX', 'SDXL', 'SD1.5'] as const).map((shape) => defaultCase(shape, 1, 'float32')),
    { ...base, group: 'calls', shape: 'D', rows: 1, size: 16, participants: ['api', 'peers'] },
    { ...base, group: 'calls', shape: 'D', rows: 1, size: 16, gradients: false, participants: ['api'] },
  ];
  for (const shape of names) {
    for (const rows of rowCounts) {
      for (const dtype of dtypes) {
        // Hundreds of MiB: one more pass over them tells nothing that 4 rows do not.
        const whole = quick || rows * sizeOf(shape) > longestLoss;
        for (const gradients of whole ? [true] : [true, false]) {
          cases.push(shapeCase('shapes', shape, rows, { dtype, gradients }));
        }
      }
    }
  }
  for (const objective of ['diffusion-dpo', 'dpo-cm', 'sdpo'] as const) {
    const participants: Participants[] = quick ? ['ceilings', 'ours'] : ['ceilings', 'api'];
    cases.push(shapeCase('objectives', quick ? 'SD1.5' : 'CogVideoX', 1, { objective, participants }));
  }
  for (const shape of names) {
    for (const rows of rowCounts) {
      if (rows * sizeOf(shape) > longestOfPeers) continue;
      cases.push(shapeCase('peers', shape, rows, { participants: ['ceilings', 'api', 'peers'] }));
    }
    if (shape !== 'CogVideoX' || quick) continue;
    cases.push(shapeCase('peers', shape, 1, { gradients: false, participants: ['ceilings', 'api', 'peers'] }));
    cases.push(shapeCase('peers', shape, 1, { dtype: 'bfloat16', participants: ['ceilings', 'api', 'peers'] }));
  }
  const curve = (group: Group, rows: number, size: number): Case => {
    return { ...base, group, shape: 'D', rows, size, participants: ['ceilings', 'ours'] };
  };
  for (let power = 10; power <= (quick ? 20 : 26); power += quick ? 5 : 1) cases.push(curve('size', 1, 2 ** power));
  for (let power = 0; power <= (quick ? 8 : 12); power += quick ? 4 : 1) cases.push(curve('rows', 2 ** power, 2 ** 14));
  return cases;
}

/** Bytes of one element. */
export function elementBytes(dtype: BenchDType): number {
  return dtype === 'float32' ? 4 : 2;
}

/** Bytes that have to move at least: three tensors per branch are read, and one is written where gradients are wanted. */
export function compulsoryBytes(c: Pick<Case, 'rows' | 'size' | 'dtype' | 'gradients'>): number {
  return 2 * (c.gradients ? 4 : 3) * c.rows * c.size * elementBytes(c.dtype);
}
