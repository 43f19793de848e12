"""Errors of logit and gradient at beta = 5000 against float64 on the same numbers: squares in the predictions' dtype, float32 squares, and sdpo.

python benchmarks/python/accuracy.py

Four pairs of 4x64x64, stacked as halves, |policy - reference| about 0.01. The lines are those of a training script (Salesforce's DiffusionDPO): squares,
a mean over all but the batch, the difference of the policy's halves less that of the reference's. `logit`: the largest absolute error of a row's logit.
`gradient`: the norm of the gradient's error over the norm of the gradient, the error of rounding it to the predictions' dtype included.
"""

import torch
import torch.nn.functional as F

BETA = 5000.0
DTYPES = ("float16", "bfloat16", "float32")


def tensors():
    """policy, reference and target in float64, [8, 4, 64, 64]."""
    generator = torch.Generator().manual_seed(0)

    def draw(scale):
        return scale * torch.randn(8, 4, 64, 64, dtype=torch.float64, generator=generator)

    target = draw(1.0)
    reference = target + draw(0.4)
    return reference + draw(0.01), reference, target


def script(policy, reference, target, compute):
    """Logits and gradient as the script's lines give them, with predictions cast to `compute` first."""
    policy = policy.detach().requires_grad_()

    def errors(prediction):
        return (prediction.to(compute) - target.to(compute)).pow(2).mean(dim=[1, 2, 3])

    chosen, rejected = errors(policy).chunk(2)
    with torch.no_grad():
        reference_chosen, reference_rejected = errors(reference).chunk(2)
    inside = -0.5 * BETA * ((chosen - rejected) - (reference_chosen - reference_rejected))
    (gradient,) = torch.autograd.grad(-F.logsigmoid(inside).mean(), policy)
    return inside.detach().double(), gradient.double()


def ours(policy, reference, target):
    import sdpo

    policy = policy.detach().requires_grad_()
    out = sdpo.PreferenceLoss("diffusion-dpo", beta=BETA)(policy=policy, reference=reference, target=target, layout="halves")
    out.loss.backward()
    return out.rows["logit"].double(), policy.grad.double()


def errors(dtype):
    """{who: (error of the logit, error of the gradient)} for predictions of a dtype."""
    given = [tensor.to(getattr(torch, dtype)) for tensor in tensors()]
    logit, gradient = script(*[tensor.double() for tensor in given], torch.float64)
    found = {
        "squares in that dtype": script(*given, given[0].dtype),
        "float32 squares": script(*given, torch.float32),
        "sdpo": ours(*given),
    }
    return {name: ((a - logit).abs().max().item(), ((b - gradient).norm() / gradient.norm()).item()) for name, (a, b) in found.items()}


def table():
    """A row per dtype: the errors of the logit, then those of the gradient."""
    lines = []
    for dtype in DTYPES:
        found = errors(dtype)
        if not lines:
            head = [f"{name}: {what}" for what in ("logit", "gradient") for name in found]
            lines = ["| predictions | " + " | ".join(head) + " |", "|" + "---|" * (1 + len(head))]
        cells = [f"{values[i]:.1e}" for i in (0, 1) for values in found.values()]
        lines.append(f"| {dtype} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
