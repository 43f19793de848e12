/** Parts of a page that needs nothing but itself: no script, no font, no request. */

import { escapeHtml, type Style } from './draw.js';
import type { Figure } from './figures.js';
import type { Table } from './format.js';
import type { SampleFigure } from './samples.js';

export interface Section {
  readonly id: string;
  /** In the list of contents. */
  readonly title: string;
  readonly html: string;
}

/** A whole page with a list of its sections. */
export function page(title: string, lead: string, sections: readonly Section[]): string {
  const links = sections.map(({ id, title }) => `<li><a href="#${id}">${escapeHtml(title)}</a></li>`);
  const body = sections.map(({ id, title, html }) => {
    return `<section id="${id}" aria-labelledby="${id}-title">\n<h2 id="${id}-title">${escapeHtml(title)}</h2>\n${html}\n</section>`;
  });
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; img-src data:">
<link rel="icon" href="data:,">
<title>${escapeHtml(title)}</title>
<style>${CSS}</style>
</head>
<body>
<header>
<h1>${escapeHtml(title)}</h1>
${lead}
<nav aria-label="Contents"><ol>${links.join('')}</ol></nav>
</header>
<main>
${body.join('\n')}
</main>
</body>
</html>
`;
}

export function paragraph(text: string): string {
  return `<p>${escapeHtml(text)}</p>`;
}

/** Sentences whose first part, up to a colon, says the essential. */
export function list(items: readonly string[]): string {
  const entries = items.map((item) => {
    const [, head, rest] = /^(.+?:)( .*)$/.exec(item) ?? ['', '', item];
    return `<li>${head === '' ? '' : `<strong>${escapeHtml(head)}</strong>`}${escapeHtml(rest)}</li>`;
  });
  return `<ul>${entries.join('\n')}</ul>`;
}

/** A figure of panels with one legend. */
export function figureHtml({ id, title, caption, legend, panels, pairs }: Figure): string {
  const entries = legend.map((entry) => `<li>${swatch(entry.style)}${escapeHtml(entry.title)}</li>`);
  return `<figure id="${id}" class="plots">
<figcaption><strong>${escapeHtml(title)}</strong> ${escapeHtml(caption)}</figcaption>
<ul class="legend" aria-label="Legend">${entries.join('')}</ul>
<div class="panels${pairs ? ' pairs' : ''}">
${panels.map(({ svg }) => `<div class="panel">${svg}</div>`).join('\n')}
</div>
</figure>`;
}

const MARKERS: Readonly<Record<string, string>> = {
  circle: 'M16 2.5a3.5 3.5 0 1 1 0 7a3.5 3.5 0 1 1 0-7z',
  square: 'M13 3h6v6h-6z',
  'triangle-up': 'M16 2l4 7.5h-8z',
  'triangle-down': 'M16 10l4-7.5h-8z',
  'triangle-right': 'M20 6l-7.5 4v-8z',
  diamond: 'M16 1.5l4 4.5-4 4.5-4-4.5z',
  cross: 'M14.5 2h3v2.5H20v3h-2.5V10h-3V7.5H12v-3h2.5z',
};

function swatch({ colour, dash, shape }: Style): string {
  const line = `<path d="M1 6H31" stroke="${colour}" stroke-width="2" stroke-dasharray="${dash.join(' ')}"/>`;
  const marker = MARKERS[shape] === undefined ? '' : `<path d="${MARKERS[shape]}" fill="${colour}"/>`;
  return `<svg class="swatch" width="32" height="12" viewBox="0 0 32 12" aria-hidden="true">${line}${marker}</svg>`;
}

export function tableHtml({ caption, header, rows, textColumns }: Table): string {
  const align = (i: number) => (i < textColumns ? '' : ' class="number"');
  const head = header.map((name, i) => `<th scope="col"${align(i)}>${escapeHtml(name)}</th>`).join('');
  const body = rows.map((row) => `<tr>${row.map((cell, i) => cellHtml(cell, align(i))).join('')}</tr>`);
  // Above what can be scrolled sideways, so that it can be read as a whole on a narrow screen.
  const label = `<p class="caption" aria-hidden="true">${escapeHtml(caption)}</p>`;
  const named = textColumns === 1 ? ' class="named"' : '';
  return `${label}<div class="scroll" role="region" aria-label="${escapeHtml(caption)}" tabindex="0"><table${named} aria-label="${escapeHtml(caption)}">
<thead><tr>${head}</tr></thead>
<tbody>
${body.join('\n')}
</tbody>
</table></div>`;
}

/** Verdicts carry a sign beside their colour. */
function cellHtml(text: string, attributes: string): string {
  const [, verdict] = /^(better|worse|undecided|no data)\*?$/.exec(text) ?? [];
  if (verdict === undefined) return `<td${attributes}>${escapeHtml(text)}</td>`;
  const sign = { better: '▲', worse: '▼' }[verdict] ?? '○';
  return `<td><span class="verdict ${verdict.replace(' ', '-')}"><span aria-hidden="true">${sign}</span> ${escapeHtml(text)}</span></td>`;
}

export function details(summary: string, html: string, open = false): string {
  return `<details${open ? ' open' : ''}><summary>${escapeHtml(summary)}</summary>\n${html}\n</details>`;
}

export function samplesHtml({ source, beta, seed, grids }: SampleFigure): string {
  const images = grids.map(({ title, alt, uri, width, height }) => {
    return `<figure class="grid"><img src="${uri}" width="${4 * width}" height="${4 * height}" alt="${escapeHtml(alt)}"><figcaption>${escapeHtml(title)}</figcaption></figure>`;
  });
  return `<figure class="samples">
<figcaption><strong>${escapeHtml(source)}, β = ${beta}, seed ${seed}.</strong> The same starting noise in the same place of every grid.</figcaption>
<div class="grids">${images.join('\n')}</div>
</figure>`;
}

/** Small pictures in a row for each step, as they are. */
export function stripHtml(
  title: string,
  rows: readonly { readonly label: string; readonly uris: readonly string[] }[],
): string {
  const parts = rows.map(({ label, uris }) => {
    const images = uris.map((uri, i) => `<img src="${uri}" alt="${escapeHtml(`Sample ${i}, ${label}`)}">`);
    return `<figure class="strip"><figcaption>${escapeHtml(label)}</figcaption>${images.join('')}</figure>`;
  });
  return `<figure class="samples">
<figcaption><strong>${escapeHtml(title)}.</strong> The same held-out pair in the same place of every row.</figcaption>
${parts.join('\n')}
</figure>`;
}

const CSS = `
.strip { display: flex; flex-wrap: wrap; gap: .35rem; align-items: center; margin: .5rem 0; }
.strip figcaption { flex: 0 0 6rem; margin: 0; }
.strip img { height: 96px; width: auto; image-rendering: auto; }
:root { color-scheme: light; }
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body { margin: 0 auto; max-width: 1180px; padding: 2.5rem 1.25rem 4rem; background: #fff; color: #1a1a1a;
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; overflow-wrap: break-word; }
h1 { margin: 0 0 .5rem; font-size: clamp(1.5rem, 4vw, 2.1rem); line-height: 1.2; letter-spacing: -.01em; }
h2 { margin: 3rem 0 .75rem; padding-top: .9rem; border-top: 2px solid #1a1a1a; font-size: 1.3rem; line-height: 1.3; }
h3 { margin: 1.75rem 0 .5rem; font-size: 1.05rem; }
p, section > ul { max-width: 75ch; }
ul { padding-left: 1.25rem; }
li { margin: .3rem 0; }
a { color: #00527f; }
.meta { color: #555; margin: 0; }
nav ol { display: flex; flex-wrap: wrap; gap: .25rem 1.1rem; margin: 1.25rem 0 0; padding: 0; list-style: none; font-size: .93rem; }
figure { margin: 1.5rem 0 2.25rem; }
figcaption { max-width: 80ch; font-size: .93rem; color: #444; }
figcaption strong { color: #111; }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .6rem 0 .4rem; padding: 0; list-style: none; font-size: .88rem; }
.legend li { margin: 0; display: flex; align-items: center; gap: .4rem; }
.swatch { flex: none; }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 350px), 1fr)); gap: 1rem 1.25rem; }
@media (min-width: 760px) { .panels.pairs { grid-template-columns: repeat(2, minmax(0, 440px)); } }
.panel svg { display: block; width: 100%; max-width: 440px; height: auto; }
#answers .panels { grid-template-columns: minmax(0, 1fr); }
#answers .panel svg { max-width: 520px; }
.grids { display: flex; flex-wrap: wrap; gap: .9rem 1.1rem; margin-top: .6rem; }
.grid { margin: 0; width: 140px; }
.grid img { display: block; width: 140px; height: auto; image-rendering: pixelated; border: 1px solid #999; }
.grid figcaption { font-size: .82rem; line-height: 1.3; margin-top: .25rem; }
.scroll { overflow-x: auto; margin: 0 0 1.25rem; }
.scroll:focus-visible, summary:focus-visible, a:focus-visible { outline: 2px solid #0072b2; outline-offset: 2px; }
table { border-collapse: collapse; font-size: .86rem; font-variant-numeric: tabular-nums; line-height: 1.4; }
.caption { margin: 1.25rem 0 .3rem; font-weight: 600; font-size: .9rem; }
th, td { padding: .3rem .7rem; text-align: left; vertical-align: top; border-bottom: 1px solid #ddd; }
td:not(.number):not(:first-child) { min-width: 7.5rem; }
th { border-bottom: 1.5px solid #1a1a1a; white-space: nowrap; }
td:first-child, th:first-child { padding-left: 0; white-space: nowrap; }
.number { text-align: right; white-space: nowrap; }
.verdict { white-space: nowrap; font-weight: 600; color: #555; }
.verdict.better { color: #00527f; }
.verdict.worse { color: #a34700; }
details { margin: .6rem 0; }
summary { cursor: pointer; font-weight: 600; }
pre { overflow-x: auto; padding: .75rem; background: #f5f5f5; font-size: .8rem; line-height: 1.4; }
.note { font-size: .9rem; color: #444; }
@media (max-width: 700px) { .named td:first-child { white-space: normal; min-width: 8.5rem; } }
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  nav { display: none; }
  .panel, tr, .grid { break-inside: avoid; }
  .scroll { overflow: visible; }
  .panels { grid-template-columns: 1fr 1fr; }
  h2, figcaption { break-after: avoid; }
}
`;
