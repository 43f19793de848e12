/**
 * The numbers of docs/recipes.md that follow from shapes and schedules: memory of a pair, and what the weight mask allows at each noise level.
 *
 *   npx tsx scripts/recipes.ts            writes them into the page
 *   npx tsx scripts/recipes.ts --check    exit code 1 where the page says something else
 */

import { readFileSync, writeFileSync } from 'node:fs';
import { NoiseSchedule, type PresetName, type PresetOptions } from '../lib/index.js';

interface Recipe {
  model: string;
  preset: PresetName;
  options?: PresetOptions;
  /** Pixels and frames of a sample, as text. */
  sample: string;
  /** Of a latent, without the row. */
  shape: readonly number[];
  /** Parameters of the denoiser, as its publishers round them. */
  parameters: number;
}

const RECIPES: readonly Recipe[] = [
  { model: 'SD1.5', preset: 'sd15', sample: '512 × 512', shape: [4, 64, 64], parameters: 0.86e9 },
  { model: 'SDXL', preset: 'sdxl', sample: '1024 × 1024', shape: [4, 128, 128], parameters: 2.6e9 },
  {
    model: 'Qwen-Image',
    preset: 'qwen-image',
    options: { width: 1328, height: 1328 },
    sample: '1328 × 1328',
    shape: [16, 166, 166],
    parameters: 20e9,
  },
  { model: 'CogVideoX-2B', preset: 'cogvideox-2b', sample: '49 × 480 × 720', shape: [13, 16, 60, 90], parameters: 2e9 },
  { model: 'CogVideoX-5B', preset: 'cogvideox-5b', sample: '49 × 480 × 720', shape: [13, 16, 60, 90], parameters: 5e9 },
  {
    model: 'Wan2.1-1.3B',
    preset: 'wan2.1-1.3b',
    sample: '81 × 480 × 832',
    shape: [16, 21, 60, 104],
    parameters: 1.3e9,
  },
];

/** Bytes of an element of bfloat16. */
const BYTES = 2;
const THRESHOLD = 0.9;
/** Shares of T at which ω is given. */
const LEVELS = [0.04, 0.2, 0.4, 0.6, 0.8, 0.95];

function tables(): string {
  const memory = RECIPES.map(({ model, sample, shape, parameters }) => {
    const size = shape.reduce((a, b) => a * b);
    // Both branches of policy, reference, target and gradient; with cached errors no reference, but r of each branch in float64.
    const whole = 4 * 2 * size * BYTES;
    const cached = 3 * 2 * size * BYTES + 2 * 8;
    return [
      model,
      sample,
      shape.join('×'),
      size.toLocaleString('en'),
      mebi(whole),
      mebi(cached),
      gibi(parameters * BYTES),
    ];
  });
  const masks = RECIPES.map(({ model, preset, options }) => {
    const schedule = NoiseSchedule.preset(preset, { inferenceSteps: 50, ...options });
    const cells = LEVELS.map((level) => {
      const { omega } = schedule.transition(Math.round(level * schedule.trainSteps));
      return `${omega.toPrecision(2)} (${Number((-Math.log(THRESHOLD) / omega).toPrecision(2))})`;
    });
    return [`${model}, ${schedule.predictionType}`, ...cells];
  });
  return [
    table(
      [
        'model',
        'sample',
        'latents',
        'D',
        'pair, reference predicted',
        'pair, reference cached',
        'second copy of the weights',
      ],
      memory,
    ),
    `ω at 50 steps, and in brackets the largest error m that the mask keeps at τ = ${THRESHOLD}, κ = 1:`,
    table(['model', ...LEVELS.map((level) => `t = ${level} T`)], masks),
  ].join('\n\n');
}

const mebi = (bytes: number) => `${(bytes / 2 ** 20).toFixed(2)} MiB`;
const gibi = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(head), line(head.map(() => '---')), ...rows.map(line)].join('\n');
}

const page = new URL('../docs/recipes.md', import.meta.url);
const text = readFileSync(page, 'utf8');
const [before, rest = ''] = text.split('<!-- computed:begin -->');
const after = rest.split('<!-- computed:end -->')[1];
const wanted = `${before}<!-- computed:begin -->\n${tables()}\n<!-- computed:end -->${after}`;
if (!process.argv.includes('--check')) writeFileSync(page, wanted);
else if (text !== wanted) {
  console.error('docs/recipes.md is not what scripts/recipes.ts computes (run `npx tsx scripts/recipes.ts`)');
  process.exitCode = 1;
}
