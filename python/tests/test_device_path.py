"""The device path of the package on a machine without a GPU: what it hands to the library, and that it mixes no devices and waits for nothing."""

import unittest

import torch

import sdpo

from . import pretend_cuda, support, test_cuda

OLD = support.TORCH < (2, 1)


@unittest.skipIf(OLD, "older versions do not show every access to a tensor to a mode")
class DevicePath(test_cuda.Cuda):
    """The tests of a real device that need no real one."""

    __unittest_skip__ = OLD  # the decorator sets it where it skips; without this line it would come from the tests of a real device
    # These need a stream.
    test_runs_behind_the_work_of_the_current_stream = None
    test_captured_into_a_graph = None
    test_a_capture_without_room_says_what_is_missing = None

    def setUp(self):
        self.cuda = pretend_cuda.PretendCuda()
        self.cuda.__enter__()
        self.addCleanup(self.cuda.__exit__, None, None, None)

    def test_forward_and_backward_are_a_call_each(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda")
        out = self.evaluate(chosen, rejected, timesteps.cuda())
        self.assertEqual([tensor.device.type for tensor in (out.loss, out.rows["logit"])], ["cuda"] * 2)
        out.loss.backward()
        self.assertEqual(self.cuda.calls, ["sdpo_evaluate", "sdpo_gradients"])
        self.assertEqual(chosen[0].grad.device.type, "cuda")

    def test_every_number_of_a_row_may_lie_on_either_side(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda")
        expected = None
        for device in ("cpu", "cuda"):
            there = lambda values: torch.tensor(values, dtype=torch.float64, device=device)
            out = sdpo.PreferenceLoss("dpo-cm", support.flat_schedule(), 500.0)(
                chosen=chosen,
                rejected=rejected,
                timesteps=timesteps.to(device),
                row_weights=there([1.0, 2.0, 3.0, 4.0]),
                mask_threshold=there([0.1, 0.2, 0.3, 0.4]),
            )
            expected = expected if expected is not None else out.loss.item()
            self.assertEqual(out.loss.item(), expected)

    def test_element_weights_of_each_branch(self):
        weights = {branch: torch.rand(3, 8, 8, generator=torch.Generator().manual_seed(i)) for i, branch in enumerate(("chosen", "rejected"))}
        losses = []
        for device in ("cpu", "cuda"):
            chosen, rejected, timesteps = support.batch(dtype=torch.float32, device=device)
            there = {branch: each.to(device) for branch, each in weights.items()}
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)
            losses.append(loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps.to(device), element_weights=there).loss.item())
        self.assertEqual(*losses)

    def test_tensors_of_two_devices_are_refused(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda")
        with self.assertRaises(sdpo.SdpoError):
            self.evaluate((chosen[0], chosen[1].cpu(), chosen[2]), rejected, timesteps)

    def test_add_noise_and_target(self):
        schedule = support.flat_schedule()
        x, noise = torch.randn(4, 3, 8), torch.randn(4, 3, 8)
        timesteps = torch.tensor([400, 600, 250, 800])
        for function in (schedule.add_noise, schedule.target):
            here, there = function(x, noise, timesteps), function(x.cuda(), noise.cuda(), timesteps.cuda())
            self.assertEqual(there.device.type, "cuda")
            self.assertLess(support.relative_error(there, here), support.FLOAT32_PARITY)

    def test_the_pretence_notices(self):
        x = torch.ones(3, device="cuda")
        with self.assertRaisesRegex(RuntimeError, "same device"):
            x + torch.ones(3)
        torch.cuda.set_sync_debug_mode("error")
        with self.assertRaisesRegex(RuntimeError, "synchronizing"):
            x.sum().item()
        torch.cuda.set_sync_debug_mode("default")
        self.assertEqual((x.cpu().device.type, x.to("cpu").device.type, x.device.type, x[0].device.type), ("cpu", "cpu", "cuda", "cuda"))


if __name__ == "__main__":
    unittest.main()
