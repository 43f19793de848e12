/** Draws samples of several denoisers and their numbers into one SVG: a band per denoiser, the same starting noise in the same place. */

import { encode } from 'fast-png';
import { PIXELS } from './data.js';

export interface Band {
  title: string;
  /** What was measured, by name; shown under the title. */
  numbers: Readonly<Record<string, string>>;
  /** `[count, 64]`, paper is -1 and full ink is 1. */
  images: Float32Array;
  /** Per image, the colour of its frame. */
  frames: readonly Frame[];
}

export type Frame = 'good' | 'valid' | 'invalid';

type Colour = readonly [number, number, number];

// Blue, grey and orange stay apart for readers who see red and green alike.
const FRAME_COLOURS: Record<Frame, Colour> = { good: [31, 119, 180], valid: [190, 190, 190], invalid: [230, 85, 13] };
const LEGEND: Record<Frame, string> = {
  good: 'good: a preferred digit, 0 to 4',
  valid: 'a digit, not a preferred one',
  invalid: 'not like a digit',
};

const SIDE = 8;
const COLUMNS = 16;
const ROWS = 2;
/** Pixels of the picture to one of an image. */
const SCALE = 4;
/** An image with a frame of one pixel around it, and one pixel to the next. */
const CELL = SIDE + 3;

const MARGIN = 16;
const LINE = 18;
const TEXT_WIDTH = 196;
const BAND = Math.max(ROWS * CELL * SCALE, 5 * LINE) + MARGIN;

/** The text of an SVG with up to 32 images of each band, its numbers beside them, and a legend. */
export function drawSheet(heading: string, bands: readonly Band[]): string {
  const width = 2 * MARGIN + TEXT_WIDTH + (COLUMNS * CELL - 1) * SCALE;
  const top = MARGIN + 2 * LINE;
  const bottom = top + bands.length * BAND;
  const entries = Object.keys(LEGEND) as Frame[];
  const legend = entries.map((frame, i) => {
    const x = MARGIN + TEXT_WIDTH + i * 230;
    const swatch = `<rect x="${x}" y="${bottom}" width="12" height="12" fill="rgb(${FRAME_COLOURS[frame]})"/>`;
    return swatch + line(LEGEND[frame], x + 18, bottom + 11);
  });
  const height = bottom + LINE + MARGIN;
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" font-family="system-ui, 'DejaVu Sans', sans-serif" font-size="13" fill="#1a1a1a">
<title>${escapeText(heading)}</title>
<rect width="${width}" height="${height}" fill="white"/>
${line(heading, MARGIN, MARGIN + LINE - 6)}
${bands.map((band, i) => drawBand(band, top + i * BAND)).join('\n')}
${legend.join('\n')}
</svg>
`;
}

function drawBand({ title, numbers, images, frames }: Band, top: number): string {
  const baseline = (row: number) => top + 13 + row * LINE;
  const rows = Object.entries(numbers).map(([name, value], i) => {
    return (
      line(name, MARGIN, baseline(i + 1)) + line(value, MARGIN + TEXT_WIDTH - 24, baseline(i + 1), 'text-anchor="end"')
    );
  });
  const [width, height] = [COLUMNS * CELL - 1, ROWS * CELL - 1];
  const png = Buffer.from(encode({ width, height, channels: 3, data: pixelsOf(images, frames, width, height) }));
  const size = `width="${width * SCALE}" height="${height * SCALE}"`;
  const uri = `data:image/png;base64,${png.toString('base64')}`;
  const image = `<image x="${MARGIN + TEXT_WIDTH}" y="${top}" ${size} style="image-rendering: pixelated" href="${uri}"/>`;
  return [line(title, MARGIN, baseline(0), 'font-weight="bold"'), ...rows, image].join('\n');
}

/** The images of a band with their frames, as red, green and blue. */
function pixelsOf(images: Float32Array, frames: readonly Frame[], width: number, height: number): Uint8Array {
  const data = new Uint8Array(3 * width * height).fill(255);
  frames.slice(0, COLUMNS * ROWS).forEach((frame, index) => {
    const [left, top] = [(index % COLUMNS) * CELL, Math.floor(index / COLUMNS) * CELL];
    for (let y = 0; y < SIDE + 2; y++) {
      for (let x = 0; x < SIDE + 2; x++) {
        const inside = x >= 1 && x <= SIDE && y >= 1 && y <= SIDE;
        const ink = (images[index * PIXELS + (y - 1) * SIDE + x - 1]! + 1) / 2;
        const grey = Math.round(255 * (1 - Math.min(1, Math.max(0, ink))));
        data.set(inside ? [grey, grey, grey] : FRAME_COLOURS[frame], 3 * ((top + y) * width + left + x));
      }
    }
  });
  return data;
}

function line(text: string, x: number, y: number, attributes = ''): string {
  return `<text x="${x}" y="${y}" ${attributes}>${escapeText(text)}</text>`;
}

function escapeText(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
