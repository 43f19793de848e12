"""Equality with the plain PyTorch formula: float32 parity, 16-bit types and mixtures, layouts in memory, five dimensions."""

import math
import unittest

import torch

import sdpo

from . import support

OBJECTIVES = ("diffusion-dpo", "dpo-cm", "sdpo")


def evaluate(chosen, rejected, timesteps, objective="sdpo", beta=500.0, **call):
    return sdpo.PreferenceLoss(objective, support.flat_schedule(), beta)(chosen=chosen, rejected=rejected, timesteps=timesteps, **call)


class Parity(unittest.TestCase):
    def test_float32(self):
        for device in support.DEVICES:
            for objective in OBJECTIVES:
                with self.subTest(objective=objective, device=device):
                    chosen, rejected, timesteps = support.batch(dtype=torch.float32, shape=(4, 16, 16), device=device, near=0.3)
                    out = evaluate(chosen, rejected, timesteps, objective)
                    ours = support.gradients(out.loss, chosen[0], rejected[0])
                    self.assertEqual(out.loss.dtype, torch.float32)
                    omega = support.flat_schedule().omegas(timesteps).to(device)
                    plain = support.plain_loss(chosen, rejected, omega.float(), objective)
                    theirs = support.gradients(plain, chosen[0], rejected[0])
                    wide_c, wide_r = support.leaves(chosen, rejected, torch.float64)
                    exact = support.plain_loss(wide_c, wide_r, omega, objective)
                    exact_gradients = support.gradients(exact, wide_c[0], wide_r[0])
                    self.assertLess(support.relative_error(out.loss, exact), support.FLOAT32_PARITY)
                    for a, b, c in zip(ours, exact_gradients, theirs):
                        self.assertLess(support.relative_error(a, b), support.FLOAT32_PARITY)
                        # The plain formula is the one that is off: we are never farther from the truth than it is, rounding aside.
                        allowed = support.relative_error(c, b) + torch.finfo(torch.float32).eps
                        self.assertLess(support.relative_error(a, b), allowed)

    def test_five_dimensions_are_averaged_as_one_row(self):
        # A mean over fixed dimensions leaves some of them standing; video latents have five.
        chosen, rejected, timesteps = support.batch(shape=(2, 3, 4, 5))
        flat = lambda branch: tuple(tensor.reshape(4, -1) for tensor in branch)
        self.assertTrue(torch.equal(evaluate(chosen, rejected, timesteps).loss, evaluate(flat(chosen), flat(rejected), timesteps).loss))
        self.assertEqual(evaluate(chosen, rejected, timesteps).rows["logit"].shape, (4,))

    def test_a_better_policy_lowers_the_loss(self):
        # Signs: the chosen prediction at its target and the rejected one far away must be the good case.
        chosen, rejected, timesteps = support.batch()
        far = rejected[2] + 2 * (rejected[1] - rejected[2])
        good = evaluate((chosen[2], *chosen[1:]), (far, *rejected[1:]), timesteps, "diffusion-dpo")
        bad = evaluate((far, *rejected[1:]), (chosen[2], *chosen[1:]), timesteps, "diffusion-dpo")
        self.assertLess(good.loss.item(), bad.loss.item())
        self.assertEqual(good.metrics["implicit_accuracy"].item(), 1)
        self.assertEqual(bad.metrics["implicit_accuracy"].item(), 0)

    def test_ties_count_one_half(self):
        chosen, rejected, timesteps = support.batch()
        out = evaluate((chosen[1], *chosen[1:]), (rejected[1], *rejected[1:]), timesteps, "diffusion-dpo")
        self.assertEqual(out.metrics["implicit_accuracy"].item(), 0.5)

    def test_rows_without_a_reward_count_for_nothing(self):
        # An 'elbo' row whose transition has no density has no reward: neither a win nor a tie.
        chosen, rejected, _ = support.batch()
        better = (chosen[2], *chosen[1:])
        for backend in support.BACKENDS:
            loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=2.0, timestep_weighting="elbo", backend=backend)
            for omega, accuracy in (([math.inf, 0.1, 0.2, math.inf], 1), ([math.inf] * 4, math.nan)):
                with self.subTest(backend=backend, accuracy=accuracy):
                    out = loss_fn(chosen=better, rejected=rejected, transition={"omega": omega})
                    for metrics in (out.metrics, out.reduce_metrics()):
                        self.assertEqual(str(metrics["implicit_accuracy"].item()), str(float(accuracy)))
                        self.assertEqual(math.isnan(metrics["reward_margin"].item()), math.isnan(accuracy))


class Types(unittest.TestCase):
    def test_sixteen_bits_and_mixtures(self):
        bf16, f16, f32, f64 = torch.bfloat16, torch.float16, torch.float32, torch.float64
        mixtures = [(bf16, bf16, bf16), (f16, f16, f16), (bf16, f16, f32), (f32, bf16, bf16), (f16, f32, f32), (bf16, f64, f32), (f64, f32, f16)]
        for device in support.DEVICES:
            for mixture in mixtures:
                with self.subTest(mixture=mixture, device=device):
                    chosen, rejected, timesteps = support.batch(near=0.3, device=device)
                    chosen, rejected = (tuple(t.detach().to(dtype) for t, dtype in zip(branch, mixture)) for branch in (chosen, rejected))
                    chosen[0].requires_grad_(), rejected[0].requires_grad_()
                    out = evaluate(chosen, rejected, timesteps)
                    ours = support.gradients(out.loss, chosen[0], rejected[0])
                    # The same numbers, widened: whatever is lost is lost by rounding the result once.
                    wide_c, wide_r = support.leaves(chosen, rejected, f64)
                    exact = evaluate(wide_c, wide_r, timesteps)
                    for mine, theirs in zip(ours, support.gradients(exact.loss, wide_c[0], wide_r[0])):
                        self.assertEqual(mine.dtype, mixture[0])
                        self.assertLess(support.relative_error(mine, theirs), torch.finfo(mixture[0]).eps + torch.finfo(f32).eps)
                    self.assertLess(support.relative_error(out.rows["logit"], exact.rows["logit"]), support.FLOAT32_PARITY)
                    self.assertEqual(out.loss.dtype, f64 if mixture[0] == f64 else f32)


class Layouts(unittest.TestCase):
    """Rows that lie elsewhere give the same bits as their contiguous copies."""

    def check(self, chosen, rejected, timesteps, **call):
        ours = evaluate(chosen, rejected, timesteps, **call)
        grads = support.gradients(ours.loss, chosen[0], rejected[0])
        packed = lambda branch: (branch[0].detach().contiguous().requires_grad_(), branch[1].contiguous(), branch[2].contiguous())
        packed_c, packed_r = packed(chosen), packed(rejected)
        plain = evaluate(packed_c, packed_r, timesteps, **call)
        expected = support.gradients(plain.loss, packed_c[0], packed_r[0])
        for name, values in plain.rows.items():
            self.assertTrue(torch.equal(ours.rows[name], values), name)
        for a, b in zip(grads, expected):
            self.assertTrue(torch.equal(a, b))
        return grads

    def stacked(self, seed=0, shape=(3, 8, 8), device="cpu"):
        generator = torch.Generator().manual_seed(seed)
        return [(1 + 0.1 * torch.randn(8, *shape, dtype=torch.float64, generator=generator)).to(device) for _ in range(3)]

    def test_halves_and_interleaved_slices(self):
        timesteps = torch.tensor([400, 600, 250, 800])
        for device in support.DEVICES:
            for cut in (lambda x: x.chunk(2), lambda x: (x[0::2], x[1::2]), lambda x: (x[:4].flip(0), x[4:])):
                chosen, rejected = zip(*(cut(tensor) for tensor in self.stacked(device=device)))
                chosen[0].requires_grad_(), rejected[0].requires_grad_()
                self.check(chosen, rejected, timesteps)

    def test_gradient_of_a_stacked_prediction(self):
        policy, reference, target = self.stacked()
        policy.requires_grad_()
        parts = [tensor.chunk(2) for tensor in (policy, reference, target)]
        timesteps = torch.tensor([400, 600, 250, 800])
        evaluate(tuple(part[0] for part in parts), tuple(part[1] for part in parts), timesteps).loss.backward()
        chosen, rejected = (tuple(part[i].detach() for part in parts) for i in range(2))
        chosen[0].requires_grad_(), rejected[0].requires_grad_()
        expected = support.gradients(evaluate(chosen, rejected, timesteps).loss, chosen[0], rejected[0])
        self.assertTrue(torch.equal(policy.grad, torch.cat(expected)))

    def test_channels_last_is_read_in_place(self):
        tensors = [tensor.to(memory_format=torch.channels_last) for tensor in self.stacked()]
        chosen, rejected = zip(*(tensor.chunk(2) for tensor in tensors))
        chosen[0].requires_grad_(), rejected[0].requires_grad_()
        timesteps = torch.tensor([400, 600, 250, 800])
        out = evaluate(chosen, rejected, timesteps)
        grads = support.gradients(out.loss, chosen[0], rejected[0])
        for gradient, policy in zip(grads, (chosen[0], rejected[0])):
            self.assertEqual(gradient.stride(), policy.stride())
        packed = lambda branch: tuple(tensor.detach().contiguous() for tensor in branch)
        plain_c, plain_r = packed(chosen), packed(rejected)
        plain_c[0].requires_grad_(), plain_r[0].requires_grad_()
        expected = support.gradients(evaluate(plain_c, plain_r, timesteps).loss, plain_c[0], plain_r[0])
        for a, b in zip(grads, expected):  # sums run in the order of memory, so the last digits may differ
            self.assertTrue(torch.allclose(a, b, rtol=1e-12, atol=0))

    def test_orders_that_disagree_are_copied(self):
        policy, reference, target = self.stacked()
        mixed = [policy.to(memory_format=torch.channels_last), reference, target.transpose(-1, -2).contiguous().transpose(-1, -2)]
        chosen, rejected = zip(*(tensor.chunk(2) for tensor in mixed))
        chosen[0].requires_grad_(), rejected[0].requires_grad_()
        self.check(chosen, rejected, torch.tensor([400, 600, 250, 800]))

    def test_expanded_rows(self):
        policy, reference, target = self.stacked()
        one = target[:1].expand(4, 3, 8, 8)
        chosen = (policy[:4].requires_grad_(), reference[:4], one)
        rejected = (policy[4:].detach().requires_grad_(), reference[4:5].expand(4, 3, 8, 8), one)
        self.check(chosen, rejected, torch.tensor([400, 600, 250, 800]))

    def test_single_row_and_single_element(self):
        for shape in ((3, 8, 8), (1,), ()):
            tensors = [tensor[:2] for tensor in self.stacked(shape=shape)]
            chosen, rejected = zip(*(tensor.chunk(2) for tensor in tensors))
            chosen[0].requires_grad_(), rejected[0].requires_grad_()
            self.check(chosen, rejected, torch.tensor([400]))

    def test_element_weights_select_elements(self):
        chosen, rejected, timesteps = support.batch(shape=(4, 6))
        weights = torch.zeros(4, 6, dtype=torch.float64)
        weights[:, :3] = 1
        cut = lambda branch: tuple(tensor[..., :3] for tensor in branch)
        for given in (weights, weights.t().contiguous().t(), weights.expand(4, 4, 6)):
            masked = evaluate(chosen, rejected, timesteps, element_weights=given)
            part = evaluate(cut(chosen), cut(rejected), timesteps)
            self.assertTrue(torch.allclose(masked.rows["logit"], part.rows["logit"], rtol=1e-13, atol=0))


class PerRow(unittest.TestCase):
    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch()

    def test_reference_error_in_place_of_the_reference(self):
        out = evaluate(self.chosen, self.rejected, self.timesteps)
        cached = lambda branch, name: {"policy": branch[0], "target": branch[2], "reference_error": out.rows[f"reference_error_{name}"]}
        from_errors = evaluate(cached(self.chosen, "chosen"), cached(self.rejected, "rejected"), self.timesteps)
        self.assertTrue(torch.allclose(from_errors.rows["logit"], out.rows["logit"], rtol=1e-9, atol=0))
        self.assertTrue(bool(from_errors.rows["drift_chosen"].isnan().all()))

    def test_omega_denominator_threshold_and_weights(self):
        omega = support.flat_schedule().omegas(self.timesteps)
        loss_fn = sdpo.PreferenceLoss("sdpo", beta=500.0)
        own = loss_fn(chosen=self.chosen, rejected=self.rejected, transition={"omega": {"chosen": omega, "rejected": omega.tolist()}})
        out = evaluate(self.chosen, self.rejected, self.timesteps)
        self.assertTrue(torch.equal(own.loss, out.loss))
        half = evaluate(self.chosen, self.rejected, self.timesteps, denominator=8.0)
        self.assertAlmostEqual(half.loss.item() * 2, out.loss.item(), places=12)
        none_kept = evaluate(self.chosen, self.rejected, self.timesteps, mask_threshold=1.0)
        self.assertEqual(none_kept.metrics["mask_fraction"].item(), 1)
        per_row = evaluate(self.chosen, self.rejected, self.timesteps, mask_threshold=[0.0, 1.0, 0.0, 1.0])
        self.assertEqual(per_row.rows["mask"].tolist(), [1, 0, 1, 0])
        weighted = evaluate(self.chosen, self.rejected, self.timesteps, row_weights=torch.tensor([1, 0, 0, 3]))
        rows = out.rows["loss"]
        self.assertAlmostEqual(weighted.loss.item(), ((rows[0] + 3 * rows[3]) / 4).item(), places=12)

    def test_stored_and_sampled_transitions(self):
        omega = support.flat_schedule().omegas(self.timesteps)
        xi = torch.tensor([1.0, -1.0, 0.5, 0.0], dtype=torch.float64)
        out = evaluate(self.chosen, self.rejected, self.timesteps, weight_noise={"chosen": xi, "rejected": [0.0] * 4})
        m, size = out.rows["error_chosen"], self.chosen[0][0].numel()
        expected = -omega * m + torch.sqrt(2 * omega * m / size) * xi
        self.assertTrue(torch.allclose(out.rows["log_weight_chosen"], expected, rtol=1e-12, atol=1e-15))
        out = evaluate(self.chosen, self.rejected, self.timesteps, transition={"offset_rejected": xi})
        self.assertTrue(torch.allclose(out.rows["log_weight_rejected"], xi - omega * out.rows["error_rejected"], rtol=1e-12, atol=1e-15))

    def test_different_timesteps_for_the_two_branches(self):
        other = torch.tensor([10, 20, 30, 40])
        out = evaluate(self.chosen, self.rejected, {"chosen": self.timesteps, "rejected": other})
        expected = -support.flat_schedule().omegas(other) * out.rows["error_rejected"]
        self.assertTrue(torch.allclose(out.rows["log_weight_rejected"], expected, rtol=1e-12, atol=0))

    def test_a_rank_without_rows(self):
        empty = lambda branch: tuple(tensor.detach()[:0] for tensor in branch)
        chosen, rejected = empty(self.chosen), empty(self.rejected)
        chosen[0].requires_grad_()
        out = evaluate(chosen, rejected, self.timesteps[:0], denominator=2.5)
        out.loss.backward()
        self.assertEqual(out.loss.item(), 0)
        self.assertEqual(chosen[0].grad.shape, (0, 3, 8, 8))


if __name__ == "__main__":
    unittest.main()
