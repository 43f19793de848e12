/** The picture of the digits job: what its text and its pixels say, that a browser shows all of it, and that the committed one is a picture of this kind. */

import { existsSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';
import { decode } from 'fast-png';
import { chromium } from 'playwright-core';
import t from 'tap';
import { PIXELS } from '../../examples/digits/data.js';
import { TITLES } from '../../examples/digits/finetune.js';
import { type Band, drawSheet, type Frame } from '../../examples/digits/sheet.js';

const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const skip = executablePath === undefined ? 'no Chromium under /usr/bin' : false;
const committed = fileURLToPath(new URL('../../examples/digits/samples.svg', import.meta.url));

const TITLE = 'DPO-C&M + 0.3 KL < all';
const frames: Frame[] = ['good', 'valid', 'invalid', ...Array.from({ length: 40 }, (): Frame => 'good')];
const band = (title: string): Band => ({
  title,
  numbers: { good: '36.7 %', 'implicit accuracy': '97.8 %' },
  images: Float32Array.from({ length: frames.length * PIXELS }, (_, i) => (i % PIXELS) / 31.5 - 1),
  frames,
});

t.test('pixels: ink, frames, and no more images than there is room for', async (t) => {
  const [, base64] = /href="data:image\/png;base64,([^"]+)"/.exec(drawSheet('Title', [band(TITLE)]))!;
  const { width, height, channels, data } = decode(Buffer.from(base64, 'base64'));
  t.same([width, height, channels], [16 * 11 - 1, 2 * 11 - 1, 3]);
  const at = (x: number, y: number) => Array.from(data.subarray(3 * (y * width + x), 3 * (y * width + x) + 3));
  t.same(
    [at(0, 0), at(11, 0), at(22, 0)],
    [
      [31, 119, 180],
      [190, 190, 190],
      [230, 85, 13],
    ],
    'frames by their kind',
  );
  t.same(
    [at(1, 1), at(8, 8)],
    [
      [255, 255, 255],
      [0, 0, 0],
    ],
    'paper is white and full ink is black',
  );
  t.same(at(10, 0), [255, 255, 255], 'and there is a gap between two');
});

/** What a browser shows of a picture: its texts with their boxes, and its images. */
async function shown(file: string) {
  const browser = await chromium.launch({
    executablePath,
    args: ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'],
  });
  try {
    const page = await browser.newPage({ viewport: { width: 1280, height: 900 } });
    const complaints: string[] = [];
    page.on('console', (message) => complaints.push(message.text()));
    page.on('pageerror', (error) => complaints.push(error.message));
    page.on('request', (request) => /^(file|data):/.test(request.url()) || complaints.push(request.url()));
    await page.goto(pathToFileURL(file).href, { waitUntil: 'load' });
    const found = await page.evaluate(async () => {
      const box = (of: Element) => {
        const { left, right, top, bottom } = of.getBoundingClientRect();
        return { left, right, top, bottom };
      };
      const texts = Array.from(document.querySelectorAll('text'), (of) => ({ text: of.textContent ?? '', ...box(of) }));
      const images = [];
      for (const of of Array.from(document.querySelectorAll('image'))) {
        const image = new Image();
        image.src = of.getAttribute('href') ?? '';
        await image.decode();
        images.push({ pixels: image.naturalWidth, ...box(of) });
      }
      return { texts, images, page: box(document.documentElement) };
    });
    return { ...found, complaints };
  } finally {
    await browser.close();
  }
}

t.test('in a browser', { skip }, async (t) => {
  const invented = join(t.testdir({}), 'samples.svg');
  writeFileSync(invented, drawSheet('Pairs A & B, β = 10', [band('before'), band(TITLE)]));
  for (const [name, file, titles] of [
    ['a new one', invented, ['Pairs A & B, β = 10', 'before', TITLE]],
    ['the committed one', committed, ['before', ...Object.values(TITLES)]],
  ] as const) {
    await t.test(name, async (t) => {
      const { texts, images, page, complaints } = await shown(file);
      t.same(complaints, []);
      for (const title of titles) {
        t.equal(texts.filter(({ text }) => text === title).length, 1, `real text: ${title}`);
      }
      t.equal(images.length, texts.filter(({ text }) => text === 'good').length, 'an image for each band of numbers');
      for (const { pixels, ...box } of images) {
        t.equal(pixels, 16 * 11 - 1);
        t.ok(box.right <= page.right && box.bottom <= page.bottom, 'inside the picture');
        const over = texts.filter(
          (of) => of.right > box.left && of.left < box.right && of.bottom > box.top && of.top < box.bottom,
        );
        t.same(over, [], 'and no text on it');
      }
      for (const [i, a] of texts.entries()) {
        t.ok(a.left >= 0 && a.right <= page.right && a.bottom <= page.bottom, `${a.text} is inside`);
        const met = texts
          .slice(i + 1)
          .filter((b) => a.right > b.left && b.right > a.left && a.bottom - 2 > b.top && b.bottom - 2 > a.top);
        t.same(met, [], `nothing is written over ${a.text}`);
      }
    });
  }
});
