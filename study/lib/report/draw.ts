/** Draws the panels of a report: Vega-Lite to SVG, without a browser, in a form that can stand beside others in one page. */

/** A part of a Vega-Lite specification; the types of that package want literals where ours are put together. */
export type Spec = Record<string, unknown>;

/** One plot of a figure. */
export interface Panel {
  readonly title: string;
  /** What a reader who does not see it is told. */
  readonly alt: string;
  readonly svg: string;
}

/** Colours of Okabe and Ito that stay apart for every kind of colour vision and on white; the yellow of the set is too pale for lines. */
const COLOURS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9', '#000000'] as const;
const DASHES = [
  [1, 0],
  [5, 3],
  [2, 2],
] as const;
const SHAPES = ['circle', 'square', 'triangle-up', 'diamond', 'cross', 'triangle-down', 'triangle-right'] as const;

/** How a series looks. */
export interface Style {
  readonly colour: string;
  readonly dash: readonly number[];
  readonly shape: string;
}

/** The style of the series in a place; shape and dash tell apart what colour alone cannot, on paper too. */
export function styleAt(index: number): Style {
  const round = Math.floor(index / COLOURS.length);
  return {
    colour: COLOURS[index % COLOURS.length]!,
    dash: DASHES[round % DASHES.length]!,
    shape: SHAPES[(index + round) % SHAPES.length]!,
  };
}

const PANEL = { width: 360, height: 260 } as const;

const CONFIG = {
  font: 'system-ui, sans-serif',
  view: { stroke: null },
  axis: {
    labelFontSize: 11,
    titleFontSize: 11,
    titleFontWeight: 'normal',
    labelColor: '#333',
    titleColor: '#333',
    gridColor: '#e4e4e4',
    domainColor: '#777',
    tickColor: '#777',
    labelLimit: 190,
    titleLimit: 300,
  },
  title: { fontSize: 13, fontWeight: 600, anchor: 'start', color: '#111', limit: 0, offset: 8 },
  point: { filled: true, size: 36, opacity: 1 },
  line: { strokeWidth: 1.8 },
};

interface Plotting {
  parse: (spec: unknown) => unknown;
  View: new (runtime: unknown, options: object) => { toSVG(): Promise<string>; finalize(): unknown };
  compile: (spec: unknown) => { spec: unknown };
}

let plotting: Promise<Plotting> | undefined;

/** When the first panel is drawn, since it takes as long as everything else that a study loads. */
async function loadPlotting(): Promise<Plotting> {
  const [{ parse, View }, { compile }] = await Promise.all([import('vega'), import('vega-lite')]);
  return { parse, View, compile } as unknown as Plotting;
}

let drawn = 0;

/** Draws one panel. Sizes of the specification count with everything around the axes. */
export async function drawPanel(title: string, alt: string, spec: Spec): Promise<Panel> {
  plotting ??= loadPlotting();
  const { parse, View, compile } = await plotting;
  const whole = {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    background: 'white',
    title,
    width: PANEL.width,
    height: PANEL.height,
    autosize: { type: 'fit', contains: 'padding' },
    padding: { left: 4, top: 12, right: 6, bottom: 4 }, // the fit leaves titles too little room above
    config: CONFIG,
    ...spec,
  };
  const view = new View(parse(compile(whole).spec), { renderer: 'none' });
  const svg = await view.toSVG();
  view.finalize();
  return { title, alt, svg: embeddable(svg, alt, `p${++drawn}-`) };
}

/** An SVG that names itself for readers, fits narrow screens, and shares no id with the others of the page. */
function embeddable(svg: string, alt: string, prefix: string): string {
  return (
    svg
      // What stands for the whole plot is said once; descriptions of single marks would only be in the way.
      .replaceAll(/ (role|aria-[a-z]+)="[^"]*"/g, '')
      .replaceAll(/ (d|transform)="[^"]*"/g, (place) => place.replaceAll(/(\.\d{2})\d+/g, '$1'))
      .replace('<svg ', `<svg role="img" aria-label="${escapeHtml(alt)}" `)
      .replaceAll(/ id="([^"]+)"/g, ` id="${prefix}$1"`)
      .replaceAll(/url\(#([^)]+)\)/g, `url(#${prefix}$1)`)
      .replaceAll(/ xmlns(:xlink)?="[^"]*"/g, '')
  ); // needed in files, implied in a page
}

export function escapeHtml(text: string): string {
  const entities = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;', "'": '&#39;' };
  return text.replaceAll(/[&<>"']/g, (letter) => entities[letter as keyof typeof entities]);
}
