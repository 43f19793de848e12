/** The β tracker: what it makes of logits, that its state goes on, and what it refuses. */

import t from 'tap';
import { BetaTracker, type BetaTrackerOptions } from '../../lib/trainer/index.js';

const rows = (logit: number[], mask = logit.map(() => 1)) => ({
  logit: Float64Array.from(logit),
  mask: Float64Array.from(mask),
});

t.test('the mean size of the last logits decides', async (t) => {
  const tracker = new BetaTracker({ target: 2, window: 4, warmup: 2 });
  t.equal(tracker.scale(), 1);
  tracker.observe(rows([1]), 1);
  t.equal(tracker.scale(), 1, 'until enough rows were seen');
  tracker.observe(rows([-3]), 1);
  t.equal(tracker.scale(), 1);
  tracker.observe(rows([-1, 1]), 1);
  t.equal(tracker.scale(), 2 / 1.5);
  tracker.observe(rows([8, 8, -8, 8]), 4);
  t.equal(tracker.scale(), 1, 'a logit counts by what it is at the β of the loss, and old ones are forgotten');
  tracker.observe(rows([NaN, Infinity, 100], [1, 1, 0]), 1);
  t.equal(tracker.scale(), 1, 'what is not finite and what is removed is left out');
});

t.test('stays in its range', async (t) => {
  const scaleAt = (size: number, options: Partial<BetaTrackerOptions> = {}) => {
    const tracker = new BetaTracker({ target: 1, warmup: 1, ...options });
    tracker.observe(rows([size]), 1);
    return tracker.scale();
  };
  t.same([scaleAt(0), scaleAt(1e-9), scaleAt(1e9), scaleAt(0.5)], [10, 10, 0.1, 2]);
  t.same([scaleAt(0, { range: [0.5, 1.5] }), scaleAt(9, { range: [0.5, 1.5] })], [1.5, 0.5]);
});

t.test('goes on from its state', async (t) => {
  const make = () => new BetaTracker({ target: 1, window: 5, warmup: 1 });
  const [whole, first] = [make(), make()];
  for (const tracker of [whole, first]) tracker.observe(rows([0.1, 0.7, -0.3, 0.9]), 1.3);
  const second = make();
  second.load(JSON.parse(JSON.stringify(first.state())));
  t.equal(second.scale(), whole.scale());
  for (const tracker of [whole, second]) tracker.observe(rows([0.2, 0.4, 0.8]), tracker.scale());
  t.equal(second.scale(), whole.scale());
  t.same(second.state(), whole.state());

  const state = whole.state();
  t.throws(() => make().load({ ...state, target: 2 }), { message: /^Expected state\.target to be 1, as this tracker/ });
  t.throws(() => make().load({ ...state, range: [1, 2] }), { message: /state\.range/ });
  t.throws(() => make().load({ ...state, values: [1, 2, 3, 4, 5, 6] }), { message: /at most 5 numbers/ });
  t.throws(() => make().load({ ...state, values: [-1] }), { message: /state\.values/ });
  t.throws(() => make().load({ ...state, values: null } as never), { message: /state\.values/ });
  t.throws(() => make().load(undefined as never), { name: 'TypeError' });
});

t.test('wrong options', async (t) => {
  const cases: [Record<string, unknown>, RegExp][] = [
    [{}, /options\.target/],
    [{ target: 0 }, /options\.target/],
    [{ target: 1, window: 0 }, /options\.window/],
    [{ target: 1, window: 4, warmup: 5 }, /options\.warmup/],
    [{ target: 1, range: [2, 1] }, /options\.range to be \[low, high\]/],
    [{ target: 1, range: [0, 1] }, /options\.range\[0\]/],
    [{ target: 1, range: [1, 2, 3] }, /options\.range/],
    [{ target: 1, range: 3 }, /options\.range/],
    [{ target: 1, rate: 3 }, /"rate"/],
  ];
  for (const [options, message] of cases) t.throws(() => new BetaTracker(options as never), { message });
  const tracker = new BetaTracker({ target: 1 });
  t.throws(() => tracker.observe(rows([1, 2], [1]), 1), { message: /rows\.mask/ });
  t.throws(() => tracker.observe(rows([1]), 0), { message: /^Expected scale/ });
});
