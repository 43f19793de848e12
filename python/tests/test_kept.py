"""Memory of large results: used again once nothing refers to it and never before, bounded, and no part of a fork's or a process's end."""

import contextlib
import os
import threading
import unittest
import unittest.mock

import torch

import sdpo
from sdpo import _kept, _native

from . import support

SIZE = 512
BYTES = 4 * 4 * SIZE  # of a stacked gradient of two pairs in float32


def patched(bound=1 << 30):
    """The memory of all results of more than 4 KiB is kept, in one place of its own."""
    results = _kept.Results(bound)
    patches = contextlib.ExitStack()
    patches.enter_context(unittest.mock.patch.object(_kept, "KEPT_FROM", 4096))
    patches.enter_context(unittest.mock.patch.object(_native, "RESULTS", results))
    return results, patches


LOSS = sdpo.PreferenceLoss("diffusion-dpo", beta=1.0)


def inputs(seed):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(4, SIZE, generator=generator) for _ in range(3)]


def gradient(seed):
    policy, reference, target = inputs(seed)
    policy.requires_grad_()
    (found,) = torch.autograd.grad(LOSS(policy=policy, reference=reference, target=target, layout="halves").loss, policy)
    return found


EXPECTED = [gradient(seed) for seed in range(12)]


class Kept(unittest.TestCase):
    def setUp(self):
        self.results, patches = patched()
        self.addCleanup(patches.close)

    def test_memory_is_used_again(self):
        places = set()
        for seed in range(12):
            found = gradient(seed)
            self.assertTrue(torch.equal(found, EXPECTED[seed]))
            places.add(found.data_ptr())
        self.assertEqual(len(places), 2, "the last one is alive while the next is made")
        self.assertEqual(self.results.held(), 2 * (BYTES + 64))

    def test_a_result_is_a_tensor_like_any_other(self):
        found = gradient(0)
        self.assertEqual(found.data_ptr() % 64, 0)
        self.assertFalse(found._is_view())
        self.assertIsNone(found._base)
        self.assertFalse(found.requires_grad)
        self.assertEqual((found.stride(), found.storage_offset()), ((SIZE, 1), 0))
        found.requires_grad_().mul(2).sum().backward()
        self.assertTrue(torch.equal(found.grad, torch.full_like(found, 2)))

    def test_the_order_of_elements_is_that_of_the_policy(self):
        policy, reference, target = (tensor.reshape(4, 8, 8, 8).to(memory_format=torch.channels_last) for tensor in inputs(3))
        policy.requires_grad_()
        LOSS(policy=policy, reference=reference, target=target, layout="halves").loss.backward()
        self.assertEqual(policy.grad.stride(), policy.stride())
        self.assertTrue(torch.equal(policy.grad.reshape(4, SIZE), EXPECTED[3]))
        self.assertGreater(self.results.held(), 0)

    def test_what_anything_refers_to_is_never_written(self):
        class Module(torch.nn.Module):
            def __init__(self, found):
                super().__init__()
                self.register_buffer("found", found)

        weight = torch.ones(4, SIZE, requires_grad=True)
        holders = [
            lambda found: found,
            lambda found: found[1:],
            lambda found: found.detach(),
            lambda found: found.numpy(),
            lambda found: memoryview(found.numpy()),
            lambda found: found.untyped_storage() if hasattr(found, "untyped_storage") else found,
            lambda found: torch.utils.dlpack.to_dlpack(found),
            lambda found: Module(found),
            lambda found: (found * weight).sum(),  # saved for backward
            lambda found: [found.view(-1)],
        ]
        read = [
            lambda held: held,
            lambda held: held,
            lambda held: held,
            torch.from_numpy,
            lambda held: torch.frombuffer(held, dtype=torch.float32).view(4, SIZE),
            lambda held: held if isinstance(held, torch.Tensor) else torch.empty(0).set_(held, 0, (4, SIZE)),
            torch.utils.dlpack.from_dlpack,
            lambda held: held.found,
            lambda held: torch.autograd.grad(held, weight)[0],
            lambda held: held[0].view(4, SIZE),
        ]
        held = [hold(gradient(seed)) for seed, hold in enumerate(holders)]
        for seed in range(12):
            gradient(seed)
        for seed, (value, back) in enumerate(zip(held, read)):
            found, expected = back(value), EXPECTED[seed]
            self.assertTrue(torch.equal(found, expected[-found.shape[0] :]), f"holder {seed}")

    def test_a_gradient_that_a_parameter_took_over(self):
        policy, reference, target = inputs(0)
        policy.requires_grad_()
        for step in range(3):
            LOSS(policy=policy, reference=reference, target=target, layout="halves").loss.backward()
            gradient(5)
            self.assertTrue(torch.equal(policy.grad, sum([EXPECTED[0]] * step, EXPECTED[0])))

    def test_threads(self):
        wrong = []

        def work(offset):
            for turn in range(50):
                seed = (offset + turn) % 12
                found = gradient(seed)
                other = gradient((seed + 1) % 12)
                if not (torch.equal(found, EXPECTED[seed]) and torch.equal(other, EXPECTED[(seed + 1) % 12])):
                    wrong.append(seed)

        threads = [threading.Thread(target=work, args=(offset,)) for offset in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        self.assertEqual(wrong, [])

    def test_memory_of_a_shape_that_is_not_asked_for_goes(self):
        self.results.like(torch.empty(5000))
        other = self.results.held()
        for _ in range(40):
            gradient(0)
        self.assertEqual(self.results.held(), BYTES + 64)
        self.assertEqual(other, 4 * 5000 + 64)

    def test_a_x_plus_b_y(self):
        schedule = sdpo.NoiseSchedule.preset("sd3")
        x, noise = torch.randn(4, SIZE), torch.randn(4, SIZE)
        expected = _outside(lambda: schedule.add_noise(x, noise, torch.tensor([100, 300, 500, 900])))
        found = schedule.add_noise(x, noise, torch.tensor([100, 300, 500, 900]))
        self.assertTrue(torch.equal(found, expected))
        self.assertEqual(self.results.held(), BYTES + 64)

    @support.needs_torch(2, 4)
    def test_under_compile(self):
        torch._dynamo.reset()
        compiled = torch.compile(lambda p, r, t: LOSS(policy=p, reference=r, target=t, layout="halves").loss * 2, backend="aot_eager", fullgraph=True)
        held = []
        for seed in range(6):
            policy, reference, target = inputs(seed)
            policy.requires_grad_()
            compiled(policy, reference, target).backward()
            held.append(policy.grad)
        for seed, found in enumerate(held):
            self.assertTrue(torch.allclose(found, 2 * EXPECTED[seed], rtol=1e-6))
        self.assertGreaterEqual(self.results.held(), 6 * BYTES)

    @unittest.skipUnless(hasattr(os, "fork"), "no fork")
    def test_fork(self):
        held = gradient(0)
        gradient(1)
        with self.results._lock:
            child = os.fork()
            if child == 0:  # with the lock held by nobody, and with the parent's memory as it was
                self.results.forget()
                right = all(torch.equal(gradient(seed), EXPECTED[seed]) for seed in range(4)) and torch.equal(held, EXPECTED[0])
                os._exit(0 if right else 1)
        self.assertEqual(os.waitpid(child, 0)[1], 0)
        self.assertTrue(torch.equal(held, EXPECTED[0]))


def _outside(function):
    with unittest.mock.patch.object(_native, "RESULTS", _kept.Results(0)):
        return function()


class Bound(unittest.TestCase):
    def test_bound(self):
        for bound in (0, BYTES, 2 * (BYTES + 64)):
            results, patches = patched(bound)
            with patches:
                held = [gradient(seed) for seed in range(6)]
                self.assertLessEqual(results.held(), bound)
                for seed, found in enumerate(held):
                    self.assertTrue(torch.equal(found, EXPECTED[seed]))
        self.assertGreater(results.held(), 0)
        # What is free makes room for another shape.
        del held, found
        results.like(torch.empty(5000))
        self.assertLessEqual(results.held(), bound)

    def test_small_results_are_not_kept(self):
        with unittest.mock.patch.object(_native, "RESULTS", _kept.Results(1 << 30)) as results:
            gradient(0)
            self.assertEqual(results.held(), 0)

    def test_setting_and_end_of_the_process(self):
        code = """
import torch, sdpo
from sdpo import _kept
rows = torch.ones(2, 9 << 20, requires_grad=True)
zeros = torch.zeros(2, 9 << 20)
sdpo.PreferenceLoss("diffusion-dpo", beta=1.0)(policy=rows, reference=zeros, target=zeros, layout="halves").loss.backward()
print(_kept.RESULTS.held() >> 20)
"""
        for setting, expected in (("", "72"), ("0", "0"), ("71", "0"), ("100", "72")):
            done = support.run_python(code, env={"SDPO_RESULT_POOL": setting})
            self.assertEqual((done.returncode, done.stdout.strip()), (0, expected), done.stderr)


if __name__ == "__main__":
    unittest.main()
