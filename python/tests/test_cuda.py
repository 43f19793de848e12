"""What only a GPU can show: order on the current stream, and that nothing synchronises. The other tests run on both devices."""

import unittest

import torch

import sdpo

from . import support


@unittest.skipUnless(support.CUDA, "needs a GPU and a library with the CUDA backend")
class Cuda(unittest.TestCase):
    def evaluate(self, chosen, rejected, timesteps, **options):
        return sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0, **options)(chosen=chosen, rejected=rejected, timesteps=timesteps)

    def test_agrees_with_the_cpu(self):
        for dtype in (torch.float64, torch.float32, torch.bfloat16):
            chosen, rejected, timesteps = support.batch(dtype=dtype, near=0.3, shape=(16, 33, 5))
            there = lambda branch: (branch[0].detach().cuda().requires_grad_(), branch[1].cuda(), branch[2].cuda())
            cuda_c, cuda_r = there(chosen), there(rejected)
            here, gpu = self.evaluate(chosen, rejected, timesteps), self.evaluate(cuda_c, cuda_r, timesteps.cuda())
            here.loss.backward(), gpu.loss.backward()
            self.assertLess(support.relative_error(gpu.rows["logit"], here.rows["logit"]), support.FLOAT32_PARITY)
            self.assertLess(support.relative_error(cuda_c[0].grad, chosen[0].grad), torch.finfo(dtype).eps + support.FLOAT32_PARITY)

    def test_nothing_synchronises(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda")
        timesteps = timesteps.cuda()
        self.evaluate(chosen, rejected, timesteps).loss.backward()  # tables go to the device once
        torch.cuda.set_sync_debug_mode("error")
        try:
            for row_weights in (None, [1.0, 2.0, 3.0, 4.0]):
                out = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)
                for _ in range(3):
                    result = out(chosen=chosen, rejected=rejected, timesteps=timesteps, row_weights=row_weights)
                    (result.loss * 2.0).backward()
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_runs_behind_the_work_of_the_current_stream(self):
        stream = torch.cuda.Stream()
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda", shape=(64, 64))
        expected = self.evaluate(chosen, rejected, timesteps.cuda()).loss.item()
        late = torch.full_like(chosen[2], float("nan"))
        torch.cuda.synchronize()
        with torch.cuda.stream(stream):
            torch.cuda._sleep(200_000_000)  # about 0.1 s: the copy below has not happened when the loss is queued
            late.copy_(chosen[2])
            loss = self.evaluate((chosen[0], chosen[1], late), rejected, timesteps.cuda()).loss
        stream.synchronize()
        self.assertEqual(loss.item(), expected)

    def test_captured_into_a_graph(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.bfloat16, device="cuda", shape=(16, 64, 64))
        timesteps = timesteps.cuda()
        loss = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)
        policies = (chosen[0], rejected[0])

        def step():
            out = loss(chosen=chosen, rejected=rejected, timesteps=timesteps)
            return out.loss, torch.autograd.grad(out.loss, policies)

        stream = torch.cuda.Stream()
        with torch.cuda.stream(stream):
            loss.reserve(chosen=chosen, rejected=rejected, timesteps=timesteps)
        stream.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            value, grads = step()
        for seed in (1, 2):
            fresh = support.batch(seed=seed, dtype=torch.bfloat16, device="cuda", shape=(16, 64, 64))
            with torch.no_grad():
                for old, new in zip((*chosen, *rejected), (*fresh[0], *fresh[1])):
                    old.copy_(new)
                timesteps.copy_(torch.tensor([250, 800, 400, 600 + seed]))
            graph.replay()
            expected, expected_grads = step()
            self.assertEqual(value.item(), expected.item())
            for ours, theirs in zip(grads, expected_grads):
                self.assertTrue(torch.equal(ours, theirs))

    def test_a_capture_without_room_says_what_is_missing(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32, device="cuda")
        batch = {"chosen": chosen, "rejected": rejected, "timesteps": timesteps.cuda()}
        loss = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)
        loss(**batch)  # its tables are there, but on this stream nothing was reserved
        with self.assertRaisesRegex(sdpo.SdpoError, "reserve it before"):
            with torch.cuda.graph(torch.cuda.CUDAGraph(), stream=torch.cuda.Stream()):
                loss(**batch)

    def test_wrong_timesteps_show_as_nan(self):
        chosen, rejected, _ = support.batch(device="cuda")
        out = self.evaluate(chosen, rejected, torch.tensor([400, 1000, -1, 800], device="cuda"))
        self.assertEqual(out.rows["loss"].isnan().tolist(), [False, True, True, False])

    def test_throw_says_where(self):
        chosen, rejected, timesteps = support.batch(device="cuda")
        rejected[2][1, 0, 0, 5] = float("nan")
        with self.assertRaises(sdpo.NonFiniteError) as caught:
            self.evaluate(chosen, rejected, timesteps.cuda(), non_finite="throw")
        self.assertEqual((caught.exception.row, caught.exception.tensor, caught.exception.element), (1, "target", 5))


if __name__ == "__main__":
    unittest.main()
