"""The drop-in proof: the plain step and the same step with sdpo give equal loss and gradient; the example scripts run."""

import contextlib
import dataclasses
import importlib.util
import io
import os
import re
import runpy
import sys
import types
import unittest
import unittest.mock

import torch

import sdpo

from . import support
from .test_distributed import launch_two

FOLDER = os.path.join(support.ROOT, "examples", "pytorch")
sys.path.insert(0, FOLDER)
from step import make_step, plain_step  # noqa: E402

SCRIPT = os.path.join(FOLDER, "finetune.py")
SHORT = ["--steps", "3", "--base-steps", "20", "--pairs", "6"]


class DropIn(unittest.TestCase):
    def stacked(self, dtype):
        target = sdpo.noise(0, 0, torch.empty(8, 4, 16, 16))
        reference = target + 0.5 * sdpo.noise(1, 0, torch.empty_like(target))
        policy = reference + 0.05 * sdpo.noise(2, 0, torch.empty_like(target))
        return [tensor.to(dtype) for tensor in (policy, reference, target)]

    def test_equal_loss_and_gradient(self):
        schedule = sdpo.NoiseSchedule.preset("sd15")
        timesteps = torch.tensor([120, 640, 300, 880])
        for dtype in (torch.float32, torch.bfloat16):
            with self.subTest(dtype=dtype):
                policy, reference, target = self.stacked(dtype)
                policy.requires_grad_()
                plain, plain_metrics = plain_step(policy, reference, target, beta=500.0)
                (plain_gradient,) = torch.autograd.grad(plain, policy)
                out = make_step("diffusion-dpo", 500.0, schedule)(policy, reference, target, timesteps)
                (gradient,) = torch.autograd.grad(out.loss, policy)
                # Nearly equal errors are subtracted in the plain step: its loss keeps fewer digits than float32 has.
                self.assertLess(support.relative_error(out.loss, plain), 10 * support.FLOAT32_PARITY)
                self.assertEqual(gradient.dtype, dtype)
                tolerance = torch.finfo(dtype).eps if dtype != torch.float32 else 0
                self.assertLess(support.relative_error(gradient, plain_gradient), 10 * support.FLOAT32_PARITY + tolerance)
                self.assertEqual(out.metrics["implicit_accuracy"].item(), plain_metrics["implicit_accuracy"].item())

    def test_parity_in_float64(self):
        # The plain step rounds to float32 by itself; in float64 the two are the same function.
        chosen, rejected, timesteps = support.batch(near=0.3)
        ours = make_step("diffusion-dpo", 500.0, support.flat_schedule())
        policy, reference, target = (torch.cat(pair) for pair in zip(chosen, rejected))
        plain = support.plain_loss(chosen, rejected, 0.0, "diffusion-dpo")
        self.assertLess(support.relative_error(ours(policy, reference, target, timesteps).loss, plain), support.GOLDEN_TOLERANCE)

    def test_another_objective_by_one_argument(self):
        policy, reference, target = self.stacked(torch.float32)
        policy.requires_grad_()
        schedule, timesteps = sdpo.NoiseSchedule.preset("sd15"), torch.tensor([10, 640, 300, 880])
        dpo, other = (make_step(objective, 500.0, schedule)(policy, reference, target, timesteps) for objective in ("diffusion-dpo", "sdpo"))
        self.assertEqual(dpo.rows["mask"].tolist(), [1, 1, 1, 1])
        self.assertEqual(other.rows["mask"].tolist(), [0, 1, 1, 1])  # little noise: the policy is not trusted there
        other.loss.backward()
        self.assertEqual(policy.grad[0].abs().sum().item(), 0)
        self.assertGreater(policy.grad[1].abs().sum().item(), 0)


class Scripts(unittest.TestCase):
    def run_here(self, *arguments):
        import finetune

        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            finetune.main([*SHORT, *arguments])
        return printed.getvalue()

    def test_plain_and_sdpo(self):
        accuracy = lambda text: text.split("implicit_accuracy ")[1].split()[0]
        plain, ours = self.run_here("--objective", "plain"), self.run_here("--objective", "diffusion-dpo")
        self.assertEqual(accuracy(plain), accuracy(ours), "the same training, step by step")
        self.assertIn("mask_fraction", self.run_here("--objective", "sdpo"))

    def test_two_ranks_train_as_one(self):
        alone = self.run_here("--objective", "sdpo")
        codes, output = launch_two([SCRIPT, *SHORT, "--distributed", "ddp"])
        self.assertEqual(codes, [0, 0], output)
        self.assertIn(alone.strip(), output)

    @support.needs_torch(2, 0)  # FSDP on the CPU
    def test_two_ranks_with_sharded_parameters(self):
        alone = self.run_here("--objective", "sdpo")
        codes, output = launch_two([SCRIPT, *SHORT, "--distributed", "fsdp"])
        self.assertEqual(codes, [0, 0], output)
        self.assertIn(alone.strip(), output)


def needs_packages(*names):
    """Left out where they are not installed; .ci/run installs them beside the newer torch."""
    return lambda test: test if all(importlib.util.find_spec(name) for name in names) else None


class Bridges(unittest.TestCase):
    @needs_packages("accelerate", "peft")
    def test_lora_in_two_processes_trains_as_in_one(self):
        import lora

        with contextlib.redirect_stdout(io.StringIO()) as printed:
            lora.main([])
        codes, output = launch_two([os.path.join(FOLDER, "lora.py")])
        self.assertEqual(codes, [0, 0], output)
        numbers = [re.findall(r"(?:loss|accuracy) ([0-9.]+)", text) for text in (printed.getvalue(), output)]
        self.assertEqual(len(numbers[0]), 4)
        for mine, theirs in zip(*numbers):
            self.assertAlmostEqual(float(mine), float(theirs), places=5)

    def test_verl_omni(self):
        """Against the interface of verl_omni/trainer/diffusion/diffusion_algos.py, and the formula of its own "dpo"."""
        registry = {}

        class DiffusionLossFn:
            required_model_output_keys = required_data_keys = ()

        algos = types.ModuleType("verl_omni.trainer.diffusion.diffusion_algos")
        algos.DiffusionLossFn = DiffusionLossFn
        algos.DiffusionLossResult = dataclasses.make_dataclass("DiffusionLossResult", ["loss", "metrics", ("add_loss_metric", bool, False)])
        algos.register_diffusion_loss = lambda name: lambda cls: registry.setdefault(name, cls()) and cls
        packages = {name: types.ModuleType(name) for name in ("verl_omni", "verl_omni.trainer", "verl_omni.trainer.diffusion")}
        with unittest.mock.patch.dict(sys.modules, {**packages, algos.__name__: algos}):
            runpy.run_path(os.path.join(FOLDER, "verl_omni_loss.py"))
        loss_fn = registry["sdpo_preference"]
        noise, latent, policy, reference = (sdpo.noise(i, 0, torch.empty(6, 4, 5)) for i in range(4))
        policy = (noise - latent + 0.1 * policy).requires_grad_()
        reference = noise - latent + 0.1 * reference
        model_output = {"noise": noise, "latent": latent, "noise_pred": policy}
        data = {"ref_noise_pred": reference, "sample_level_rewards": torch.tensor([[1.0], [0.0]] * 3)}
        self.assertTrue(set(loss_fn.required_model_output_keys) <= set(model_output) and set(loss_fn.required_data_keys) <= set(data))
        config = types.SimpleNamespace(diffusion_loss=types.SimpleNamespace(dpo_beta=100.0))
        result = loss_fn(config=config, model_output=model_output, data=data)
        errors = [((each - (noise - latent)) ** 2).flatten(1).mean(1) for each in (policy, reference)]
        gap = [each[0::2] - each[1::2] for each in errors]
        expected = -torch.nn.functional.logsigmoid(-50.0 * (gap[0] - gap[1])).mean()
        self.assertLess(support.relative_error(result.loss, expected), 10 * support.FLOAT32_PARITY)
        self.assertAlmostEqual(result.metrics["actor/dpo_loss"], expected.item(), places=5)
        mine, theirs = (torch.autograd.grad(loss, policy)[0] for loss in (result.loss, expected))
        self.assertLess(support.relative_error(mine, theirs), 10 * support.FLOAT32_PARITY)
        with self.assertRaises(ValueError):
            loss_fn(config=config, model_output=model_output, data={**data, "sample_level_rewards": torch.tensor([[0.0], [1.0]] * 3)})

    def test_fastvideo(self):
        """Against the interface of fastvideo/train/methods: prepare_batch, predict_noise, the three mappings of a step, the student's backward."""

        class Model:
            def __init__(self, weight, generator):
                self.transformer, self._trainable, self.generator = torch.nn.Parameter(torch.tensor(weight)), True, generator

            def prepare_batch(self, batch, *, current_vsa_sparsity, latents_source):
                latents = batch["latents"]  # [rows, frames, channels, height, width]
                noise = torch.randn(latents.shape, generator=self.generator())
                timesteps = torch.rand(len(latents), generator=self.generator()) * 900 + 50
                sigma = (timesteps / 1000).reshape(-1, 1, 1, 1, 1)
                swap = lambda x: x.permute(0, 2, 1, 3, 4)
                return types.SimpleNamespace(
                    latents=latents, noise=swap(noise), noisy_model_input=swap((1 - sigma) * latents + sigma * noise), timesteps=timesteps,
                    sigmas=sigma, attn_metadata="dense", attn_metadata_vsa="vsa",
                )  # fmt: skip

            def predict_noise(self, noisy, timesteps, batch, *, conditional, attn_kind):
                return noisy * self.transformer

            def backward(self, loss, context, *, grad_accum_rounds):
                (loss / grad_accum_rounds).backward()

        class FineTuneMethod:
            cuda_generator = torch.Generator().manual_seed(0)

            def __init__(self, *, cfg, role_models):
                self.student, self.method_config, self._attn_kind = role_models["student"], dict(cfg.method), "dense"

        finetune = types.ModuleType("fastvideo.train.methods.fine_tuning.finetune")
        finetune.FineTuneMethod = FineTuneMethod
        parents = ["fastvideo", "fastvideo.train", "fastvideo.train.methods", "fastvideo.train.methods.fine_tuning"]
        with unittest.mock.patch.dict(sys.modules, {**{name: types.ModuleType(name) for name in parents}, finetune.__name__: finetune}):
            method_class = runpy.run_path(os.path.join(FOLDER, "fastvideo_method.py"))["PreferenceMethod"]
        generator = lambda: FineTuneMethod.cuda_generator
        student, reference = Model(0.5, generator), Model(0.4, generator)
        cfg = types.SimpleNamespace(method={"_target_": "x", "objective": "sdpo", "beta": 5.0, "mask_threshold": 0.0})
        method = method_class(cfg=cfg, role_models={"student": student, "reference": reference})
        latents = [sdpo.noise(i, 0, torch.empty(2, 3, 4, 5, 6)) for i in range(2)]
        losses, outputs, metrics = method.single_train_step({"chosen": {"latents": latents[0]}, "rejected": {"latents": latents[1]}}, 1)
        self.assertEqual(set(metrics), {"implicit_accuracy", "reward_margin", "mask_fraction"})
        self.assertEqual(outputs["_fv_backward"][1], "dense")
        student.backward(losses["total_loss"], outputs["_fv_backward"], grad_accum_rounds=2)
        self.assertGreater(student.transformer.grad.abs().item(), 0)
        self.assertIsNone(reference.transformer.grad)
        with self.assertRaises(ValueError):
            method_class(cfg=cfg, role_models={"student": student})


if __name__ == "__main__":
    unittest.main()
