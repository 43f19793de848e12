"""Schedules: every preset and the fields of configs, as the TypeScript package answers them (schedule_reference.json is written by it)."""

import collections
import json
import math
import os
import pickle
import tempfile
import types
import unittest

import torch

import sdpo

from . import support

REFERENCE = os.environ.get("SDPO_SCHEDULE_REFERENCE")


EPS = torch.finfo(torch.float64).eps


def close(actual, expected, tolerance):
    """Whether all of a list or tensor is within a relative tolerance (and as much of 1e-3), infinities in the same places."""
    actual, expected = torch.as_tensor(actual, dtype=torch.float64), torch.as_tensor(expected, dtype=torch.float64)
    infinite = torch.isinf(expected)
    if actual.shape != expected.shape or not torch.equal(torch.isinf(actual), infinite):
        return False
    difference = (actual - expected)[~infinite].abs()
    return bool((difference <= tolerance * (expected[~infinite].abs() + 1e-3)).all())


class Reference(unittest.TestCase):
    def test_the_same_numbers_as_typescript(self):
        if not REFERENCE:
            self.skipTest("SDPO_SCHEDULE_REFERENCE is not set; test/python.test.ts writes that file")
        with open(REFERENCE, encoding="utf-8") as file:
            cases = json.load(file)
        self.assertGreater(len(cases), 200)
        for case in cases:
            record = case["record"]
            with self.subTest(record={**record, "config": record.get("config", {}).get("_class_name")}):
                schedule = sdpo.NoiseSchedule.from_json(record)
                times = torch.tensor(case["timesteps"], dtype=torch.float64)
                omega = [float("inf") if value == "Infinity" else value for value in case["omega"]]
                # The same operations in the same order; libm's sin, exp, log and pow may differ in the last place, which a difference of two
                # levels magnifies.
                for name, actual, expected, tolerance in (
                    ("signal", schedule.signal(times), case["signal"], 64 * EPS),
                    ("sigma", schedule.sigma(times), case["sigma"], 64 * EPS),
                    ("omega", schedule.omegas(times), omega, 1e-11),
                    ("previous", [schedule.transition(t).previous for t in case["timesteps"]], case["previous"], 1e-12),
                    *((f"ladder {i}", values, case["ladder"][i], 1e-12) for i, values in enumerate(schedule.sampler_ladder())),
                ):
                    self.assertTrue(close(actual, expected, tolerance), f"{name}: {actual}, not {expected}")
                written = schedule.to_json()
                self.assertAlmostEqual(written["shift"] / record["shift"], 1, delta=4 * EPS)
                self.assertEqual({**written, "shift": record["shift"]}, record)
                self.assertEqual(pickle.loads(pickle.dumps(schedule)).to_json(), written)

    def test_the_same_numbers_as_diffusers(self):
        path = os.environ.get("SDPO_DIFFUSERS_REFERENCE", os.path.join(os.path.dirname(__file__), "../../test/schedule/diffusers.json"))
        if not os.path.exists(path):
            self.skipTest("test/schedule/diffusers.json is not part of this installation")
        with open(path, encoding="utf-8") as file:
            reference = json.load(file)
        names = {"inferenceSteps": "inference_steps"}
        for case in reference["cases"]:
            with self.subTest(case["name"]):
                options = {names.get(name, name): value for name, value in case["options"].items()}
                schedule = sdpo.NoiseSchedule.from_diffusers(case["config"], **options)
                if "levels" in case:
                    t, a, s = torch.tensor(case["levels"], dtype=torch.float64).T
                    self.assertTrue(close(schedule.signal(t), a, 1e-6) and close(schedule.sigma(t), s, 1e-6))
                ladder = schedule.sampler_ladder()
                levels = ladder.sigma if schedule.family == "flow" else ladder.sigma / ladder.signal
                self.assertTrue(close(levels, [float("inf") if x is None else x for x in case["ladder"]], 1e-6))
                if case.get("omega"):
                    t, omega = zip(*case["omega"])
                    self.assertTrue(close(schedule.omegas(t), [float("inf") if x is None else x for x in omega], 1e-6))
        for size in reference["resolutions"]:
            if size.get("empirical"):
                made = sdpo.NoiseSchedule.preset("flux2-dev", size["steps"], image_seq_len=size["tokens"])
            else:
                names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
                config = {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True, **dict(zip(names, size["line"]))}
                made = sdpo.NoiseSchedule.from_diffusers(config, image_seq_len=size["tokens"])
            self.assertAlmostEqual(made.to_json()["mu"], size["mu"], delta=1e-12)
            self.assertAlmostEqual(made.shift, math.exp(size["mu"]), delta=1e-11)


class Sources(unittest.TestCase):
    def check(self, code, text, *arguments, **options):
        with self.assertRaises(sdpo.SdpoError) as caught:
            sdpo.NoiseSchedule.from_diffusers(*arguments, **options)
        self.assertEqual(caught.exception.code, code)
        self.assertIn(text, str(caught.exception))

    def test_scheduler_objects(self):
        config = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012, "prediction_type": "epsilon"}
        expected = sdpo.NoiseSchedule.from_diffusers({**config, "_class_name": "DDPMScheduler"})
        # diffusers keeps no class name in the config of an object that was constructed directly; the object's own class counts.
        made = type("DDPMScheduler", (), {"config": config})()
        switched = type("DDPMScheduler", (), {"config": {**config, "_class_name": "PNDMScheduler"}})()
        wrapped = types.SimpleNamespace(config={**config, "_class_name": "DDPMScheduler"})
        for source in (made, switched, wrapped):
            self.assertEqual(sdpo.NoiseSchedule.from_diffusers(source).to_json(), expected.to_json())

    def test_fields(self):
        ddpm = {"_class_name": "DDPMScheduler"}
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "scheduler_or_config", None)
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "config._class_name", {"_class_name": "EDMEulerScheduler"})
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "ignore=['clip_sample']", {**ddpm, "clip_sample": True})
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "influence on DDPMScheduler is not known", {**ddpm, "new_field": 1})
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "use_flow_sigmas", {**ddpm, "use_flow_sigmas": True})
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "clip_sample", {**ddpm, "clip_sample": 0})  # false is not 0
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "prediction_type", ddpm, prediction_type="flow_prediction")
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "inference_steps", ddpm, inference_steps=1001)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "eta", ddpm, eta=0)
        self.check("ERR_SDPO_INVALID_LENGTH", "num_train_timesteps", {**ddpm, "trained_betas": [0.1, 0.2], "num_train_timesteps": 3})
        sdpo.NoiseSchedule.from_diffusers({**ddpm, "clip_sample": True, "clip_sample_range": 2}, ignore=["clip_sample"])
        betas = sdpo.NoiseSchedule.from_diffusers({**ddpm, "trained_betas": torch.tensor([0.1, 0.2])})
        self.assertEqual((betas.train_steps, betas.inference_steps), (2, 2))

    def test_what_a_scheduler_holds_wins_over_its_config(self):
        latent = {"num_train_timesteps": 1000, "beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}

        def scheduler(name, config, **held):
            return type(name, (), {"config": config, **held})()

        flow = scheduler("FlowMatchEulerDiscreteScheduler", {"num_train_timesteps": 1000, "shift": 1.0}, shift=7.0)
        schedule = sdpo.NoiseSchedule.from_diffusers(flow, ladder="scheduler")
        self.assertEqual((schedule.shift, schedule.to_json()["config"]["shift"]), (7.0, 1.0))
        # The class goes on from the lowest level of the shift that its config had.
        self.assertAlmostEqual(schedule.sampler_ladder().sigma[-2].item(), 7e-3 / (1 + 6e-3), delta=1e-15)
        again = sdpo.NoiseSchedule.from_json(schedule.to_json())
        self.assertTrue(torch.equal(again.sampler_ladder().sigma, schedule.sampler_ladder().sigma))
        dynamic = scheduler("FlowMatchEulerDiscreteScheduler", {"use_dynamic_shifting": True, "shift": 1.0}, shift=3.0)
        self.assertAlmostEqual(sdpo.NoiseSchedule.from_diffusers(dynamic, mu=0.5).shift, math.exp(0.5))

        betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2  # float32, as diffusers has them
        product = torch.cumprod(1 - betas, 0)
        plain = sdpo.NoiseSchedule.from_diffusers({**latent, "_class_name": "DDIMScheduler"})
        for held in ({"alphas_cumprod": product, "betas": betas}, {"alphas_cumprod": product}, {"betas": betas}, {"betas": betas.tolist()}):
            same = sdpo.NoiseSchedule.from_diffusers(scheduler("DDIMScheduler", latent, final_alpha_cumprod=torch.tensor(1.0), **held))
            self.assertEqual(same.to_json(), plain.to_json())

        # Zero terminal SNR as training scripts patch it in.
        root = product.double().sqrt()
        patched = ((root - root[-1]) * root[0] / (root[0] - root[-1])) ** 2
        zero = 1 - torch.cat([patched[:1], patched[1:] / patched[:-1]])
        expected = sdpo.NoiseSchedule.from_diffusers({**latent, "_class_name": "DDIMScheduler", "rescale_betas_zero_snr": True})
        t = torch.arange(0, 999, 7)
        for held in ({"alphas_cumprod": patched, "betas": zero}, {"alphas_cumprod": patched, "betas": betas}, {"betas": zero}):
            made = sdpo.NoiseSchedule.from_diffusers(scheduler("DDIMScheduler", latent, **held), prediction_type="v_prediction")
            self.assertEqual(made.signal(999), 0)
            self.assertTrue(close(made.signal(t), expected.signal(t), 1e-4))
            self.assertTrue(torch.equal(sdpo.NoiseSchedule.from_json(made.to_json()).omegas(t), made.omegas(t)))
        shifted = {**latent, "snr_shift_scale": 3.0, "rescale_betas_zero_snr": True}
        cog = sdpo.NoiseSchedule.from_diffusers({**shifted, "_class_name": "CogVideoXDDIMScheduler"}, prediction_type="v_prediction")
        own = scheduler("CogVideoXDDIMScheduler", shifted, alphas_cumprod=cog.signal(torch.arange(1000)) ** 2, betas=betas)
        self.assertEqual(sdpo.NoiseSchedule.from_diffusers(own, prediction_type="v_prediction").to_json(), cog.to_json())
        other = scheduler("CogVideoXDDIMScheduler", shifted, alphas_cumprod=product, betas=betas)
        self.assertTrue(close(sdpo.NoiseSchedule.from_diffusers(other).signal(t), product.double().sqrt()[t], 1e-12))

        with self.assertRaisesRegex(sdpo.SdpoError, "scheduler.betas .*set alphas_cumprod"):
            sdpo.NoiseSchedule.from_diffusers(scheduler("DDIMScheduler", latent, alphas_cumprod=product, betas=zero))
        with self.assertRaisesRegex(sdpo.SdpoError, "scheduler.final_alpha_cumprod"):
            held = {"alphas_cumprod": product, "final_alpha_cumprod": torch.tensor(0.9995)}
            sdpo.NoiseSchedule.from_diffusers(scheduler("DDIMScheduler", latent, **held))
        held = {"alphas_cumprod": product, "final_alpha_cumprod": product[0]}
        self.assertFalse(sdpo.NoiseSchedule.from_diffusers(scheduler("DDIMScheduler", latent, **held)).to_json()["config"]["set_alpha_to_one"])
        self.assertEqual(sdpo.NoiseSchedule.from_diffusers(scheduler("DDPMScheduler", latent, variance_type="fixed_large")).variance, "forward")

        # set_timesteps(mu=…) of a solver changes an attribute of its config.
        config = collections.OrderedDict(use_flow_sigmas=True, prediction_type="flow_prediction", flow_shift=3.0, use_dynamic_shifting=True)
        config.flow_shift = 2.5
        self.assertEqual(sdpo.NoiseSchedule.from_diffusers(scheduler("DPMSolverMultistepScheduler", config)).shift, 2.5)

    def test_files(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "scheduler_config.json")

            def write(text, encoding="utf-8"):
                with open(path, "w", encoding=encoding) as file:
                    file.write(text)
                return path

            solver = '{"_class_name": "DPMSolverMultistepScheduler", "lambda_min_clipped": -Infinity, "sample_max_value": NaN}'
            plain = sdpo.NoiseSchedule.from_diffusers({"_class_name": "DPMSolverMultistepScheduler"})
            for encoding in ("utf-8", "utf-8-sig"):
                made = sdpo.NoiseSchedule.from_file(write(solver, encoding), inference_steps=50)
                self.assertEqual(made.to_json(), plain.to_json())
            for text, message in (
                ("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 3\n", "git LFS pointer"),
                ('{"_class_name": "DDPMScheduler" // the class\n}', "JSON with comments"),
                ("<!DOCTYPE html><html>", "page of markup"),
                ("", "an empty file"),
                ("[1]", "JSON object"),
                ('{"a": }', "readable JSON"),
            ):
                with self.assertRaisesRegex(sdpo.SdpoError, message) as caught:
                    sdpo.NoiseSchedule.from_file(write(text))
                self.assertEqual(caught.exception.code, "ERR_SDPO_CONFIG")
            with self.assertRaisesRegex(sdpo.SdpoError, "no such file"):
                sdpo.NoiseSchedule.from_file(os.path.join(folder, "none.json"))

    def test_shifts_of_a_resolution(self):
        flux = sdpo.NoiseSchedule.preset("flux-dev", 28, width=1024, height=1024)
        self.assertAlmostEqual(flux.to_json()["mu"], 1.15)
        same = [flux.with_shift(mu=1.15), flux.with_shift(image_seq_len=4096), flux.with_shift(width=2048, height=512, pixels_per_token=16)]
        self.assertTrue(all(abs(schedule.shift - flux.shift) < 1e-12 for schedule in same))
        small = flux.with_shift(image_seq_len=256)
        t = torch.tensor([250.0, 600.0, 900.0])
        self.assertTrue(torch.equal(small.sigma(t), flux.sigma(t)))
        self.assertFalse(torch.equal(small.omegas(t), flux.omegas(t)))
        self.check("ERR_SDPO_UNSUPPORTED_CONFIG", "image_seq_len", {"_class_name": "FlowMatchEulerDiscreteScheduler", "use_dynamic_shifting": True})
        for options in (dict(mu=1.0, image_seq_len=4096), dict(frames=2), dict(width=1024), dict(image_seq_len=0), dict(shift=3.0), dict()):
            with self.assertRaises(sdpo.SdpoError):
                flux.with_shift(**options)
        static = sdpo.NoiseSchedule.preset("sd3")
        self.assertEqual(static.with_shift(5.0).shift, 5.0)
        self.assertEqual(sdpo.NoiseSchedule.from_json(static.with_shift(5.0).to_json()).shift, 5.0)
        for make in (lambda: static.with_shift(mu=1.0), lambda: support.flat_schedule().with_shift(2.0)):
            with self.assertRaises(ValueError):
                make()
        self.assertIn("qwen-image", sdpo.NoiseSchedule.presets)

    def test_inverted_flows(self):
        mochi = sdpo.NoiseSchedule.preset("mochi")
        self.assertEqual((mochi.sigma(100.0), mochi.signal(0.0), mochi.inverted), (0.9, 0.0, True))
        x0, noise = torch.ones(2, 3), torch.full((2, 3), 3.0)
        self.assertTrue(torch.equal(mochi.target(x0, noise, [0.0, 500.0]), x0 - noise))
        self.assertTrue(torch.allclose(mochi.add_noise(x0, noise, [0.0, 750.0]), torch.tensor([[3.0] * 3, [1.5] * 3])))
        self.assertEqual(mochi.transition(999.9).previous, 1000.0)
        draws = mochi.sample_timesteps(2000, range=(0, 200))
        self.assertTrue(0 <= draws.min() and draws.max() <= 200)
        with self.assertRaises(ValueError):
            mochi.omegas([1000.0])

    def test_densities_and_fixed_lists(self):
        vp, flow = support.flat_schedule(), sdpo.NoiseSchedule.flow()
        generator = torch.Generator().manual_seed(3)
        # Distribution functions of the three, at the quarter points.
        cosmap = flow.sample_timesteps(40001, "cosmap", generator=generator) / 1000
        for x in (0.25, 0.5, 0.75):
            self.assertAlmostEqual((cosmap <= x).double().mean().item(), 2 / math.pi * math.atan(x / (1 - x)), delta=0.015)
        mode = flow.sample_timesteps(40001, "mode", mode_scale=0.8, generator=generator) / 1000
        u = torch.linspace(0, 1, 100001, dtype=torch.float64)
        image = 1 - u - 0.8 * (torch.cos(math.pi / 2 * u) ** 2 - 1 + u)
        for x in (0.25, 0.5, 0.75):
            self.assertAlmostEqual((mode <= x).double().mean().item(), (image <= x).double().mean().item(), delta=0.015)

        steps = [999, 749, 499, 249]
        drawn = vp.sample_timesteps(6, steps=steps, order="round-robin", first=3)
        self.assertEqual((drawn.dtype, drawn.tolist()), (torch.int64, [249, 999, 749, 499, 249, 999]))
        self.assertEqual(set(vp.sample_timesteps(200, steps=steps, generator=generator).tolist()), set(steps))
        self.assertEqual(flow.sample_timesteps(2, steps=[1000.0, 933.3], order="round-robin").dtype, torch.float64)
        for arguments in (
            dict(steps=[1000]),
            dict(steps=[]),
            dict(steps=[1], distribution="cosmap"),
            dict(steps=[1], first=2),
            dict(order="random"),
            dict(steps=[1], order="sorted"),
            dict(distribution="mode", mode_scale=2.0),
            dict(mode_scale=1.0),
            dict(distribution="cosmap", mean=1.0),
        ):
            with self.assertRaises(ValueError):
                vp.sample_timesteps(3, **arguments)

    def test_ladders(self):
        sd35 = sdpo.NoiseSchedule.preset("sd35", 4)
        self.assertEqual(sd35.ladder, "scheduler")
        turbo = sdpo.NoiseSchedule.preset("sdxl-turbo", 4)
        self.assertEqual(turbo.sampler_ladder().timesteps.tolist(), [999, 749, 499, 249, -1])
        listed = sdpo.NoiseSchedule.preset("sdxl", ladder=[999, 749, 499, 249])
        self.assertTrue(close(listed.omegas([999, 749, 499]), turbo.omegas([999, 749, 499]), 1e-12))
        self.assertEqual((listed.inference_steps, listed.transition(249).omega), (4, math.inf))
        for arguments in (dict(ladder=[1, 2]), dict(ladder=[]), dict(ladder="linear-quadratic"), dict(ladder=[5], inference_steps=2), dict(variance="other")):
            with self.assertRaises(ValueError):
                sdpo.NoiseSchedule.preset("sdxl", **arguments)
        with self.assertRaises(ValueError):
            sdpo.NoiseSchedule.flow(ladder="scheduler")
        with self.assertRaises(ValueError):
            sdpo.NoiseSchedule.flow(variance="fresh", eta=0.5)

    def test_timesteps(self):
        schedule = support.flat_schedule()
        for bad in (-1, 1000, 1.5, float("nan")):
            with self.assertRaises(ValueError):
                schedule.omegas([bad] if bad == bad else [float("nan")])
        with self.assertRaises(TypeError):
            schedule.transition("5")
        with self.assertRaises(ValueError):
            sdpo.NoiseSchedule.preset("sd3").omegas([0.0])

    def test_sampled_timesteps_stay_in_range(self):
        generator = torch.Generator().manual_seed(1)
        vp, flow = support.flat_schedule(), sdpo.NoiseSchedule.preset("wan2.1-14b-720p")
        draws = vp.sample_timesteps(4000, generator=generator)
        self.assertEqual(draws.dtype, torch.int64)
        self.assertTrue(0 <= draws.min() < 10 and 990 < draws.max() <= 999)
        self.assertTrue(bool((vp.sample_timesteps(100, range=(7, 7)) == 7).all()))
        draws = flow.sample_timesteps(4000, "logit-normal", range=(100, 900), generator=generator)
        self.assertTrue(100 <= draws.min() and draws.max() <= 900)
        # Drawn in the unshifted time: with shift 5 the median of a uniform draw is 5/6 of T.
        self.assertAlmostEqual(flow.sample_timesteps(20001, generator=generator).median().item() / 1000, 5 / 6, places=1)
        for arguments in (dict(mean=1), dict(range=(5, 1)), dict(range=(0, 1000)), dict(range=(0.5, 3))):
            with self.assertRaises(ValueError):
                vp.sample_timesteps(3, **arguments)

    def test_add_noise_keeps_kind_and_layout(self):
        schedule = sdpo.NoiseSchedule.preset("sd3")
        for device in support.DEVICES:
            for dtype in (torch.bfloat16, torch.float16, torch.float32):
                x0 = torch.randn(3, 4, 8, 8).to(dtype).to(device).to(memory_format=torch.channels_last)
                noised = schedule.add_noise(x0, torch.randn_like(x0), [100.0, 500.0, 1000.0])
                self.assertEqual((noised.dtype, noised.shape, noised.stride(), noised.device), (x0.dtype, x0.shape, x0.stride(), x0.device))
        with self.assertRaises(TypeError):
            schedule.add_noise(x0, x0.double(), [1.0, 2.0, 3.0])
        with self.assertRaises(ValueError):
            schedule.add_noise(x0, x0, [1.0, 2.0])

    def test_noise_streams(self):
        whole = sdpo.noise(7, 0, torch.empty(1000, dtype=torch.float64))
        self.assertTrue(torch.equal(sdpo.noise(7, 333, torch.empty(100, dtype=torch.float64)), whole[333:433]))
        self.assertLess(abs(whole.mean().item()), 0.2)
        self.assertFalse(torch.equal(whole, sdpo.noise(8, 0, torch.empty(1000, dtype=torch.float64))))


if __name__ == "__main__":
    unittest.main()
