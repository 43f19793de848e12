/** Plots of a result file as SVG, drawn by Vega-Lite without a browser. */

import { parse, View } from 'vega';
import { compile, type TopLevelSpec } from 'vega-lite';
import type { Group } from './cases.js';
import { traffic } from './ceilings.js';
import type { OverviewPoint } from './overview.js';
import type { Measurement, Results } from './results.js';
import { medianNanoseconds, shortName } from './tables.js';

const width = 560;
const height = 300;

type Spec = Omit<TopLevelSpec, '$schema' | 'data'> & Record<string, unknown>;

/** File name (behind the name of the result file) and SVG of every plot that the measurements allow. */
export async function plots({ measurements }: Results): Promise<Map<string, string>> {
  const drawn = new Map<string, string>();
  const curve = async (name: Group, title: string, of: (m: Measurement) => number) => {
    const values = curvePoints(measurements, name, of);
    if (values.length > 0) drawn.set(name, await draw(scaling(title, name === 'size' ? 'D' : 'rows'), values));
  };
  await curve('size', 'elements of a row, D', ({ case: c }) => c.size);
  await curve('rows', 'rows', ({ case: c }) => c.rows);
  const bars = peerBars(measurements);
  if (bars.length > 0) drawn.set('peers', await draw(peers(), bars));
  return drawn;
}

interface Point {
  series: string;
  kind: string;
  x: number;
  /** Nanoseconds per element. */
  perElement: number;
}

/** Time per element: proportional growth is a level line, and every departure from it shows. */
function curvePoints(measurements: readonly Measurement[], group: Group, of: (m: Measurement) => number): Point[] {
  return measurements
    .filter(({ case: c, provider }) => c.group === group && (provider === 'sdpo into' || provider === traffic))
    .map((m) => ({
      series: shortName(m),
      kind: m.kind,
      x: of(m),
      perElement: medianNanoseconds(m) / (m.case.rows * m.case.size),
    }));
}

function scaling(title: string, short: string): Spec {
  return {
    width,
    height,
    title: `Time per element of a row pair, by ${short} (float32, loss and gradient)`,
    mark: { type: 'line', point: { size: 30 } },
    encoding: {
      x: { field: 'x', type: 'quantitative', scale: { type: 'log', base: 2 }, title, axis: { labelExpr: powerOfTwo } },
      y: { field: 'perElement', type: 'quantitative', scale: { type: 'log' }, title: 'ns per element' },
      color: { field: 'series', type: 'nominal', title: null, legend: { orient: 'bottom', columns: 2, labelLimit: 0 } },
      strokeDash: { field: 'kind', type: 'nominal', legend: null },
    },
  } as Spec;
}

/** Labels of an axis in powers of two. */
const powerOfTwo = `'2^' + format(log(datum.value) / log(2), 'd')`;

interface Bar {
  provider: string;
  shape: string;
  milliseconds: number;
}

function peerBars(measurements: readonly Measurement[]): Bar[] {
  return measurements
    .filter(({ case: c, kind }) => {
      return c.group === 'peers' && c.rows === 1 && c.dtype === 'float32' && c.gradients && kind !== 'ceiling';
    })
    .map((m) => ({ provider: shortName(m), shape: m.case.shape, milliseconds: medianNanoseconds(m) / 1e6 }));
}

function peers(): Spec {
  return {
    title: 'Loss and gradient of one row pair, float32',
    columns: 1,
    facet: { field: 'shape', type: 'nominal', title: null, header: { labelFontWeight: 'bold' } },
    spec: {
      width,
      height: { step: 14 },
      mark: { type: 'point', filled: true, size: 50 },
      encoding: {
        x: { field: 'milliseconds', type: 'quantitative', scale: { type: 'log' }, title: 'ms' },
        y: { field: 'provider', type: 'nominal', sort: null, title: null, axis: { labelLimit: 0, grid: true } },
      },
    },
    resolve: { axis: { x: 'independent' } },
  } as unknown as Spec;
}

/** The plot of the README. */
export async function drawOverview(points: readonly OverviewPoint[]): Promise<string> {
  const panel = (field: 'time' | 'copies', title: string, axis: object) => ({
    transform: [{ filter: `isValid(datum.${field})` }],
    title: { text: title, anchor: 'start', fontSize: 12 },
    width: 330,
    height: { step: 26 },
    mark: { type: 'point', filled: true, size: 70, opacity: 0.85 },
    encoding: {
      x: { field, type: 'quantitative', title: null, ...axis },
      y: {
        field: 'peer',
        type: 'nominal',
        sort: null,
        title: null,
        axis: { labelLimit: 0, grid: true, labels: field === 'time', ticks: field === 'time' },
      },
      color: {
        field: 'shape',
        type: 'nominal',
        sort: null,
        title: null,
        legend: { orient: 'bottom', columns: 3, labelLimit: 0 },
      },
      shape: { field: 'shape', type: 'nominal', sort: null, title: null },
    },
  });
  const log = { scale: { type: 'log', domain: [0.8, 20] }, axis: { values: [1, 2, 5, 10, 20], format: 'd' } };
  const spec = {
    title: { text: 'Loss and gradient on the CPU, one thread', anchor: 'start' },
    hconcat: [
      panel('time', 'time, relative to sdpo in the same run', log),
      panel('copies', 'extra memory, in copies of both predictions', { scale: { domain: [0, 11] } }),
    ],
  };
  return draw(spec as unknown as Spec, points);
}

async function draw(spec: Spec, values: readonly object[]): Promise<string> {
  const whole = {
    ...spec,
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: 'white',
    data: { values },
    config: { font: 'sans-serif', view: { stroke: null } },
  };
  const view = new View(parse(compile(whole as unknown as TopLevelSpec).spec), { renderer: 'none' });
  const svg = await view.toSVG();
  view.finalize();
  return `${svg}\n`;
}
