"""torch.compile: one graph without a break where custom operators exist (torch >= 2.4), the same numbers as without it."""

import unittest

import torch

import sdpo

from . import support


@unittest.skipIf(support.TORCH < (2, 4), "custom operators need torch >= 2.4")
class Compile(unittest.TestCase):
    def test_full_graph(self):
        for schedule in (support.flat_schedule(), sdpo.NoiseSchedule.preset("sd3"), sdpo.NoiseSchedule.preset("wan2.1-1.3b")):
            for device in support.DEVICES:
                loss_fn = sdpo.PreferenceLoss("sdpo", schedule, 5.0, kl_weight=0.1, mask_threshold=0.0)
                model = torch.nn.Linear(8, 8).to(device)

                def step(x0, x1, noise, timesteps):
                    chosen_target, rejected_target = (schedule.target(x, noise, timesteps) for x in (x0, x1))
                    out = loss_fn(
                        chosen=(model(x0), x1, chosen_target),
                        rejected=(model(x1), x0, rejected_target),
                        timesteps=timesteps,
                        row_weights=torch.ones_like(timesteps),
                    )
                    return out.loss, out.rows["logit"], out.metrics["implicit_accuracy"]

                compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
                for rows in (4, 3):
                    x0, x1, noise = (sdpo.noise(i, 0, torch.empty(rows, 3, 8, 8)).to(device) for i in range(3))
                    timesteps = torch.tensor([400, 600, 250, 800], device=device)[:rows]
                    results = []
                    for function in (step, compiled):
                        model.zero_grad()
                        out = function(x0, x1, noise, timesteps)
                        out[0].backward()
                        results.append([*(value.detach() for value in out), model.weight.grad.clone()])
                    for eager, graph in zip(*results):
                        self.assertTrue(torch.allclose(eager, graph, rtol=1e-6, atol=1e-9))

    def test_the_operators_pass_pytorchs_own_check(self):
        chosen, rejected, timesteps = support.batch(rows=2, shape=(3, 2))
        row_inputs = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 50.0)._row_inputs(
            {name: type("B", (), {"reference_error": None}) for name in ("chosen", "rejected")}, timesteps, None, None, None, None, 2, torch.device("cpu")
        )
        from sdpo._options import encode, resolve

        # With a safeguard, so that every output is a number: without, the cross moment is NaN, which the check takes for a difference.
        options = encode(resolve({"objective": "diffusion-dpo", "beta": 50.0, "safeguard": 0.5}), False)
        operands = (chosen[0], rejected[0], chosen[2], rejected[2], chosen[1], rejected[1], None)
        torch.library.opcheck(torch.ops.sdpo.objective.default, (row_inputs, options, 0.0, 0, True, *operands))


if __name__ == "__main__":
    unittest.main()
