"""Gradients: gradcheck, scaling before rounding, what backward may be asked for, and what receives no gradient."""

import unittest

import torch

import sdpo

from . import support


class Gradcheck(unittest.TestCase):
    def test_gradcheck(self):
        # Weights are constants here (weight_gradient=False), as finite differences of the loss would not see them; so the clip is made
        # to bind in these cases, or the weight's gradient switched on.
        cases = [
            dict(objective="diffusion-dpo", beta=50.0),
            dict(objective="diffusion-dpo", beta=5.0, link="ipo"),
            dict(objective="diffusion-dpo", beta=50.0, link="hinge"),
            dict(objective="diffusion-dpo", beta=50.0, label_smoothing=0.1, timestep_weighting="elbo", sft_weight=0.3),
            dict(objective="sdpo", beta=50.0, weight_gradient=True, clip_range=2.0, mask_threshold=0.0, kl_weight=0.5),
            dict(objective="sdpo", beta=50.0, mask_threshold=0.0, clip_range=(1.0, 1.5)),
            dict(objective="dpo-cm", beta=50.0, weight_gradient=True, clip_range=2.0, pair_weight="product", mask_threshold=0.0),
            dict(objective="dspo", beta=0.5),
            dict(objective="dmpo", beta=50.0, dmpo_alpha=0.1),
            dict(objective="mapo", beta=0.1, mapo_steps=3),
            dict(objective="dpo-cm", beta=50.0, log_ratio_reduction="sum", timestep_weighting="elbo", mask_threshold=0.0, clip_range=(1, 1)),
        ]
        for device in support.DEVICES:
            chosen, rejected, timesteps = support.batch(rows=3, shape=(2, 3), device=device)
            for options in cases:
                with self.subTest(device=device, **options):
                    loss_fn = sdpo.PreferenceLoss(schedule=support.flat_schedule(), **options)
                    call = lambda c, r: loss_fn(chosen=(c, *chosen[1:]), rejected=(r, *rejected[1:]), timesteps=timesteps).loss
                    self.assertTrue(torch.autograd.gradcheck(call, (chosen[0], rejected[0])))

    def test_mapo_without_a_reference(self):
        chosen, rejected, timesteps = support.batch(rows=3, shape=(2, 3))
        loss_fn = sdpo.PreferenceLoss("mapo", support.flat_schedule(), 0.1, mapo_steps=3)
        call = lambda c, r: loss_fn(chosen=(c, None, chosen[2]), rejected={"policy": r, "target": rejected[2]}, timesteps=timesteps).loss
        self.assertTrue(torch.autograd.gradcheck(call, (chosen[0], rejected[0])))

    def test_safeguard_scales_the_rejected_gradient_only(self):
        chosen, rejected, timesteps = support.batch()
        rejected = (rejected[0].detach().copy_(rejected[2] + chosen[0].detach() - chosen[2]).requires_grad_(), *rejected[1:])  # x = m_c
        call = lambda mu: (
            sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 50.0, safeguard=mu)(chosen=chosen, rejected=rejected, timesteps=timesteps).loss
        )
        plain, guarded = (support.gradients(call(mu), chosen[0], rejected[0]) for mu in (None, 0.75))
        self.assertTrue(torch.equal(plain[0], guarded[0]))
        self.assertTrue(torch.allclose(0.25 * plain[1], guarded[1], rtol=1e-12, atol=0))

    def test_weights(self):
        chosen, rejected, timesteps = support.batch(rows=3, shape=(2, 3))
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 50.0, kl_weight=0.1)
        elements = torch.tensor([[0.0, 1.0, 2.0], [1.0, 0.5, 0.0]], dtype=torch.float64)
        rows = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
        for weights in (elements, elements.expand(3, 2, 3), elements.expand(3, 2, 3).contiguous()):
            call = lambda c, r: (
                loss_fn(chosen=(c, *chosen[1:]), rejected=(r, *rejected[1:]), timesteps=timesteps, element_weights=weights, row_weights=rows).loss
            )
            self.assertTrue(torch.autograd.gradcheck(call, (chosen[0], rejected[0])))


class Scaling(unittest.TestCase):
    def test_scale_of_the_loss_goes_into_the_gradient(self):
        chosen, rejected, timesteps = support.batch()
        loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)
        loss = lambda: loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps).loss
        plain = support.gradients(loss(), chosen[0], rejected[0])
        scaled = support.gradients(3.0 * loss() / 7.0, chosen[0], rejected[0])
        for a, b in zip(plain, scaled):
            self.assertTrue(torch.allclose(a * (3.0 / 7.0), b, rtol=1e-14, atol=0))

    def test_float16_gradients_do_not_underflow_below_a_scaled_loss(self):
        # As a GradScaler does it: the loss is scaled up, the gradient down again behind the model. At this size an unscaled float16
        # gradient is below the smallest float16 number; scaled before rounding it keeps its digits.
        for device in support.DEVICES:
            with self.subTest(device=device):
                exact_c, exact_r, timesteps = support.batch(rows=1, shape=(64, 64), near=1e-3, dtype=torch.float16, device=device)
                loss_fn = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 0.01)
                call = lambda c, r: loss_fn(chosen=c, rejected=r, timesteps=timesteps[:1]).loss
                scale = 2.0**24
                unscaled = support.gradients(call(exact_c, exact_r), exact_c[0])[0]
                scaled = support.gradients(scale * call(exact_c, exact_r), exact_c[0])[0]
                wide_c, wide_r = support.leaves(exact_c, exact_r, torch.float64)
                exact = support.gradients(call(wide_c, wide_r), wide_c[0])[0]
                self.assertEqual(unscaled.abs().max().item(), 0.0, "the case is meant to underflow without a scale")
                self.assertLess(support.relative_error(scaled.double() / scale, exact), torch.finfo(torch.float16).eps)

    def test_grad_scaler(self):
        if not support.CUDA:
            self.skipTest("torch.cuda.amp.GradScaler needs a GPU")
        chosen, rejected, timesteps = support.batch(dtype=torch.float16, device="cuda")
        scaler = torch.cuda.amp.GradScaler(init_scale=2.0**16)
        out = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 500.0)(chosen=chosen, rejected=rejected, timesteps=timesteps)
        scaler.scale(out.loss).backward()
        self.assertTrue(bool(torch.isfinite(chosen[0].grad).all()))

    def test_removed_rows_stay_zero_whatever_the_scale(self):
        chosen, rejected, _ = support.batch()
        loss_fn = sdpo.PreferenceLoss("sdpo", beta=500.0)
        out = loss_fn(chosen=chosen, rejected=rejected, transition={"omega": [0.0, float("inf"), 0.0, 1e9]})
        self.assertEqual(out.rows["mask"].tolist(), [1, 0, 1, 0])
        (out.loss * float("inf")).backward()
        self.assertEqual(chosen[0].grad[1].abs().sum().item(), 0)
        self.assertEqual(chosen[0].grad[3].abs().sum().item(), 0)


class Graphs(unittest.TestCase):
    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch()
        self.loss_fn = sdpo.PreferenceLoss("diffusion-dpo", support.flat_schedule(), 500.0)

    def call(self, chosen=None, rejected=None):
        return self.loss_fn(chosen=chosen or self.chosen, rejected=rejected or self.rejected, timesteps=self.timesteps)

    def test_backward_twice(self):
        loss = self.call().loss
        first = torch.autograd.grad(loss, self.chosen[0], retain_graph=True)[0]
        second = torch.autograd.grad(loss, self.chosen[0])[0]
        self.assertTrue(torch.equal(first, second))
        self.assertIsNot(first, second)

    def test_second_derivative_is_a_clear_error(self):
        loss = self.call().loss
        gradient = torch.autograd.grad(loss, self.chosen[0], create_graph=True)[0]  # forming the graph is fine
        with self.assertRaisesRegex(sdpo.SdpoError, "second derivatives") as caught:
            gradient.sum().backward()
        self.assertEqual(caught.exception.code, "ERR_SDPO_SECOND_DERIVATIVE")

    def test_no_grad_forms_no_graph(self):
        with torch.no_grad():
            out = self.call()
        self.assertFalse(out.loss.requires_grad)
        with torch.inference_mode():
            self.assertFalse(self.call().loss.requires_grad)

    def test_one_branch_only(self):
        rejected = (self.rejected[0].detach(), *self.rejected[1:])
        both = support.gradients(self.call().loss, self.chosen[0])[0]
        self.call(rejected=rejected).loss.backward()
        self.assertTrue(torch.equal(self.chosen[0].grad, both))
        self.assertIsNone(self.rejected[0].grad)

    def test_reference_and_target_receive_no_gradient(self):
        reference, target = self.chosen[1].requires_grad_(), self.chosen[2].requires_grad_()
        self.call((self.chosen[0], reference, target)).loss.backward()
        self.assertIsNone(reference.grad)
        self.assertIsNone(target.grad)
        self.assertIsNotNone(self.chosen[0].grad)

    def test_statistics_are_constants(self):
        out = self.call()
        for value in [*out.rows.values(), *out.metrics.values(), *out.coefficients.values()]:
            self.assertFalse(value.requires_grad)

    def test_a_policy_changed_before_backward_is_noticed(self):
        policy = self.chosen[0] * 1.0
        loss = self.call((policy, *self.chosen[1:])).loss
        with torch.no_grad():
            policy.add_(1.0)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            loss.backward()

    def test_the_same_prediction_in_both_branches(self):
        policy = self.chosen[0]
        self.loss_fn(chosen=self.chosen, rejected=(policy, *self.rejected[1:]), timesteps=self.timesteps).loss.backward()
        separate = [policy.detach().clone().requires_grad_() for _ in range(2)]
        parts = support.gradients(self.call((separate[0], *self.chosen[1:]), (separate[1], *self.rejected[1:])).loss, *separate)
        self.assertTrue(torch.allclose(policy.grad, parts[0] + parts[1], rtol=1e-14, atol=0))


if __name__ == "__main__":
    unittest.main()
