"""Schedules: every preset and the fields of configs, as the TypeScript package answers them (schedule_reference.json is written by it)."""

import json
import math
import os
import pickle
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
