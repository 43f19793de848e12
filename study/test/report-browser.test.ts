/** The report in a real browser: every plot is drawn, nothing is requested, nothing sticks out, on a desk and on a phone. */

import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { type Browser, chromium } from 'playwright-core';
import t from 'tap';
import { compactResults, writeReport, writeResults } from '../lib/index.js';
import { inventedResults } from './fixture.js';

const executablePath = ['/usr/bin/chromium', '/usr/bin/chromium-browser', '/usr/bin/google-chrome'].find(existsSync);
const skip = executablePath === undefined ? 'no Chromium under /usr/bin' : false;

const SCREENS = { desk: { width: 1280, height: 900 }, phone: { width: 380, height: 800 } };

/** What the page itself says about one plot. */
interface Plot {
  label: string;
  width: number;
  height: number;
  right: number;
  /** Marks with a size. */
  marks: number;
}

t.test('the report of a study', { skip }, async (t) => {
  const folder = t.testdir({});
  const [file, out] = [join(folder, 'results.json'), join(folder, 'report.html')];
  await writeResults(file, compactResults(inventedResults()));
  await writeReport([file], { out });
  const args = ['--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage'];
  const browser: Browser = await chromium.launch({ executablePath, args });
  t.teardown(() => browser.close());
  const url = pathToFileURL(out).href;
  for (const [name, viewport] of Object.entries(SCREENS)) {
    await t.test(name, async (t) => {
      const page = await browser.newPage({ viewport });
      const requests: string[] = [];
      const complaints: string[] = [];
      page.on('request', (request) => requests.push(request.url()));
      page.on('console', (message) => complaints.push(message.text()));
      page.on('pageerror', (error) => complaints.push(error.message));
      await page.goto(url, { waitUntil: 'load' });
      t.same(
        requests.filter((address) => !address.startsWith('data:')),
        [url],
        'only the file itself',
      );
      t.same(complaints, []);

      const plots = await page.evaluate(() =>
        Array.from(document.querySelectorAll<SVGSVGElement>('figure.plots .panel svg'), (svg): Plot => {
          const { width, height, right } = svg.getBoundingClientRect();
          const marks = Array.from(svg.querySelectorAll('.mark-line path, .mark-symbol path, .mark-rule line'));
          const sized = marks.filter((mark) => {
            const box = mark.getBoundingClientRect();
            return box.width > 0 || box.height > 0;
          });
          return { label: svg.getAttribute('aria-label') ?? '', width, height, right, marks: sized.length };
        }),
      );
      t.equal(plots.length, 33);
      for (const { label, width, height, right, marks } of plots) {
        t.ok(label.length > 0 && width > 0 && height > 0, label);
        t.ok(marks > 2, `${marks} marks`);
        t.ok(right <= viewport.width, `ends at ${right}`);
      }
      const images = await page.evaluate(() => Array.from(document.images, ({ naturalWidth }) => naturalWidth));
      t.equal(images.length, 10);
      t.ok(
        images.every((width) => width === 4 * 9 - 1),
        'four images of eight pixels and what is between them',
      );
      const width = await page.evaluate(() => document.documentElement.scrollWidth);
      t.ok(width <= viewport.width, `the page is ${width} wide`);
      const unnamed = await page.evaluate(() => {
        const titles = Array.from(document.querySelectorAll('section'), (of) => of.getAttribute('aria-labelledby'));
        return titles.filter((id) => id === null || document.getElementById(id) === null);
      });
      t.same(unnamed, []);
      await page.close();
    });
  }
});
