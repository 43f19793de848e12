"""All golden cases: row statistics, loss, both gradients and the schedules' targets, at 1e-9 in float64."""

import unittest

import torch

import sdpo

from . import support


class Golden(unittest.TestCase):
    def close(self, name, actual, expected, size=1):
        expected = torch.as_tensor(expected, dtype=torch.float64).reshape(-1)
        actual = actual.detach().cpu().double().reshape(-1)
        finite = torch.isfinite(expected)
        special = torch.where(torch.isnan(expected), torch.isnan(actual), actual == expected)
        self.assertTrue(bool((finite | special).all()), f"{name}: {actual} is not {expected}")
        if bool(finite.any()):
            # Where the exact value is 0 the files hold the rounding residue of numbers of unit size.
            scale = expected[finite].abs().max()
            bound = support.GOLDEN_TOLERANCE * expected[finite].abs() + size * torch.finfo(torch.float64).eps * scale
            self.assertTrue(bool(((actual[finite] - expected[finite]).abs() <= bound).all()), f"{name}: {actual} is not {expected}")

    def test_cases(self):
        self.assertGreaterEqual(len(support.GOLDEN), 30)
        for path in support.GOLDEN:
            for device in support.DEVICES:
                name, schedule, options, timesteps, branches, expected = support.load_golden(path)
                with self.subTest(name=name, device=device):
                    size = branches["chosen"]["policy"][0].numel()
                    loss_fn = sdpo.PreferenceLoss(schedule=schedule, **options)
                    policy = {b: branches[b]["policy"].to(device).requires_grad_() for b in branches}
                    rest = {b: [branches[b][n].to(device) for n in ("reference", "target")] for b in branches}
                    out = loss_fn(
                        chosen=(policy["chosen"], *rest["chosen"]),
                        rejected=(policy["rejected"], *rest["rejected"]),
                        timesteps=torch.tensor(timesteps, dtype=torch.float64, device=device),
                    )
                    out.loss.backward()
                    self.assertEqual(out.loss.dtype, torch.float64)
                    self.close("loss", out.loss, [expected["loss"]])
                    self.assertEqual(set(out.rows), {support.snake(row) for row in expected["rows"]})
                    for row, values in expected["rows"].items():
                        self.close(row, out.rows[support.snake(row)], values, size)
                    for branch in branches:
                        self.close(f"{branch} gradient", policy[branch].grad, expected["gradients"][branch], size)

    def test_targets_and_noised_samples(self):
        for path in support.GOLDEN:
            name, schedule, _, timesteps, branches, _ = support.load_golden(path)
            with self.subTest(name=name):
                for branch in branches.values():
                    self.close("target", schedule.target(branch["x0"], branch["noise"], timesteps), branch["target"].reshape(-1), 1)
                    signal = torch.tensor([schedule.signal(t) for t in timesteps], dtype=torch.float64)
                    sigma = torch.tensor([schedule.sigma(t) for t in timesteps], dtype=torch.float64)
                    per_row = (-1,) + (1,) * (branch["x0"].dim() - 1)
                    noised = signal.reshape(per_row) * branch["x0"] + sigma.reshape(per_row) * branch["noise"]
                    self.close("noised", schedule.add_noise(branch["x0"], branch["noise"], timesteps), noised.reshape(-1), 1)


if __name__ == "__main__":
    unittest.main()
