"""How the loss is called: stacked batches, numbers per row in every form, reductions, parts, memory forms, scaled losses."""

import array
import dataclasses
import itertools
import unittest

import torch

import sdpo
from sdpo import _autograd, _native

from . import support


def stack(chosen, rejected, layout):
    """{policy, reference, target} [2 rows, …] of two branches; the policy is a leaf."""
    pairs = [[tensor.detach() for tensor in pair] for pair in zip(chosen, rejected)]
    tensors = [torch.cat(pair) if layout == "halves" else torch.stack(pair, 1).flatten(0, 1) for pair in pairs]
    return dict(zip(("policy", "reference", "target"), (tensors[0].requires_grad_(), *tensors[1:])), layout=layout)


def cut(tensor, layout):
    return tensor.chunk(2) if layout == "halves" else (tensor[::2], tensor[1::2])


class Stacked(unittest.TestCase):
    def test_the_same_bits_as_two_branches(self):
        for dtype, layout in itertools.product((torch.float32, torch.bfloat16), ("halves", "interleaved")):
            chosen, rejected, timesteps = support.batch(dtype=dtype)
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, kl_weight=0.1)
            given = dict(margins=[0.1, 0, 0, -0.1], keep=[True, True, False, True])
            expected = loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps, **given)
            grads = support.gradients(expected.loss, chosen[0], rejected[0])
            batch = stack(chosen, rejected, layout)
            both = torch.cat([timesteps] * 2) if layout == "halves" else timesteps.repeat_interleave(2)
            for times in (timesteps, both, both.tolist()):
                out = loss_fn(**batch, timesteps=times, **given)
                (grad,) = torch.autograd.grad(out.loss, batch["policy"])
                self.assertTrue(torch.equal(out.loss, expected.loss))
                for mine, theirs in zip(cut(grad, layout), grads):
                    self.assertTrue(torch.equal(mine, theirs))

    def test_channels_last_and_reference_errors(self):
        chosen, rejected, timesteps = support.batch()
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=50.0)
        for layout in ("halves", "interleaved"):
            batch = stack(chosen, rejected, layout)
            expected = loss_fn(**batch)
            last = {name: value.detach().contiguous(memory_format=torch.channels_last) if name != "layout" else value for name, value in batch.items()}
            last["policy"].requires_grad_()
            out = loss_fn(**last)
            out.backward()
            self.assertTrue(last["policy"].grad.is_contiguous(memory_format=torch.channels_last))
            (grad,) = torch.autograd.grad(expected.loss, batch["policy"])
            self.assertTrue(torch.allclose(last["policy"].grad, grad, rtol=1e-12))
            errors = sdpo.reference_error(batch["reference"], batch["target"])
            cached = loss_fn(policy=batch["policy"], target=batch["target"], reference_error=errors, layout=layout)
            self.assertTrue(torch.allclose(cached.rows["logit"], expected.rows["logit"], rtol=1e-9))

    def test_numbers_of_every_form(self):
        chosen, rejected, timesteps = support.batch()
        loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0)
        for layout in ("halves", "interleaved"):
            batch = stack(chosen, rejected, layout)
            both = torch.cat([timesteps] * 2) if layout == "halves" else timesteps.repeat_interleave(2)
            logits = lambda **given: loss_fn(**batch, **given).rows["logit"].tolist()
            self.assertEqual(logits(timesteps=array.array("d", both.tolist())), logits(timesteps=timesteps))
            self.assertEqual(logits(timesteps=torch.tensor(300)), logits(timesteps=300))
            cached = {**batch, "reference": None}
            errors = lambda **given: loss_fn(**cached, timesteps=300, **given).rows["logit"].tolist()
            for given in (0.25, torch.tensor(0.25, dtype=torch.float64), array.array("d", [0.25] * 8)):
                self.assertEqual(errors(reference_error=given), errors(reference_error=[0.25] * 8))
            with self.assertRaisesRegex(ValueError, "reference_error to be of length 8"):
                errors(reference_error=[0.25] * 4)

    def test_mistakes(self):
        chosen, rejected, _ = support.batch()
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=50.0)
        batch = stack(chosen, rejected, "halves")
        with self.assertRaisesRegex(ValueError, "'halves'.*'interleaved'"):
            loss_fn(**{**batch, "layout": None})
        with self.assertRaisesRegex(ValueError, "even number of rows"):
            loss_fn(**{name: value[:3] if name != "layout" else value for name, value in batch.items()})
        with self.assertRaisesRegex(TypeError, "left out where layout is given"):
            loss_fn(chosen=chosen, rejected=rejected, layout="halves")
        with self.assertRaisesRegex(TypeError, "left out where chosen and rejected are given"):
            loss_fn(chosen=chosen, rejected=rejected, policy=batch["policy"])
        with self.assertRaisesRegex(TypeError, "chosen to be"):
            loss_fn()
        with self.assertRaisesRegex(TypeError, "rejected to be given"):
            loss_fn(chosen=chosen)


class Numbers(unittest.TestCase):
    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch()

    def call(self, loss_fn, **given):
        return loss_fn(chosen=self.chosen, rejected=self.rejected, **given)

    def test_nothing_is_needed_where_nothing_reads_it(self):
        for objective in ("diffusion-dpo", "dmpo", "dspo", "linear-dpo", "mapo"):
            for backend in support.BACKENDS:
                out = self.call(sdpo.PreferenceLoss(objective, beta=5.0, backend=backend))
                self.assertTrue(bool(torch.isfinite(out.loss)))
                self.assertTrue(bool(out.rows["log_weight_chosen"].isnan().all()))
        # A flow time of 0 is no timestep of the schedule, and no error where the schedule is not read.
        flow = sdpo.NoiseSchedule.preset("sd3")
        out = self.call(sdpo.PreferenceLoss("diffusion-dpo", flow, 5.0), timesteps=[0.5, 0.25, 0.1, 1.0])
        self.assertTrue(bool(torch.isfinite(out.loss)))
        with self.assertRaisesRegex(TypeError, "timesteps"):
            self.call(sdpo.PreferenceLoss("diffusion-dpo", flow, 5.0, timestep_window=(1, 2)))

    def test_statistics_that_the_loss_does_not_need_are_made_when_they_are_looked_at(self):
        flow = sdpo.NoiseSchedule.preset("sd3")
        times = torch.tensor([100.0, 400.0, 700.0, 900.0])
        out = self.call(sdpo.PreferenceLoss("diffusion-dpo", flow, 5.0), timesteps=times)
        before = out.coefficients
        self.assertTrue(torch.allclose(out.rows["log_weight_chosen"], -flow.omegas(times) * out.rows["error_chosen"], rtol=1e-12))
        self.assertTrue(bool(torch.isfinite(out.metrics["log_weight_rejected"])))
        for name, value in out.coefficients.items():
            self.assertTrue(torch.equal(value, before[name]))

    def test_every_form_of_a_number_per_row(self):
        loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0)
        plain = self.call(loss_fn, timesteps=self.timesteps, beta_scale=[2.0] * 4, margins=[0.5] * 4)
        forms = (
            (self.timesteps.reshape(4, 1), torch.full((4,), 2.0), 0.5),
            (self.timesteps.to(torch.int32), 2, torch.tensor(0.5)),
            (self.timesteps.tolist(), {"chosen": [2.0] * 4, "rejected": 2.0}, torch.full((4, 1), 0.5)),
            ({"chosen": self.timesteps, "rejected": self.timesteps.double()}, (2.0,) * 4, (0.5,) * 4),
        )
        for backend, (timesteps, scale, margins) in itertools.product(support.BACKENDS, forms):
            out = self.call(sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, backend=backend), timesteps=timesteps, beta_scale=scale, margins=margins)
            self.assertTrue(torch.allclose(out.loss, plain.loss, rtol=1e-12))
        one = self.call(loss_fn, timesteps=400)
        self.assertTrue(torch.equal(one.loss, self.call(loss_fn, timesteps=[400] * 4).loss))

    def test_what_they_do(self):
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=50.0)
        plain = self.call(loss_fn)
        scaled = self.call(loss_fn, beta_scale={"chosen": [1.0, 2.0, 3.0, 4.0], "rejected": 0.5})
        self.assertTrue(torch.allclose(scaled.rows["reward_chosen"], plain.rows["reward_chosen"] * torch.tensor([1.0, 2.0, 3.0, 4.0]).double()))
        self.assertTrue(torch.allclose(scaled.rows["reward_rejected"], plain.rows["reward_rejected"] / 2))
        shifted = self.call(loss_fn, margins=torch.tensor([0.5, 0.0, -1.0, 0.0]))
        self.assertTrue(torch.allclose(plain.rows["logit"] - shifted.rows["logit"], torch.tensor([0.5, 0.0, -1.0, 0.0]).double()))
        kept = self.call(loss_fn, keep=torch.tensor([True, False, True, True]))
        self.assertEqual(kept.rows["mask"].tolist(), [1, 0, 1, 1])
        self.assertEqual(support.gradients(kept.loss, self.chosen[0])[0][1].abs().sum().item(), 0)
        window = self.call(sdpo.PreferenceLoss("diffusion-dpo", beta=50.0, timestep_window=(250, 600)), timesteps=self.timesteps)
        self.assertEqual(window.rows["mask"].tolist(), [1, 1, 1, 0])

    def test_element_weights_of_every_form(self):
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=50.0)
        mask = torch.tensor([[True, False, True] + [False] * 5])
        whole = mask.expand(4, 3, 8, 8)
        expected = self.call(loss_fn, element_weights=whole.double().contiguous())
        for given in (whole, whole.to(torch.uint8), mask.reshape(1, 1, 1, 8), mask.reshape(1, 1, 8).expand(3, 1, 8), mask.double().reshape(1, 1, 1, 8)):
            self.assertTrue(torch.equal(self.call(loss_fn, element_weights=given).loss, expected.loss))
        frames = torch.tensor([1.0, 0.0, 2.0, 1.0]).reshape(4, 1, 1, 1).expand(4, 1, 8, 1).clone()
        frames[:, :, 0] = 3
        per_row = self.call(loss_fn, element_weights=frames)
        self.assertTrue(torch.allclose(per_row.loss, self.call(loss_fn, element_weights=frames.expand(4, 3, 8, 8).contiguous()).loss))

    def test_element_weights_of_each_branch(self):
        generator = torch.Generator().manual_seed(3)
        weights = [torch.rand(shape, dtype=torch.float64, generator=generator) for shape in ((4, 3, 8, 8), (1, 8, 8))]
        both = dict(zip(("chosen", "rejected"), weights))
        for backend in support.BACKENDS:
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, kl_weight=0.1, backend=backend)
            call = lambda **given: loss_fn(chosen=self.chosen, rejected=self.rejected, timesteps=self.timesteps, **given)
            out = call(element_weights=both)
            ones = [call(element_weights=each) for each in weights]
            for name, values in out.rows.items():
                for branch, alone in zip(both, ones):
                    if name.endswith(branch):
                        self.assertTrue(torch.equal(values, alone.rows[name]), name)
            # The passes of each weighting by itself, put together.
            parts = [loss_fn.moments(chosen=self.chosen, rejected=self.rejected, element_weights=each) for each in weights]
            moments = loss_fn.moments(chosen=self.chosen, rejected=self.rejected, element_weights=tuple(weights))
            self.assertTrue(torch.equal(moments.rejected["error"], parts[1].rejected["error"]))
            for branch, part in zip(both, parts):
                self.assertTrue(torch.equal(moments.elements[branch], part.elements))
            again = loss_fn.objective(sdpo.combine_moments([moments]), timesteps=self.timesteps)
            self.assertTrue(torch.allclose(again.loss, out.loss.detach(), rtol=1e-12))
            grads = support.gradients(out.loss, self.chosen[0], self.rejected[0])
            for branch, each, expected in zip(both, weights, grads):
                found = loss_fn.gradients(chosen=self.chosen, rejected=self.rejected, coefficients=again.coefficients, element_weights=each)
                self.assertTrue(torch.allclose(found[branch], expected, rtol=1e-12, atol=1e-16))
            for layout in ("halves", "interleaved"):
                stacked = stack(self.chosen, self.rejected, layout)
                self.assertTrue(torch.equal(loss_fn(**stacked, timesteps=self.timesteps, element_weights=both).loss, out.loss))
            # One tensor under both names is one weighting.
            guarded = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, safeguard=0.5, backend=backend)
            same = [guarded(chosen=self.chosen, rejected=self.rejected, timesteps=self.timesteps, element_weights=w) for w in (weights[0], (weights[0],) * 2)]
            self.assertTrue(torch.equal(same[0].loss, same[1].loss))

    def test_element_weights_of_each_branch_are_refused_where_elements_are_paired(self):
        both = {"chosen": torch.ones(3, 8, 8), "rejected": torch.full((3, 8, 8), 2.0)}
        branches = {"chosen": self.chosen, "rejected": self.rejected}
        plain = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0)
        guarded = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, safeguard=0.5)
        for name, call in {
            "safeguard": lambda: guarded(**branches, element_weights=both),
            "safeguard is": lambda: guarded.moments(**branches, element_weights=both),
            "where safeguard is given, since": lambda: guarded.reserve(**branches, element_weights=both),
            "cross": lambda: plain.moments(**branches, element_weights=both, cross=True),
            "moments.elements to be one tensor": lambda: guarded.objective(plain.moments(**branches, element_weights=both)),
        }.items():
            with self.assertRaisesRegex(sdpo.SdpoError, name) as caught:
                call()
            self.assertEqual(caught.exception.code, "ERR_SDPO_INVALID_OPTION")
        for given, message in (
            ({"chosen": both["chosen"]}, r"element_weights.rejected to be a tensor"),
            ({**both, "both": 1}, "element_weights"),
            ((both["chosen"],) * 3, r"\(chosen, rejected\)"),
            ((both["chosen"], torch.ones(5)), r"element_weights.rejected to be of shape"),
        ):
            with self.assertRaisesRegex(sdpo.SdpoError, message):
                plain(**branches, element_weights=given)


class Reductions(unittest.TestCase):
    def test_none_sum_and_mean(self):
        chosen, rejected, timesteps = support.batch()
        weights = torch.tensor([1.0, -2.0, 0.0, 3.0], dtype=torch.float64)
        for backend in support.BACKENDS:
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, backend=backend)
            call = lambda **given: loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps, **given)
            rows = call(reduction="none").loss
            self.assertEqual(rows.shape, (4,))
            self.assertTrue(torch.allclose(rows.mean(), call().loss, rtol=1e-14))
            self.assertTrue(torch.allclose(rows.sum(), call(reduction="sum").loss, rtol=1e-14))
            # A gradient of its own for every row.
            mine = support.gradients((rows * weights).sum(), chosen[0], rejected[0])
            for i in range(4):
                (alone,) = torch.autograd.grad(call(reduction="none").loss[i], chosen[0])
                self.assertTrue(torch.allclose(mine[0][i], weights[i] * alone[i], rtol=1e-12))
            function = lambda p: loss_fn(chosen=(p, *chosen[1:]), rejected=rejected, timesteps=timesteps, reduction="none").loss
            self.assertTrue(torch.autograd.gradcheck(function, (chosen[0],), atol=1e-4, fast_mode=True))
            with self.assertRaisesRegex(TypeError, "denominator"):
                call(reduction="sum", denominator=3.0)
            with self.assertRaisesRegex(ValueError, "reduction"):
                call(reduction="batchmean")


class Gradients(unittest.TestCase):
    def test_the_same_bits_whenever_the_gradient_is_formed(self):
        # Formed with the loss while nobody scales it, and in backward afterwards; both have to give the same.
        for dtype, kl in itertools.product((torch.float32, torch.bfloat16, torch.float64), (0.0, 0.1)):
            chosen, rejected, timesteps = support.batch(dtype=dtype, shape=(3, 200, 100))
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, kl_weight=kl)
            call = lambda: loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps).loss
            self.assertTrue(loss_fn._fuse)
            fused = support.gradients(call(), chosen[0], rejected[0])
            doubled = support.gradients(2 * call(), chosen[0], rejected[0])
            self.assertFalse(loss_fn._fuse)
            late = support.gradients(call(), chosen[0], rejected[0])
            for a, b, c in zip(fused, late, doubled):
                self.assertTrue(torch.equal(a, b))
                self.assertTrue(torch.equal(2 * a, c))
            self.assertTrue(loss_fn._fuse)

    def test_a_reference_wider_than_the_rest_keeps_the_width_of_the_gradient(self):
        chosen, rejected, _ = support.batch(dtype=torch.float32, shape=(1000,), near=1.0)
        chosen = (chosen[0], chosen[1].double(), chosen[2])
        for scale in (1.0, 2.0):  # formed with the loss, and in backward
            out = sdpo.PreferenceLoss("diffusion-dpo", beta=1.0)(chosen=chosen, rejected=rejected)
            (grad,) = torch.autograd.grad(scale * out.loss, chosen[0])
            exact = scale * (2 / 1000) * out.coefficients["a_chosen"][:, None] * (chosen[0].detach().double() - chosen[2].double())
            self.assertEqual(int((grad != exact.float()).sum()), 0)

    @support.needs_torch(2, 3)
    def test_a_grad_scaler_skips_the_step(self):
        chosen, rejected, timesteps = support.batch(dtype=torch.float32)
        parameter = torch.nn.Parameter(torch.zeros(1))
        optimizer = torch.optim.SGD([parameter], lr=1.0)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        for bad, moved in ((True, False), (False, True)):
            value = float("inf") if bad else 1.0
            policy = chosen[0].detach() + parameter * value if not bad else chosen[0].detach() * value + parameter
            out = sdpo.PreferenceLoss("diffusion-dpo", beta=50.0, non_finite="propagate")(chosen=(policy, *chosen[1:]), rejected=rejected)
            optimizer.zero_grad()
            scaler.scale(out.loss).backward()
            scaler.step(optimizer)
            scaler.update()
            self.assertEqual(bool(parameter.item() != 0), moved)

    def test_no_second_reading_of_chunks(self):
        # Views of a stacked batch are read in place, and a stacked policy gets one gradient.
        chosen, rejected, _ = support.batch()
        batch = stack(chosen, rejected, "halves")
        operands = _autograd.laid_out(_native.Operands(batch["policy"], None, batch["target"], None, batch["reference"], None, None, None, "halves", None))
        self.assertEqual(operands.policy_chosen.data_ptr(), batch["policy"].data_ptr())
        views = _native._branch_views(operands.policy_chosen, None, "halves", 4)
        self.assertEqual(views[1][0] - views[0][0], 4 * 3 * 8 * 8 * 8)


class Parts(unittest.TestCase):
    def test_parts_of_any_kind(self):
        chosen, rejected, timesteps = support.batch(shape=(24,))
        weights = sdpo.noise(3, 0, torch.empty(4, 24, dtype=torch.float64)).abs()
        other = {"chosen": weights, "rejected": 1.5 - weights.clamp(max=1)}
        for backend, (safeguard, given) in itertools.product(support.BACKENDS, ((None, weights), (0.5, weights), (None, other))):
            apart = given is other
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, safeguard=safeguard, safeguard_scope="batch", backend=backend)
            whole = loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps, element_weights=given)
            expected = support.gradients(whole.loss, chosen[0], rejected[0])
            pieces = [slice(0, 5), slice(5, 6), slice(6, 24)]
            part = lambda piece: {
                "chosen": tuple(t.detach()[:, piece] for t in chosen),
                "rejected": tuple(t.detach()[:, piece] for t in rejected),
                "element_weights": {branch: each[:, piece] for branch, each in given.items()} if apart else given[:, piece],
            }
            moments = sdpo.combine_moments([loss_fn.moments(**part(piece)) for piece in pieces])
            sums = moments.elements["rejected"] if apart else moments.elements
            self.assertTrue(torch.allclose(sums, (given["rejected"] if apart else given).sum(1), rtol=1e-14))
            out = loss_fn.objective(moments, timesteps=timesteps)
            self.assertTrue(torch.allclose(out.loss, whole.loss.detach(), rtol=1e-12))
            for piece in pieces:
                found = loss_fn.gradients(**part(piece), coefficients=out.coefficients, elements=moments.elements)
                for name, theirs in zip(("chosen", "rejected"), expected):
                    self.assertTrue(torch.allclose(found[name], theirs[:, piece], rtol=1e-12, atol=1e-16))

    def test_mistakes(self):
        chosen, rejected, timesteps = support.batch()
        loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0)
        moments = loss_fn.moments(chosen=chosen, rejected=rejected)
        other = loss_fn.moments(chosen=tuple(t[:2] for t in chosen), rejected=tuple(t[:2] for t in rejected))
        with self.assertRaisesRegex(ValueError, "of 4 rows"):
            sdpo.combine_moments([moments, other])
        for count in (-3.0, float("nan")):
            bad = dataclasses.replace(moments, elements=moments.elements.index_fill(0, torch.tensor(1), count))
            with self.assertRaisesRegex(ValueError, r"parts\[1\].elements to be >= 0"):
                sdpo.combine_moments([moments, bad])
        with self.assertRaisesRegex(TypeError, "parts to be a list"):
            sdpo.combine_moments([])
        with self.assertRaisesRegex(sdpo.SdpoError, "moments.cross to be given"):
            sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, safeguard=0.5).objective(moments)
        with self.assertRaisesRegex(ValueError, "all with cross"):
            sdpo.combine_moments([moments, loss_fn.moments(chosen=chosen, rejected=rejected, cross=True)])
        with self.assertRaisesRegex(TypeError, "coefficients"):
            loss_fn.gradients(chosen=chosen, rejected=rejected, coefficients={})
        coefficients = loss_fn.objective(moments).coefficients
        for elements in (0, -3.0, float("nan"), [192, 192, 0, 192], {"chosen": 192, "rejected": float("inf")}):
            with self.assertRaisesRegex(ValueError, r"elements.* to be above 0 and finite"):
                loss_fn.gradients(chosen=chosen, rejected=rejected, coefficients=coefficients, elements=elements)
        cached = {"policy": chosen[0], "target": chosen[2], "reference_error": [0.1] * 4}
        with self.assertRaisesRegex(sdpo.SdpoError, "drift"):
            sdpo.PreferenceLoss("dspo", beta=5.0).objective(loss_fn.moments(chosen=cached, rejected=rejected))
        own = loss_fn(chosen=cached, rejected=rejected).coefficients
        loss_fn.gradients(chosen=cached, rejected=rejected, coefficients=own)
        with self.assertRaisesRegex(TypeError, "coefficients.'b_chosen'. to be all 0 where the batch has a reference_error"):
            loss_fn.gradients(chosen=cached, rejected=rejected, coefficients={**own, "b_chosen": own["a_chosen"]})

    def test_element_weights_that_no_part_may_have(self):
        chosen, rejected, _ = support.batch(shape=(24,))
        weights = torch.ones(4, 24)
        for backend, bad in itertools.product(support.BACKENDS, (-1.0, float("inf"), float("nan"))):
            loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, backend=backend)
            with self.assertRaises(sdpo.SdpoError) as raised:
                loss_fn.moments(chosen=chosen, rejected=rejected, element_weights=weights.index_put((torch.tensor(2), torch.tensor(3)), torch.tensor(bad)))
            self.assertEqual(raised.exception.code, "ERR_SDPO_ELEMENT_WEIGHTS")
            empty = loss_fn.moments(chosen=chosen, rejected=rejected, element_weights=weights.index_fill(0, torch.tensor(1), 0))
            self.assertEqual(empty.elements.tolist(), [24, 0, 24, 24])  # other parts may have the weight


class Memory(unittest.TestCase):
    """The forms that hold less at a time give the same gradients."""

    def test_one_branch_at_a_time(self):
        chosen, rejected, timesteps = support.batch()
        model = torch.nn.Linear(8, 8).double()
        for options in ({"objective": "diffusion-dpo"}, {"objective": "sdpo", "kl_weight": 0.1}, {"objective": "dpo-cm"}):
            loss_fn = sdpo.PreferenceLoss(schedule=support.flat_schedule(), beta=50.0, **options)
            call = lambda c, r: loss_fn(chosen=(c, *chosen[1:]), rejected=(r, *rejected[1:]), timesteps=timesteps).loss
            inputs = chosen[0].detach(), rejected[0].detach()
            expected = torch.autograd.grad(call(*map(model, inputs)), list(model.parameters()))
            model.zero_grad()
            with torch.no_grad():
                constant = [model(x) for x in inputs]
            call(model(inputs[0]), constant[1]).backward()
            call(constant[0], model(inputs[1])).backward()
            for parameter, grad in zip(model.parameters(), expected):
                self.assertTrue(torch.allclose(parameter.grad, grad, rtol=1e-12))

    def test_cached_reference_errors(self):
        chosen, rejected, timesteps = support.batch()
        mask = torch.tensor([True, False] * 4)
        for given in ({}, {"element_weights": mask.expand(8, 8).unsqueeze(0).expand(3, 8, 8)}):
            loss_fn = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0)
            whole = loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps, **given)
            cached = lambda b: {"policy": b[0], "target": b[2], "reference_error": sdpo.reference_error(b[1], b[2], **given)}
            out = loss_fn(chosen=cached(chosen), rejected=cached(rejected), timesteps=timesteps, **given)
            grads = [support.gradients(each.loss, chosen[0], rejected[0]) for each in (whole, out)]
            for a, b in zip(*grads):
                self.assertTrue(torch.allclose(a, b, rtol=1e-9, atol=1e-15))

    def test_reference_errors_of_tensors_that_do_not_fit(self):
        reference = torch.zeros(4, 3, 8)
        for target in (torch.zeros(1, 3, 8), torch.zeros(3, 8), torch.zeros(4, 1, 8)):
            with self.assertRaisesRegex(ValueError, r"target to be of shape \[4, 3, 8\]"):
                sdpo.reference_error(reference, target)
        with self.assertRaisesRegex(ValueError, "element_weights to be of shape"):
            sdpo.reference_error(reference, reference, torch.ones(4, 8))
        with self.assertRaisesRegex(TypeError, "reference to be a tensor"):
            sdpo.reference_error(reference.long(), reference)


class Noise(unittest.TestCase):
    def test_autograd_notices_the_change(self):
        weight, values = torch.ones(8, requires_grad=True), torch.zeros(8)
        product = (weight * values).sum()
        sdpo.noise(1, 0, values)
        with self.assertRaisesRegex(RuntimeError, "modified by an inplace operation"):
            product.backward()

    def test_devices_that_it_cannot_write(self):
        with self.assertRaisesRegex(TypeError, "out to be a tensor on the CPU or on a CUDA device.*meta"):
            sdpo.noise(1, 0, torch.empty(4, device="meta"))


if __name__ == "__main__":
    unittest.main()
