"""torch.compile: one graph without a break where custom operators exist (torch >= 2.4), the same numbers as without it."""

import unittest
import unittest.mock

import torch

import sdpo
from sdpo import _autograd, _backends, _library, _native
from sdpo import loss as loss_module

from . import support


@support.needs_torch(2, 4)  # custom operators
class Compile(unittest.TestCase):
    def test_full_graph(self):
        for schedule in (support.flat_schedule(), sdpo.NoiseSchedule.preset("sd3"), sdpo.NoiseSchedule.preset("wan2.1-1.3b")):
            for device in support.DEVICES:
                loss_fn = sdpo.PreferenceLoss("sdpo", schedule, 5.0, kl_weight=0.1, mask_threshold=0.0)
                model = torch.nn.Linear(8, 8).to(device)

                def step(x0, x1, noise, timesteps):
                    chosen_target, rejected_target = (schedule.target(x, noise, timesteps) for x in (x0, x1))
                    out = loss_fn(
                        chosen=(model(x0), x1, chosen_target),
                        rejected=(model(x1), x0, rejected_target),
                        timesteps=timesteps,
                        row_weights=torch.ones_like(timesteps),
                    )
                    return out.loss, out.rows["logit"], out.metrics["implicit_accuracy"]

                compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
                for rows in (4, 3):
                    x0, x1, noise = (sdpo.noise(i, 0, torch.empty(rows, 3, 8, 8)).to(device) for i in range(3))
                    timesteps = torch.tensor([400, 600, 250, 800], device=device)[:rows]
                    results = []
                    for function in (step, compiled):
                        model.zero_grad()
                        out = function(x0, x1, noise, timesteps)
                        out[0].backward()
                        results.append([*(value.detach() for value in out), model.weight.grad.clone()])
                    for eager, graph in zip(*results):
                        self.assertTrue(torch.allclose(eager, graph, rtol=1e-6, atol=1e-9))

    def test_the_choice_of_a_backend_is_traced_for_a_gpu(self):
        def step(x):
            chosen = _backends.backend_for(torch.device("cuda", 0), None)
            return x + (1 if chosen is _native else 2)

        with unittest.mock.patch.object(_library.library(), "has_cuda", True):
            self.assertEqual(torch.compile(step, fullgraph=True, backend="eager")(torch.zeros(1)).item(), 1)

    def test_dynamic_shapes_and_several_schedules(self):
        schedules = [sdpo.NoiseSchedule.preset("sd3"), support.flat_schedule(), sdpo.NoiseSchedule.flow(shift=2.0)]
        for dynamic in (True, None):
            torch._dynamo.reset()
            for schedule in schedules:
                loss_fn = sdpo.PreferenceLoss("sdpo", schedule, 5.0, mask_threshold=0.0)

                def step(policy, reference, target, timesteps):
                    return loss_fn(policy=policy, reference=reference, target=target, layout="halves", timesteps=timesteps).loss

                compiled = torch.compile(step, fullgraph=True, dynamic=dynamic, backend="aot_eager")
                for rows in (4, 6, 8):
                    policy, reference, target = (sdpo.noise(i, 0, torch.empty(rows, 3, 4)) for i in range(3))
                    timesteps = torch.linspace(10, 900, rows // 2).round()
                    grads = []
                    for function in (step, compiled):
                        leaf = policy.clone().requires_grad_()
                        function(leaf, reference, target, timesteps).backward()
                        grads.append(leaf.grad)
                    self.assertTrue(torch.equal(*grads))

    def test_the_operators_pass_pytorchs_own_check(self):
        chosen, rejected, timesteps = support.batch(rows=2, shape=(3, 2))
        stacked = dict(zip(("policy", "reference", "target"), (torch.cat([t.detach() for t in pair]) for pair in zip(chosen, rejected))))
        stacked["policy"].requires_grad_()
        for options in ({"objective": "diffusion-dpo"}, {"objective": "sdpo", "safeguard": 0.5}, {"objective": "dpo-cm", "backend": "torch", "kl_weight": 0.1}):
            loss_fn = sdpo.PreferenceLoss(schedule=support.flat_schedule(), beta=50.0, **options)
            for batch in ({"chosen": chosen, "rejected": rejected}, {**stacked, "layout": "halves"}, {**stacked, "layout": "interleaved", "reduction": "none"}):
                arguments = operator_arguments(loss_fn, **batch, timesteps=timesteps)
                torch.library.opcheck(torch.ops.sdpo.objective.default, arguments)
                loss, row_outputs, _ = torch.ops.sdpo.objective(*arguments)
                tensors = [None if t is None else t.detach() for t in arguments[:8]]
                two = arguments[1] is not None
                torch.library.opcheck(
                    torch.ops.sdpo.gradients.default,
                    (*tensors, row_outputs.detach(), torch.ones_like(loss.detach()), arguments[13], True, two, 0, arguments[18]),
                )
        x = [sdpo.noise(i, 0, torch.empty(2, 3, 4)) for i in range(2)]
        a = torch.tensor([0.5, 2.0], dtype=torch.float64)
        torch.library.opcheck(torch.ops.sdpo.combine.default, (a, x[0], a, x[1]))


def operator_arguments(loss_fn, **batch):
    """What a call hands to the operator where it is traced."""
    seen = []

    def capture(call):
        seen.append(_autograd.operator_arguments(call))
        return None, None, None

    with unittest.mock.patch.object(loss_module, "tracing", lambda: True), unittest.mock.patch.object(_autograd, "traced", capture):
        loss_fn(**batch)
    return seen[0]


@support.needs_torch(2, 4)  # custom operators
class Tracing(unittest.TestCase):
    """Whoever looks at the loss without values must get what it needs, and leave nothing behind."""

    def setUp(self):
        self.chosen, self.rejected, self.timesteps = support.batch(dtype=torch.float32)
        self.vp = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 50.0, mask_threshold=0.0)
        self.flow = sdpo.PreferenceLoss("sdpo", sdpo.NoiseSchedule.preset("sd3"), 50.0, mask_threshold=0.0)

    def call(self, loss_fn, policy=None, timesteps=None):
        chosen = self.chosen if policy is None else (policy, *self.chosen[1:])
        return loss_fn(chosen=chosen, rejected=self.rejected, timesteps=self.timesteps if timesteps is None else timesteps).loss

    def test_fake_tensors_do_not_spoil_the_loss(self):
        for schedule in (lambda: support.flat_schedule(), lambda: sdpo.NoiseSchedule.preset("sd3")):
            plain = [tuple(tensor.detach() for tensor in branch) for branch in (self.chosen, self.rejected)]
            with torch._subclasses.FakeTensorMode() as mode:
                # Made and used under fake tensors, then used in earnest.
                loss_fn = sdpo.PreferenceLoss("sdpo", schedule(), 50.0, mask_threshold=0.0)
                fakes = [tuple(map(mode.from_tensor, branch)) for branch in plain]
                out = loss_fn(chosen=fakes[0], rejected=fakes[1], timesteps=mode.from_tensor(self.timesteps))
                self.assertEqual((tuple(out.loss.shape), out.loss.dtype), ((), torch.float32))
            fresh = sdpo.PreferenceLoss("sdpo", schedule(), 50.0, mask_threshold=0.0)
            self.assertTrue(torch.equal(self.call(loss_fn), self.call(fresh)))

    def test_default_devices(self):
        with torch.device("meta"):
            schedules = [support.flat_schedule(), sdpo.NoiseSchedule.preset("sd3")]
            losses = [sdpo.PreferenceLoss("sdpo", schedule, 50.0, mask_threshold=0.0) for schedule in schedules]
            inside = [self.call(loss_fn, timesteps=[400, 600, 250, 800]) for loss_fn in losses]
            for loss in inside:
                loss.backward()
            self.assertEqual([schedule.transition(400.0).omega for schedule in schedules], [s.transition(400.0).omega for s in schedules])
        for loss, expected in zip(inside, (self.vp, self.flow)):
            self.assertTrue(torch.equal(loss, self.call(expected)))
        there = lambda branch: tuple(tensor.detach().to("meta") for tensor in branch)
        out = self.vp(chosen=there(self.chosen), rejected=there(self.rejected), timesteps=self.timesteps.to("meta"))
        self.assertEqual(out.loss.device.type, "meta")

    def test_export_and_make_fx(self):
        from torch.fx.experimental.proxy_tensor import make_fx

        for loss_fn in (self.vp, self.flow):

            class Module(torch.nn.Module):
                def forward(self, policy, reference, target, timesteps):
                    half = lambda tensor: tensor.chunk(2)
                    (a, b), (c, d), (e, f) = half(policy), half(reference), half(target)
                    return loss_fn(chosen=(a, c, e), rejected=(b, d, f), timesteps=timesteps).loss

            stacked = [torch.cat([t.detach() for t in pair]) for pair in zip(self.chosen, self.rejected)]
            expected = Module()(*stacked, self.timesteps)
            program = torch.export.export(Module(), (*stacked, self.timesteps), strict=False)
            self.assertTrue(torch.equal(program.module()(*stacked, self.timesteps), expected))
            for mode in ("real", "fake", "symbolic"):
                graph = make_fx(Module(), tracing_mode=mode)(*stacked, self.timesteps)
                self.assertIn("sdpo.objective", graph.code)
                self.assertTrue(torch.equal(graph(*stacked, self.timesteps), expected))
            self.assertTrue(torch.equal(Module()(*stacked, self.timesteps), expected))  # nothing is left behind

    def test_func_grad(self):
        for loss_fn in (self.vp, self.flow):
            policy = self.chosen[0].detach()
            found = torch.func.grad(lambda p: self.call(loss_fn, p))(policy)
            (expected,) = torch.autograd.grad(self.call(loss_fn, policy.requires_grad_()), policy)
            self.assertTrue(torch.equal(found, expected))

    def test_vmap_and_jvp_say_what_they_cannot(self):
        policy = torch.stack([self.chosen[0].detach()] * 2)
        with self.assertRaisesRegex(Exception, "torch.vmap"):
            torch.func.vmap(lambda p: self.call(self.vp, p))(policy)
        with self.assertRaisesRegex(Exception, "forward"):
            torch.func.jvp(lambda p: self.call(self.vp, p), (policy[0],), (policy[0],))

    def test_subclasses_are_refused_with_advice(self):
        class Wrapped(torch.Tensor):
            pass

        with self.assertRaisesRegex(sdpo.SdpoTypeError, "as_subclass"):
            self.call(self.vp, self.chosen[0].detach().as_subclass(Wrapped))

        class Sharded(Wrapped):  # what DTensor offers
            to_local = full_tensor = None

        with self.assertRaisesRegex(sdpo.SdpoTypeError, r"to_local\(\).*group=.*full_tensor\(\)"):
            self.call(self.vp, self.chosen[0].detach().as_subclass(Sharded))
        self.call(self.vp, torch.nn.Parameter(self.chosen[0].detach())).backward()


if __name__ == "__main__":
    unittest.main()
