/** Draws samples of several denoisers into one picture: a band per denoiser, the same starting noise in the same place. */

import { PNG } from 'pngjs';
import { PIXELS } from './data.js';

export interface Band {
  label: string;
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
  good: 'GOOD',
  valid: 'A DIGIT, NOT A PREFERRED ONE',
  invalid: 'NOT LIKE A DIGIT',
};
const BLACK: Colour = [0, 0, 0];

const SIDE = 8;
const COLUMNS = 16;
const ROWS = 3;
const SCALE = 5;
const FRAME = 3;
const GAP = 5;
const MARGIN = 14;
const TEXT_SCALE = 3;
const LINE = 5 * TEXT_SCALE + 9;
const CELL = SIDE * SCALE + 2 * FRAME;

/** The bytes of a PNG with up to 48 images of each band and a legend. */
export function drawSheet(bands: readonly Band[]): Buffer {
  const width = 2 * MARGIN + COLUMNS * (CELL + GAP) - GAP;
  const bandHeight = LINE + ROWS * (CELL + GAP) + MARGIN;
  const png = new PNG({ width, height: 2 * MARGIN + bands.length * bandHeight + LINE - MARGIN });
  png.data.fill(255);

  bands.forEach((band, index) => {
    const top = MARGIN + index * bandHeight;
    drawText(png, band.label, MARGIN, top);
    const count = Math.min(COLUMNS * ROWS, band.frames.length);
    for (let i = 0; i < count; i++) {
      const x = MARGIN + (i % COLUMNS) * (CELL + GAP);
      const y = top + LINE + Math.floor(i / COLUMNS) * (CELL + GAP);
      drawImage(png, band.images.subarray(i * PIXELS, (i + 1) * PIXELS), x, y, FRAME_COLOURS[band.frames[i]!]);
    }
  });

  let x = MARGIN;
  const y = MARGIN + bands.length * bandHeight;
  for (const frame of Object.keys(LEGEND) as Frame[]) {
    fillRectangle(png, x, y, 5 * TEXT_SCALE, 5 * TEXT_SCALE, FRAME_COLOURS[frame]);
    x = drawText(png, LEGEND[frame], x + 7 * TEXT_SCALE, y) + 6 * TEXT_SCALE;
  }
  return PNG.sync.write(png);
}

function drawImage(png: PNG, pixels: Float32Array, x: number, y: number, frame: Colour): void {
  fillRectangle(png, x, y, CELL, CELL, frame);
  pixels.forEach((value, i) => {
    const grey = Math.round(255 * (1 - Math.min(1, Math.max(0, (value + 1) / 2))));
    const left = x + FRAME + (i % SIDE) * SCALE;
    const top = y + FRAME + Math.floor(i / SIDE) * SCALE;
    fillRectangle(png, left, top, SCALE, SCALE, [grey, grey, grey]);
  });
}

// Capital letters of 3 by 5 pixels: one octal digit per line, its three bits from left to right.
const FONT: Readonly<Record<string, string>> = {
  ...{ A: '25755', B: '65656', C: '34443', D: '65556', E: '74647', F: '74644', G: '34553', H: '55755', I: '72227' },
  ...{ J: '11152', K: '55655', L: '44447', M: '57755', N: '75555', O: '25552', P: '65644', Q: '25573', R: '65655' },
  ...{ S: '34216', T: '72222', U: '55557', V: '55552', W: '55775', X: '55255', Y: '55222', Z: '71247' },
  ...{ '0': '75557', '1': '26227', '2': '61247', '3': '61216', '4': '55711', '5': '74616', '6': '34757', '7': '71222' },
  ...{ '8': '75757', '9': '75716', '-': '00700', '.': '00002', ',': '00024', '%': '51245', '=': '07070' },
};

/** Draws capital letters with their upper left corner at (x, y); returns where the text ends. */
function drawText(png: PNG, text: string, x: number, y: number): number {
  let left = x;
  for (const letter of text.toUpperCase()) {
    const lines = FONT[letter] ?? '00000';
    for (let row = 0; row < 5; row++) {
      for (let column = 0; column < 3; column++) {
        const inked = (Number(lines[row]) >> (2 - column)) & 1;
        if (inked) {
          fillRectangle(png, left + column * TEXT_SCALE, y + row * TEXT_SCALE, TEXT_SCALE, TEXT_SCALE, BLACK);
        }
      }
    }
    left += 4 * TEXT_SCALE;
  }
  return left;
}

function fillRectangle(png: PNG, x: number, y: number, width: number, height: number, colour: Colour): void {
  for (let row = y; row < y + height; row++) {
    for (let column = x; column < x + width; column++) {
      png.data.set(colour, 4 * (row * png.width + column));
    }
  }
}
