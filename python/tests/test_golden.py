"""All golden cases, whole, stacked and cut into parts, by both backends: row statistics, loss, gradients and targets, at 1e-9 in float64."""

import unittest

import torch

import sdpo

from . import support


class Golden(unittest.TestCase):
    def close(self, name, actual, expected, size=1):
        support.assert_close(self, name, actual, expected, size)

    def cases(self, paths, backends=support.BACKENDS):
        for path in paths:
            name, schedule, options, timesteps, branches, expected, numbers, parts = support.load_golden(path)
            for device in support.DEVICES:
                for backend in backends:
                    loss_fn = sdpo.PreferenceLoss(schedule=schedule, backend=backend, **options)
                    tensors = {b: {n: branches[b][n].to(device, copy=True) for n in ("policy", "reference", "target")} for b in branches}
                    times = torch.tensor(timesteps, dtype=torch.float64, device=device)
                    yield self.subTest(name=name, device=device, backend=backend), loss_fn, tensors, times, expected, numbers, parts

    def check(self, out, gradients, expected, size):
        self.close("loss", out.loss, [expected["loss"]])
        self.assertEqual(set(out.rows), {support.snake(row) for row in expected["rows"]})
        for row, values in expected["rows"].items():
            self.close(row, out.rows[support.snake(row)], values, size)
        for branch, gradient in gradients.items():
            self.close(f"{branch} gradient", gradient, expected["gradients"][branch], size)

    def test_whole_rows(self):
        self.assertGreaterEqual(len(support.GOLDEN), 30)
        self.assertEqual(len(support.GOLDEN2), 36)
        for case, loss_fn, tensors, times, expected, numbers, _ in self.cases([*support.GOLDEN, *support.GOLDEN2]):
            with case:
                policy = {b: tensors[b]["policy"].requires_grad_() for b in tensors}
                out = loss_fn(**tensors, timesteps=times, **numbers)
                out.loss.backward()
                self.assertEqual(out.loss.dtype, torch.float64)
                self.check(out, {b: policy[b].grad for b in policy}, expected, policy["chosen"][0].numel())

    def test_stacked_rows(self):
        for case, loss_fn, tensors, times, expected, numbers, _ in self.cases(support.GOLDEN2):
            with case:
                pairs = {n: [tensors[b][n] for b in ("chosen", "rejected")] for n in ("policy", "reference", "target")}
                for layout in ("halves", "interleaved"):
                    join = torch.cat if layout == "halves" else (lambda pair: torch.stack(pair, 1).flatten(0, 1))
                    stacked = {n: join(pair) for n, pair in pairs.items()}
                    stacked["policy"].requires_grad_()
                    both = torch.cat([times, times]) if layout == "halves" else times.repeat_interleave(2)
                    out = loss_fn(**stacked, layout=layout, timesteps=both, **numbers)
                    out.backward()
                    grad = stacked["policy"].grad
                    parts = grad.chunk(2) if layout == "halves" else (grad[::2], grad[1::2])
                    self.check(out, dict(zip(("chosen", "rejected"), parts)), expected, grad[0].numel())

    def test_rows_cut_into_parts(self):
        for case, loss_fn, tensors, times, expected, numbers, sizes in self.cases(support.GOLDEN2):
            with case:
                cut = {b: {n: t.flatten(1).split(sizes, 1) for n, t in tensors[b].items()} for b in tensors}
                parts = [{b: {n: pieces[i] for n, pieces in cut[b].items()} for b in cut} for i in range(len(sizes))]
                moments = sdpo.combine_moments([loss_fn.moments(**part) for part in parts])
                out = loss_fn.objective(moments, timesteps=times, **numbers)
                pieces = [loss_fn.gradients(**part, coefficients=out.coefficients, elements=moments.elements) for part in parts]
                gradients = {b: torch.cat([piece[b] for piece in pieces], 1) for b in tensors}
                self.check(out, gradients, expected, sum(sizes))

    def test_targets_and_noised_samples(self):
        for path in support.GOLDEN:
            name, schedule, _, timesteps, branches, *_ = support.load_golden(path)
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
