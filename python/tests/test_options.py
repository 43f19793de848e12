"""Wrong options, arguments and values: one clear error each, with the same codes as the TypeScript package."""

import dataclasses
import inspect
import math
import typing
import unittest

import torch

import sdpo
from sdpo import _native, _options
from sdpo._tables import OPTIONS

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

    def test_the_signature_is_the_table(self):
        parameters = inspect.signature(sdpo.PreferenceLoss.__init__).parameters
        named = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
        self.assertEqual(set(named) - {"self", "schedule", "backend"}, set(OPTIONS))
        self.assertIs(typing.get_type_hints(sdpo.PreferenceLoss.__init__)["unknown"], typing.NoReturn)  # no argument has this type
        self.assertEqual(set(_options.OPTION_NAMES), {field.name for field in dataclasses.fields(_options.ResolvedOptions)})
        for name in named[1:]:
            self.assertIn(name, sdpo.PreferenceLoss.__doc__)

    def test_defaults_are_those_of_typescript(self):
        for name, row in OPTIONS.items():
            # With the first objective that uses it; given its default, an option changes nothing.
            objective = row.get("users", ["sdpo"])[0]
            base = {"objective": objective, "beta": 1.0, "schedule": None}
            value = row.get("default")
            if row.get("required") or value is None or row.get("dependent") or name == "non_finite":
                continue
            spelt = sdpo.PreferenceLoss(**base, **{name: value})
            self.assertEqual(spelt._encoded, sdpo.PreferenceLoss(**base)._encoded, name)
        self.assertEqual(loss(objective="dpo-cm").options.pair_weight, "geometric")
        self.assertIsNone(loss().options.pair_weight)
        self.assertEqual(loss(objective="mapo").options.mapo_steps, 1000)
        self.assertEqual(loss(objective="mapo", schedule=sdpo.NoiseSchedule.flow(train_steps=7)).options.mapo_steps, 7)

    def test_every_option_reaches_the_library(self):
        other = {"enum": lambda row: row["values"][-1], "boolean": lambda row: True, "range": lambda row: (0.25, 3.0), "interval": lambda row: (1, 2)}
        for name, row in OPTIONS.items():
            if "crosses" in row:
                continue
            objective = row.get("users", ["sdpo"])[0]
            value = other.get(row["type"], lambda row: 0.0625)(row)
            base = {"objective": objective, "beta": 1.0}
            changed = sdpo.PreferenceLoss(**{**base, name: value})._encoded[True]
            plain = sdpo.PreferenceLoss(**base)._encoded[True]
            self.assertNotEqual(changed, plain, name)
            native = _native._options(changed)
            for field, number in zip([field for field, _ in native._fields_[1:]], changed):
                self.assertEqual(getattr(native, field), number, field)

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
        self.check("ERR_SDPO_INVALID_OPTION", "pair_weight", objective="diffusion-dpo", pair_weight="min")
        self.check("ERR_SDPO_INVALID_OPTION", "linear_floor", objective="sdpo", linear_floor=0.1)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "linear_floor to be a number in [0, 0.5)", objective="linear-dpo", linear_floor=0.5)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "timestep_window", timestep_window=(5, 1))
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "timestep_window to be (low, high) of finite numbers", timestep_window=5)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "backend to be one of 'native', 'torch'", backend="cuda")
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
        self.check(
            "ERR_SDPO_INVALID_OPTION",
            "kl_weight needs the drift",
            {"kl_weight": 0.1},
            chosen={"policy": policy, "target": target, "reference_error": [0.0] * 4},
        )
        self.check(
            "ERR_SDPO_INVALID_OPTION",
            "objective 'dspo' needs",
            {"objective": "dspo"},
            chosen={"policy": policy, "target": target, "reference_error": [0.0] * 4},
        )

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
        self.check("ERR_SDPO_INVALID_OPTION", "margins to be left out", {"objective": "mapo"}, margins=[0.0] * 4)
        self.check("ERR_SDPO_INVALID_OPTION", "beta_scale to be left out", {"objective": "mapo"}, beta_scale=[1.0] * 4)
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "beta_scale.rejected[2]", beta_scale={"chosen": 1.0, "rejected": [1, 1, -1, 1]})
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "margins[1]", margins=[0, math.inf, 0, 0])
        self.check("ERR_SDPO_INVALID_LENGTH", "keep to be of length 4", keep=[True])
        flow = {"schedule": sdpo.NoiseSchedule.preset("sd3")}
        self.check("ERR_SDPO_INVALID_ARG_VALUE", "multiply them by 1000", flow, timesteps=[0.1, 0.5, 0.9, 1.0])
        empty = tuple(tensor[:0] for tensor in self.chosen)
        self.check("ERR_SDPO_INVALID_LENGTH", "at least one row", chosen=empty, rejected=empty, timesteps=[])

    def test_element_weights(self):
        ones = torch.ones(3, 8, 8, dtype=torch.float64)
        self.check("ERR_SDPO_INVALID_LENGTH", "element_weights", element_weights=ones[:, :2])
        self.check("ERR_SDPO_INVALID_ARG_TYPE", "a boolean or uint8 mask", element_weights=ones.to(torch.int64))
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
