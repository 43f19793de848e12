"""The two backends against each other over all objectives and options, and how one of them is chosen."""

import itertools
import unittest
import warnings

import torch

import sdpo
from sdpo import _backends, _torch
from sdpo._tables import LISTS, OPTIONS, TRAITS

from . import support

# Each changes what an objective does; those that do not concern one are left out for it.
VARIANTS = (
    {},
    {"timestep_weighting": "elbo", "log_ratio_reduction": "sum", "beta": 0.01},
    {"clip_range": 0.02, "mask_threshold": 0.5, "weight_sharpness": 4, "weight_exponent": -0.5},
    {"clip_range": (0.5, 3.0), "weight_gradient": True, "weight_ratio": "policy/reference", "pair_weight": "min", "mask_threshold": 0.0},
    {"weight_ratio": "reference/data", "weight_gradient": True, "pair_weight": "product", "clip_range": 0.9, "mask_threshold": 0.0},
    {"log_ratio_clip": (0.999, 1.002), "link": "hinge", "timestep_window": (300, 700)},
    {"link": "ipo", "sft_weight": 0.3, "sft_scope": "masked", "kl_weight": 0.1, "timestep_window": (0, 450)},
    {"label_smoothing": 0.1, "safeguard": 0.6, "kl_weight": 0.2, "kl_scope": "masked"},
    {"safeguard": 0.4, "safeguard_scope": "batch", "sft_weight": 0.1},
)


def used_by(objective, options):
    return {name: value for name, value in options.items() if objective in OPTIONS[name].get("users", (objective,))}


class Agreement(unittest.TestCase):
    def evaluate(self, loss_fn, chosen, rejected, **given):
        policies = [branch[0].detach().clone().requires_grad_() for branch in (chosen, rejected)]
        out = loss_fn(chosen=(policies[0], *chosen[1:]), rejected=(policies[1], *rejected[1:]), **given)
        (3 * out.loss).sum().backward()
        return out, [policy.grad for policy in policies]

    def compare(self, one, other, tolerance):
        for a, b in zip(one[1], other[1]):
            scale = max(b.abs().max().item(), 1e-300)
            self.assertLessEqual((a - b).abs().max().item(), tolerance * scale)
        for name, values in one[0].rows.items():
            self.assertTrue(torch.allclose(values, other[0].rows[name], rtol=tolerance, atol=1e-15, equal_nan=True), f"{name} {values} {other[0].rows[name]}")
        for name, value in one[0].metrics.items():
            self.assertTrue(torch.allclose(value, other[0].metrics[name], rtol=tolerance, atol=1e-15, equal_nan=True), name)

    def test_all_objectives_and_options(self):
        self.assertEqual(set(_torch.OBJECTIVES), set(LISTS["objectives"]))
        chosen, rejected, timesteps = support.batch(shape=(3, 4, 2), near=0.3)
        numbers = {"keep": [1, 1, 0, 1], "row_weights": [1.0, 0.5, 1.0, 2.0]}
        elements = sdpo.noise(5, 0, torch.empty(3, 4, 2, dtype=torch.float64)).abs()
        elements[0] = 0
        apart = {"chosen": elements, "rejected": elements.flip(0) + 0.5}
        seen = 0
        for objective, variant, weights in itertools.product(LISTS["objectives"], VARIANTS, (None, elements, apart)):
            options = used_by(objective, variant)
            if weights is apart:
                options = {name: value for name, value in options.items() if not name.startswith("safeguard")}
            if len(options) < len(variant):
                options.pop("weight_gradient", None)
            given = dict(numbers, timesteps=timesteps, element_weights=weights)
            if "margin" in TRAITS[objective]["rowInputs"]:
                given["margins"] = [0.1, -0.2, 0.0, 0.3]
            if "beta_scale_chosen" in TRAITS[objective]["rowInputs"]:
                given["beta_scale"] = {"chosen": [1.0, 0.5, 1.0, 2.0], "rejected": 1.5}
            if TRAITS[objective]["weights"] and options.get("weight_ratio") != "policy/reference":
                given["transition"] = {"offset_chosen": [0.01, 0.0, 0.02, 0.0]}
                if "weight_ratio" not in options:
                    given["weight_noise"] = {"chosen": [1.0, -1.0, 0.5, 0.0], "rejected": [0.0, 2.0, -0.5, 1.0]}
            with self.subTest(objective=objective, **options):
                results = [
                    self.evaluate(
                        sdpo.PreferenceLoss(objective, support.flat_schedule(), **{"beta": 20.0, **options}, backend=backend), chosen, rejected, **given
                    )
                    for backend in support.BACKENDS
                ]
                self.compare(*results, 1e-11)
                seen += 1
        self.assertGreater(seen, 100)

    def test_half_precision_and_reductions(self):
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            chosen, rejected, timesteps = support.batch(dtype=dtype, near=0.3)
            for reduction in ("mean", "sum", "none"):
                losses = [sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, backend=backend) for backend in support.BACKENDS]
                (native, grads), (plain, others) = (self.evaluate(loss_fn, chosen, rejected, timesteps=timesteps, reduction=reduction) for loss_fn in losses)
                self.assertTrue(torch.allclose(native.loss, plain.loss, rtol=support.FLOAT32_PARITY))
                for a, b in zip(grads, others):
                    self.assertEqual(a.dtype, dtype)
                    # Sums in another order, and then one rounding.
                    self.assertLess(support.relative_error(a, b), support.FLOAT32_PARITY + torch.finfo(dtype).eps)

    def test_non_finite_values(self):
        for kind, backend in itertools.product(("skip", "propagate", "throw"), support.BACKENDS):
            chosen, rejected, timesteps = support.batch()
            rejected[2][1, 0, 0, 5] = float("inf")
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, non_finite=kind, sft_weight=0.1, backend=backend)
            with self.subTest(kind=kind, backend=backend):
                if kind == "throw":
                    with self.assertRaises(sdpo.NonFiniteError) as caught:
                        loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps)
                    error = caught.exception
                    self.assertEqual((error.row, error.branch, error.tensor, error.element), (1, "rejected", "target", 5))
                    continue
                out, grads = self.evaluate(loss_fn, chosen, rejected, timesteps=timesteps)
                self.assertEqual(out.metrics["non_finite_rows"].item(), 1)
                self.assertEqual(out.rows["mask"].tolist(), [1, 0 if kind == "skip" else 1, 1, 1])
                self.assertEqual(bool(out.loss.isnan()), kind == "propagate")
                self.assertEqual(bool(torch.isnan(grads[0][1]).all()), kind == "propagate")
                self.assertTrue(bool(torch.isfinite(grads[0][0]).all()))

    def test_removed_rows_stay_removed(self):
        for backend in support.BACKENDS:
            chosen, rejected, timesteps = support.batch()
            clean = (chosen[0].detach().clone().requires_grad_(), *chosen[1:])
            chosen[0].data[1, 0, 0, 5] = float("nan")
            for kl_weight in (0, 0.1):
                loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, non_finite="propagate", kl_weight=kl_weight, backend=backend)
                with self.subTest(backend=backend, kl_weight=kl_weight):
                    out, grads = self.evaluate(loss_fn, chosen, rejected, timesteps=timesteps, keep=[1, 0, 1, 1])
                    self.assertEqual(out.metrics["non_finite_rows"].item(), 1)
                    self.assertEqual(bool(torch.isnan(grads[0][1]).all()), kl_weight != 0)
                    self.assertEqual(bool(torch.isnan(out.loss)), kl_weight != 0)
                    if kl_weight == 0:
                        expected = self.evaluate(loss_fn, clean, rejected, timesteps=timesteps, keep=[1, 0, 1, 1])
                        self.assertTrue(torch.equal(out.loss, expected[0].loss))
                        self.assertTrue(all(torch.equal(a, b) for a, b in zip(grads, expected[1])))

    def test_bad_element_weights(self):
        chosen, rejected, _ = support.batch(shape=(3,))
        for backend in support.BACKENDS:
            for weights in ([1.0, -1.0, 1.0], [0.0, 0.0, 0.0], [float("nan"), 1.0, 1.0]):
                bad = torch.tensor(weights, dtype=torch.float64)
                for given in (bad, (torch.ones_like(bad), bad), (bad, torch.ones_like(bad))):
                    with self.assertRaisesRegex(sdpo.SdpoError, "element_weights to be finite.* row 0") as caught:
                        sdpo.PreferenceLoss("diffusion-dpo", beta=1.0, backend=backend)(chosen=chosen, rejected=rejected, element_weights=given)
                    self.assertEqual(caught.exception.code, "ERR_SDPO_ELEMENT_WEIGHTS")

    def test_gradients_alone_divide_by_the_weights_given(self):
        chosen, rejected, _ = support.batch(shape=(6,))
        weights = {"chosen": torch.arange(6.0), "rejected": torch.tensor([2.0, 0.0, 1.0, 1.0, 0.0, 3.0])}
        plain = lambda branch: tuple(tensor.detach() for tensor in branch)
        for given in (weights, weights["chosen"]):
            found = []
            for backend in support.BACKENDS:
                loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, backend=backend)
                out, expected = self.evaluate(loss_fn, chosen, rejected, element_weights=given)
                found.append(loss_fn.gradients(chosen=plain(chosen), rejected=plain(rejected), coefficients=out.coefficients, element_weights=given))
                for branch, whole in zip(("chosen", "rejected"), expected):
                    self.assertTrue(torch.allclose(3 * found[-1][branch], whole, rtol=1e-12))
            for branch in ("chosen", "rejected"):
                self.assertTrue(torch.allclose(found[0][branch], found[1][branch], rtol=1e-12))


class Choice(unittest.TestCase):
    def test_without_a_library_plain_pytorch_computes_and_says_so_once(self):
        code = """
import warnings, torch, sdpo
from sdpo import _library
_library.candidates = lambda: [("nowhere", "/nonexistent/libsdpo.so")]
p, r, t = (torch.arange(6.0).reshape(2, 3) * scale for scale in (1.0, 0.9, 0.8))
p.requires_grad_()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        sdpo.PreferenceLoss("diffusion-dpo", beta=1.0)(chosen=(p, r, t), rejected=(r, p.detach(), t)).loss.backward()
    sdpo.NoiseSchedule.preset("sd15").add_noise(p.detach(), r, [1, 2])
messages = [str(each.message) for each in caught if "sdpo" in str(each.message)]
assert len(messages) == 1 and "/nonexistent/libsdpo.so" in messages[0], messages
assert p.grad.abs().sum() > 0
print(sdpo.default_threads() > 0)
try:
    sdpo.PreferenceLoss("diffusion-dpo", beta=1.0, backend="native")
except sdpo.SdpoError as error:
    print(error.code)
"""
        result = support.run_python(code, env={"SDPO_LIBRARY": ""})
        self.assertEqual(result.stdout.split(), ["True", "ERR_SDPO_NO_BINARY"], result.stderr)

    def test_devices_that_the_library_does_not_serve(self):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(2):
                self.assertIs(_backends.backend_for(torch.device("mps"), None), _torch)
        self.assertEqual(len([each for each in caught if "tensors on mps" in str(each.message)]), 1)
        with self.assertRaises(sdpo.SdpoError) as error:
            _backends.backend_for(torch.device("mps"), "native")
        self.assertEqual(error.exception.code, "ERR_SDPO_DEVICE")
        self.assertIs(_backends.backend_for(torch.device("cpu"), "torch"), _torch)


if __name__ == "__main__":
    unittest.main()
