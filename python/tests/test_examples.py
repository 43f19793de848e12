"""The drop-in proof: the plain step and the same step with sdpo give equal loss and gradient; the example scripts run."""

import os
import subprocess
import sys
import unittest

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
    def run_script(self, *arguments):
        result = subprocess.run([sys.executable, SCRIPT, *SHORT, *arguments], capture_output=True, text=True, timeout=120)
        self.assertEqual(result.returncode, 0, result.stderr)
        return result.stdout

    def test_plain_and_sdpo(self):
        accuracy = lambda text: text.split("implicit_accuracy ")[1].split()[0]
        plain, ours = self.run_script("--objective", "plain"), self.run_script("--objective", "diffusion-dpo")
        self.assertEqual(accuracy(plain), accuracy(ours), "the same training, step by step")
        self.assertIn("mask_fraction", self.run_script("--objective", "sdpo"))

    def test_two_ranks_train_as_one(self):
        alone = self.run_script("--objective", "sdpo")
        codes, output = launch_two([SCRIPT, *SHORT, "--distributed", "ddp"])
        self.assertEqual(codes, [0, 0], output)
        self.assertIn(alone.strip(), output)

    @support.needs_torch(2, 0)  # FSDP on the CPU
    def test_two_ranks_with_sharded_parameters(self):
        alone = self.run_script("--objective", "sdpo")
        codes, output = launch_two([SCRIPT, *SHORT, "--distributed", "fsdp"])
        self.assertEqual(codes, [0, 0], output)
        self.assertIn(alone.strip(), output)


if __name__ == "__main__":
    unittest.main()
