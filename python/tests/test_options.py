"""Wrong options, arguments and values: one clear error each, with the same codes as the TypeScript package."""

import math
import unittest
from unittest import mock

import torch

import sdpo
from sdpo import _levels, _options
from sdpo._tables import TABLES

from . import support


def loss(**options):
    return sdpo.PreferenceLoss(**{"objective": "sdpo", "schedule": support.flat_schedule(), "beta": 500.0, **options})


class Options(unittest.TestCase):
    def check(self, code, text, **options):
        with self.assertRaises(sdpo.SdpoError) as caught:
            loss(**options)
        self.assertEqual(caught.exception.code, code)
        self.assertIn(text, str(caught.exception))
        return caught.exception

    def test_defaults_are_those_of_typescript(self):
        options = loss(objective="dpo-cm", beta=1).options
        for name, value in TABLES["options"]["defaults"].items():
            mine = getattr(options, support.snake(name))
            if name == "nonFinite":
                value = None  # decided by the device
            expected = tuple(value) if isinstance(value, list) else value
            self.assertEqual(mine, expected, name)
        self.assertEqual(len(_options.OPTION_NAMES), len(options.__dataclass_fields__), "every option of lib/ has its check here")

    def test_wrong_values(self):
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "Expected objective to be one of", objective=None)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", 'received "dpo"', objective="dpo")
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "Expected beta to be a finite number > 0, received None", beta=None)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "beta", beta=0)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "beta", beta=math.inf)
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "beta", beta=True)
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "schedule", schedule={"beta_start": 1})
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "(low, high) with low <= high", clip_range=(2, 1))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "clip_range", clip_range="0.1")
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "mask_threshold to be a number in [0, 1]", mask_threshold=1.1)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "label_smoothing", label_smoothing=0.6)
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "weight_gradient to be a boolean", weight_gradient=1)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "threads", threads=0)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "safeguard", safeguard=1.5)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "dmpo_alpha to be a number in (0, 1)", objective="dmpo", dmpo_alpha=1)
        self.assertIsInstance(self.check("ERR_SDPO_INVALID_ARG_VALUE", "link", link="relu"), ValueError)

    def test_unknown_and_unused_options(self):
        error = self.check("ERR_SDPO_UNKNOWN_OPTION", "did you mean 'clip_range'?", clipRange=0.1)
        self.assertIsInstance(error, TypeError)
        unused = {"clip_range": 0.2, "mask_threshold": 0.8, "weight_sharpness": 2, "weight_ratio": "policy/reference", "weight_gradient": True}
        for name, value in unused.items():
            self.check("ERR_SDPO_INVALID_OPTION", f"Expected {name} to be left at its default", objective="diffusion-dpo", **{name: value})
        self.check("ERR_SDPO_INVALID_OPTION", "pair_weight", objective="sdpo", pair_weight="min")
        self.check("ERR_SDPO_INVALID_OPTION", "link", objective="mapo", link="hinge")
        self.check("ERR_SDPO_INVALID_OPTION", "dmpo_alpha", objective="sdpo", dmpo_alpha=0.2)
        self.check("ERR_SDPO_INVALID_OPTION", "label_smoothing to be left at its default, since link 'hinge'", link="hinge", label_smoothing=0.1)
        loss(objective="diffusion-dpo", clip_range=0.1, mask_threshold=0.9)  # the defaults may be spelt out


class Batches(unittest.TestCase):
    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch()

    def check(self, code, text, options=None, **call):
        arguments = {"chosen": self.chosen, "rejected": self.rejected, "timesteps": self.timesteps, **call}
        with self.assertRaises(sdpo.SdpoError) as caught:
            loss(**(options or {}))(**arguments)
        self.assertEqual(caught.exception.code, code)
        self.assertIn(text, str(caught.exception))

    def branch(self, **fields):
        policy, reference, target = self.chosen
        return {"policy": policy, "reference": reference, "target": target, **fields}

    def test_tensors(self):
        policy, reference, target = self.chosen
        self.check("ERR_SDPO_INVALID_LENGTH", "(policy, reference, target)", chosen=(policy, target))
        self.check("ERR_SDPO_UNKNOWN_OPTION", "chosen to have only the fields", chosen=self.branch(references=reference))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "received both", chosen=self.branch(reference_error=[0.0] * 4))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "received neither", chosen={"policy": policy, "target": target})
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "chosen.policy", chosen=(policy.detach().numpy(), reference, target))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "chosen.target", chosen=(policy, reference, target.to(torch.int32)))
        # Equal counts in another shape, and shapes that would broadcast, are mistakes.
        self.check("ERR_SDPO_INVALID_LENGTH", "of shape [4, 3, 8, 8]", chosen=(policy, reference, target.reshape(4, 8, 3, 8)))
        self.check("ERR_SDPO_INVALID_LENGTH", "chosen.reference", chosen=(policy, reference[:1], target))
        self.check("ERR_SDPO_INVALID_LENGTH", "rejected.policy", rejected=tuple(tensor[:3] for tensor in self.rejected))
        self.check("ERR_SDPO_INVALID_LENGTH", "one or more elements", chosen=tuple(t[..., :0] for t in self.chosen))
        self.check("ERR_SDPO_INVALID_OPTION", "kl_weight needs the drift", {"kl_weight": 0.1}, chosen={"policy": policy, "target": target, "reference_error": [0.0] * 4})
        self.check("ERR_SDPO_INVALID_OPTION", "objective 'dspo' needs", {"objective": "dspo"}, chosen={"policy": policy, "target": target, "reference_error": [0.0] * 4})

    def test_scalars_of_rows(self):
        self.check("ERR_SDPO_INVALID_LENGTH", "timesteps to be of length 4", timesteps=self.timesteps[:3])
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "timesteps[1] to be an integer between 0 and 999, received 1000", timesteps=[1, 1000, 2, 3])
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "timesteps.rejected[0]", timesteps={"chosen": [1, 2, 3, 4], "rejected": [1.5, 2, 3, 4]})
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "750 becomes 752", timesteps=self.timesteps.to(torch.bfloat16))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "timesteps", timesteps=None)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "row_weights[2]", row_weights=[1, 1, -1, 1])
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "row_weights[0]", row_weights=torch.tensor([math.nan, 1, 1, 1]))
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "denominator", denominator=0)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "mask_threshold", mask_threshold=2)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "mask_threshold[3]", mask_threshold=[0, 0, 0, 2])
        self.check("ERR_SDPO_INVALID_OPTION", "mask_threshold to be left out", {"objective": "diffusion-dpo"}, mask_threshold=0.5)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "transition.omega[0]", transition={"omega": [-1, 0, 0, 0]})
        self.check("ERR_SDPO_UNKNOWN_OPTION", "transition", transition={"omegas": [0] * 4})
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "no schedule", {"schedule": None})
        self.check("ERR_SDPO_INVALID_OPTION", "transition.offset_chosen", {"weight_ratio": "policy/reference"}, transition={"offset_chosen": [0.1] * 4})
        self.check("ERR_SDPO_INVALID_OPTION", "weight_noise", {"weight_ratio": "reference/data"}, weight_noise={"chosen": [0] * 4, "rejected": [0] * 4})
        empty = tuple(tensor[:0] for tensor in self.chosen)
        self.check("ERR_SDPO_INVALID_LENGTH", "at least one row", chosen=empty, rejected=empty, timesteps=[])

    def test_entries_that_nobody_looked_at_show_as_nan(self):
        chosen, rejected, timesteps = support.batch()
        double = lambda *values: torch.tensor(values, dtype=torch.float64)
        cases = (
            ("diffusion-dpo", {"timesteps": torch.tensor([400, 1000, 250, 800])}),  # reads no omega
            ("sdpo", {"timesteps": torch.tensor([400, 1000, 250, 800]), "mask_threshold": double(0.0, 0.9, 0.0, 0.0)}),
            ("sdpo", {"mask_threshold": double(0.1, 1.5, 0.1, 0.1)}),
            ("sdpo", {"row_weights": double(1.0, -1.0, 1.0, 1.0)}),
        )
        # As on a device, where a look would wait.
        with mock.patch.object(_levels, "can_look", lambda tensor: False), mock.patch("sdpo.loss.can_look", lambda tensor: False):
            for objective, given in cases:
                out = loss(objective=objective, non_finite="propagate")(chosen=chosen, rejected=rejected, **{"timesteps": timesteps, **given})
                self.assertEqual(out.rows["loss"].isnan().tolist(), [False, True, False, False], (objective, list(given)))

    def test_element_weights(self):
        ones = torch.ones(3, 8, 8, dtype=torch.float64)
        self.check("ERR_SDPO_INVALID_LENGTH", "element_weights", element_weights=ones[:, :1])
        self.check("ERR_SDPO_ELEMENT_WEIGHTS", "element_weights", element_weights=-ones)
        self.check("ERR_SDPO_ELEMENT_WEIGHTS", "row 0", element_weights=0 * ones)

    def test_non_finite_values(self):
        policy, reference, target = self.chosen
        bad = target.clone()
        bad[2, 0, 1, 3] = math.nan
        arguments = {"chosen": (policy, reference, bad), "rejected": self.rejected, "timesteps": self.timesteps}
        with self.assertRaises(sdpo.NonFiniteError) as caught:
            loss()(**arguments)
        error = caught.exception
        self.assertEqual((error.row, error.branch, error.tensor, error.element, error.code), (2, "chosen", "target", 11, "ERR_SDPO_NON_FINITE"))
        skipped = loss(non_finite="skip")(**arguments)
        self.assertEqual(skipped.metrics["non_finite_rows"].item(), 1)
        skipped.loss.backward()
        self.assertTrue(bool(torch.isfinite(policy.grad).all()))
        self.assertTrue(loss(non_finite="propagate")(**arguments).loss.isnan().item())
        without = {"policy": policy, "target": target, "reference_error": [0.1, math.inf, 0.1, 0.1]}
        with self.assertRaises(sdpo.NonFiniteError) as caught:
            loss()(chosen=without, rejected=self.rejected, timesteps=self.timesteps)
        self.assertEqual((caught.exception.row, caught.exception.tensor), (1, "reference_error"))


if __name__ == "__main__":
    unittest.main()
