/** Shifts that depend on the resolution: where they come from, and other shifts of the same schedule. */

import { readFileSync } from 'node:fs';
import t from 'tap';
import { PreferenceLoss } from '../../lib/loss/loss.js';
import { PRESETS } from '../../lib/schedule/presets.js';
import { NoiseSchedule } from '../../lib/schedule/schedule.js';

const reference = JSON.parse(readFileSync(new URL('./diffusers.json', import.meta.url), 'utf8'));
const FLUX = reference.published['flux-dev'];
const QWEN = reference.published['qwen-image'];

t.test('mu as the pipelines compute it', async (t) => {
  for (const { line, empirical, tokens, steps, mu } of reference.resolutions) {
    const schedule = empirical
      ? NoiseSchedule.preset('flux2-dev', { imageSeqLen: tokens, inferenceSteps: steps })
      : NoiseSchedule.fromDiffusers(
          {
            ...FLUX,
            base_image_seq_len: line[0],
            max_image_seq_len: line[1],
            base_shift: line[2],
            max_shift: line[3],
          },
          { imageSeqLen: tokens },
        );
    t.ok(Math.abs(schedule.toJSON().mu! - mu) < 1e-12, `${tokens} tokens: ${schedule.toJSON().mu}, not ${mu}`);
    t.ok(Math.abs(schedule.shift - Math.exp(mu)) < 1e-11);
  }
});

t.test('the ways of saying a resolution agree', async (t) => {
  const options = [{ mu: 1.15 }, { imageSeqLen: 4096 }, { width: 1024, height: 1024, pixelsPerToken: 16 }];
  for (const each of options) {
    const schedule = NoiseSchedule.fromDiffusers(FLUX, each);
    t.ok(Math.abs(schedule.shift - Math.exp(1.15)) < 1e-12, JSON.stringify(each));
    t.strictSame(NoiseSchedule.fromJSON(JSON.parse(JSON.stringify(schedule))).toJSON(), schedule.toJSON());
  }
  t.ok(Math.abs(NoiseSchedule.preset('flux-dev', { width: 1024, height: 1024 }).shift - Math.exp(1.15)) < 1e-12);
  // A picture is cut to whole tokens, and a film has as many for every frame.
  const mu = (each: object) => NoiseSchedule.preset('ltx-video', each as never).toJSON().mu;
  t.equal(mu({ width: 704 + 31, height: 480, frames: 21 }), mu({ imageSeqLen: 22 * 15 * 21 }));
  const linear = NoiseSchedule.fromDiffusers({ ...FLUX, time_shift_type: 'linear' }, { mu: 2.5 });
  t.equal(linear.shift, 2.5);
  const lightning = NoiseSchedule.fromDiffusers(reference.published['qwen-image-lightning']);
  t.ok(Math.abs(lightning.shift - 3) < 1e-12, 'the same at every resolution');
});

t.test('a missing resolution is asked for, and one that nobody reads is refused', async (t) => {
  for (const config of [FLUX, QWEN, { ...reference.published['wan2.1-t2v'], use_dynamic_shifting: true }]) {
    t.throws(() => NoiseSchedule.fromDiffusers(config), {
      code: 'ERR_SDPO_UNSUPPORTED_CONFIG',
      message: /config\.use_dynamic_shifting .*options\.mu, options\.imageSeqLen, .*pixelsPerToken .*received true/,
    });
    try {
      NoiseSchedule.fromDiffusers(config);
    } catch (error) {
      t.notMatch((error as Error).message, /ignore/);
    }
  }
  const make = (options: object) => () => NoiseSchedule.fromDiffusers(FLUX, options as never);
  t.throws(make({ mu: 1, imageSeqLen: 4096 }), {
    code: 'ERR_SDPO_INVALID_OPTION',
    message: /options\.mu .*the only size/,
  });
  t.throws(make({ imageSeqLen: 4096, width: 64, height: 64 }), { message: /options\.imageSeqLen .*the only size/ });
  t.throws(make({ width: 1024, pixelsPerToken: 16 }), { name: 'TypeError', message: /options\.height/ });
  t.throws(make({ width: 1024, height: 1024 }), { name: 'TypeError', message: /options\.pixelsPerToken/ });
  t.throws(make({ width: 8, height: 1024, pixelsPerToken: 16 }), { name: 'RangeError', message: /options\.width/ });
  t.throws(make({ mu: 1, frames: 3 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.frames/ });
  t.throws(make({ mu: 1000 }), { name: 'RangeError', message: /options\.mu .*finite/ });
  t.throws(make({ mu: '1' }), { name: 'TypeError', message: /options\.mu/ });
  t.throws(make({ imageSeqLen: 1.5 }), { name: 'RangeError', message: /options\.imageSeqLen/ });
  const linear = { ...FLUX, time_shift_type: 'linear' };
  t.throws(() => NoiseSchedule.fromDiffusers(linear, { mu: 0 }), { name: 'RangeError', message: /options\.mu/ });
  for (const config of [reference.published.sd3, reference.published.sd15]) {
    for (const options of [{ mu: 1 }, { imageSeqLen: 4096 }, { width: 64 }, { pixelsPerToken: 16 }]) {
      t.throws(() => NoiseSchedule.fromDiffusers(config, options), {
        code: 'ERR_SDPO_INVALID_OPTION',
        message: /absent, since the shift of this schedule does not depend on the resolution/,
      });
    }
  }
  const broken = (fields: object) => () => NoiseSchedule.fromDiffusers({ ...FLUX, ...fields }, { mu: 1 });
  t.throws(broken({ time_shift_type: 'cubic' }), { code: 'ERR_SDPO_UNSUPPORTED_CONFIG', message: /time_shift_type/ });
  t.throws(broken({ max_image_seq_len: 256 }), { name: 'RangeError', message: /max_image_seq_len/ });
  t.throws(broken({ use_karras_sigmas: true, sigma_max: 80 }), { name: 'RangeError', message: /sigma_max .*\[0, 1\]/ });
  t.throws(broken({ shift_terminal: 1 }), { name: 'RangeError', message: /shift_terminal/ });
});

t.test('other shifts of the same schedule', async (t) => {
  const base = NoiseSchedule.fromDiffusers(QWEN, { imageSeqLen: 4096, inferenceSteps: 8 });
  for (const options of [{ imageSeqLen: 1024 }, { mu: 0.7 }, { width: 512, height: 768, pixelsPerToken: 16 }]) {
    const other = base.withShift(options);
    const made = NoiseSchedule.fromDiffusers(QWEN, { ...options, inferenceSteps: 8 });
    t.strictSame(other.toJSON(), made.toJSON());
    t.strictSame(other.omegas([200, 500, 900]), made.omegas([200, 500, 900]));
    t.notSame(other.omegas([500]), base.omegas([500]));
    t.equal(other.sigma(500), base.sigma(500), 'noise levels stay');
  }
  const { timesteps } = base.samplerLadder();
  t.ok(Math.abs(timesteps[7] - 20) < 1e-9, 'the ladder is stretched to the terminal level');
  // The preset knows its tokens, and FLUX.2's fit its steps.
  const flux2 = NoiseSchedule.preset('flux2-dev', { width: 512, height: 512, inferenceSteps: 10 });
  t.strictSame(flux2.withShift({ width: 1024, height: 1024 }).toJSON(), {
    ...NoiseSchedule.preset('flux2-dev', { width: 1024, height: 1024, inferenceSteps: 10 }).toJSON(),
  });

  const sd3 = NoiseSchedule.preset('sd3', { ladder: 'scheduler', inferenceSteps: 4 });
  const five = sd3.withShift({ shift: 5 });
  t.equal(five.shift, 5);
  t.match(five.toJSON(), { preset: 'sd3', shift: 5, config: { shift: 3 } });
  const again = NoiseSchedule.fromJSON(JSON.parse(JSON.stringify(five)));
  t.strictSame(
    again.samplerLadder(),
    five.samplerLadder(),
    'the lowest level keeps the shift of the config, as with set_shift',
  );
  t.strictSame(again.toJSON(), five.toJSON());
  t.equal(NoiseSchedule.flow({ shift: 2 }).withShift({ shift: 4 }).shift, 4);

  t.throws(() => base.withShift({ shift: 3 }), {
    code: 'ERR_SDPO_INVALID_OPTION',
    message: /options\.shift .*mu, imageSeqLen/,
  });
  t.throws(() => base.withShift({}), { code: 'ERR_SDPO_UNSUPPORTED_CONFIG' });
  t.throws(() => sd3.withShift({ mu: 1 }), { code: 'ERR_SDPO_INVALID_OPTION', message: /options\.mu/ });
  t.throws(() => sd3.withShift({}), { name: 'TypeError', message: /options\.shift/ });
  t.throws(() => sd3.withShift({ shift: 0 }), { name: 'RangeError', message: /options\.shift/ });
  t.throws(() => sd3.withShift({ k: 0 } as never), { code: 'ERR_SDPO_UNKNOWN_OPTION' });
  t.throws(() => NoiseSchedule.preset('sd15').withShift({ shift: 2 }), { code: 'ERR_SDPO_INVALID_OPTION' });
});

t.test('a batch of several resolutions: one schedule each, and their omegas per row', async (t) => {
  const schedule = NoiseSchedule.preset('flux-dev', { imageSeqLen: 1024 });
  const tokens = [256, 1024, 4096];
  const timesteps = [400, 600, 800];
  const omega = tokens.map((imageSeqLen, row) => schedule.withShift({ imageSeqLen }).transition(timesteps[row]).omega);
  const options = { objective: 'sdpo', beta: 10, maskThreshold: 0.1 } as const;
  const loss = new PreferenceLoss({ ...options, schedule });
  const branch = (scale: number) => ({
    policy: Float64Array.from({ length: 6 }, (_, i) => scale * Math.sin(i)),
    reference: Float64Array.from({ length: 6 }, (_, i) => Math.cos(i)),
    target: new Float64Array(6),
  });
  const batch = { timesteps, chosen: branch(0.3), rejected: branch(0.5) };
  const mixed = loss.evaluate({ ...batch, transition: { omega } });
  tokens.forEach((imageSeqLen, row) => {
    const own = new PreferenceLoss({ ...options, schedule: schedule.withShift({ imageSeqLen }) });
    t.equal(mixed.rows.logWeightChosen[row], own.evaluate(batch).rows.logWeightChosen[row]);
  });
  t.not(mixed.rows.logWeightChosen[0], loss.evaluate(batch).rows.logWeightChosen[0]);
});

t.test('presets with a shift of the resolution know the edge of a token', async (t) => {
  for (const name of NoiseSchedule.presets) {
    const preset: { config: Record<string, unknown>; pixelsPerToken?: number } = PRESETS[name];
    t.equal(preset.pixelsPerToken !== undefined, preset.config.use_dynamic_shifting === true, name);
  }
});
