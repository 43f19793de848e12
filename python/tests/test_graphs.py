"""Calls that are captured into CUDA graphs, as far as a machine without a GPU can tell; test_cuda.py captures them."""

import unittest
import unittest.mock

import torch

import sdpo
from sdpo import _levels, _library

from . import support


class Graphs(unittest.TestCase):
    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch(dtype=torch.float32)
        self.loss = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)

    def test_reserve_takes_what_a_call_takes_and_leaves_nothing(self):
        policies = [self.chosen[0].detach().clone(), self.rejected[0].detach().clone()]
        self.assertIsNone(self.loss.reserve(chosen=self.chosen, rejected=self.rejected, timesteps=self.timesteps, row_weights=[1.0, 2.0, 0.0, 1.0]))
        self.assertTrue(torch.equal(self.chosen[0], policies[0]) and torch.equal(self.rejected[0], policies[1]))
        self.assertIsNone(self.chosen[0].grad)
        with self.assertRaises(sdpo.SdpoRangeError):
            self.loss.reserve(chosen=self.chosen, rejected=self.rejected, timesteps=[1, 2, 3, 1000])

    def test_both_passes_are_reserved_with_and_without_references(self):
        given = []
        library = unittest.mock.Mock(wraps=_library.library())
        library.sdpo_reserve = lambda problem: given.append(bool(problem.chosen_reference_data)) or 0
        with unittest.mock.patch.object(_library, "library", return_value=library):
            self.loss.reserve(chosen=self.chosen, rejected=self.rejected, timesteps=self.timesteps)
        self.assertEqual(given, [True, False])

    def test_numbers_on_the_host_are_refused_during_a_capture(self):
        with unittest.mock.patch("torch.cuda.is_current_stream_capturing", return_value=True):
            with self.assertRaisesRegex(sdpo.SdpoError, "Expected tensors on cuda.*captured"):
                _levels.to_device(torch.tensor([1.0]), torch.device("cuda"))


if __name__ == "__main__":
    unittest.main()
