"""Shared by the tests: devices, golden cases, random batches, and the losses once more in plain PyTorch."""

import glob
import json
import math
import os
import re
import subprocess
import sys

import torch

import sdpo
from sdpo import _library

PYTHON_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ROOT = os.path.dirname(PYTHON_ROOT)
GOLDEN = sorted(glob.glob(os.path.join(ROOT, "test", "golden", "*.json")))
GOLDEN2 = sorted(glob.glob(os.path.join(ROOT, "test", "golden2", "*.json")))
# The two implementations of the passes; every formula is held to both.
BACKENDS = ("native", "torch")

CUDA = torch.cuda.is_available() and _library.library().has_cuda
DEVICES = ["cpu", "cuda"] if CUDA else ["cpu"]
TORCH = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])


def needs_torch(*version):
    """Leaves out, rather than skips, what older versions of torch do not have: no run of them could show it."""
    return lambda test: test if TORCH >= version else None


# Tolerances, each with where it comes from: golden cases were computed in float64 by another route; parity with the plain formula is
# what the package promises in float32.
GOLDEN_TOLERANCE = 1e-9
FLOAT32_PARITY = 1e-6


def snake(name):
    return re.sub(r"(?<=[a-z])([A-Z])", lambda match: "_" + match.group(1).lower(), name)


def load_golden(path):
    """One golden case: (name, schedule, options, timesteps, {branch: {tensor: float64 [rows, …]}}, expected, numbers per row, sizes of parts)."""
    with open(path, encoding="utf-8") as file:
        case = json.load(file, object_hook=_revive)
    options = {snake(name): value for name, value in case["options"].items()}
    eta = options.pop("eta", 1.0)
    schedule = sdpo.NoiseSchedule.from_diffusers(case["schedule"], inference_steps=case["inferenceSteps"], prediction_type=case["predictionType"], eta=eta)
    shape = [len(case["timesteps"]), *case["shape"]]
    branches = {
        branch: {name: torch.tensor(values, dtype=torch.float64).reshape(shape) for name, values in case[branch].items()} for branch in ("chosen", "rejected")
    }
    numbers = {snake(name): value for name, value in case.get("batch", {}).items()}
    return case["name"], schedule, options, case["timesteps"], branches, case["expected"], numbers, case.get("parts")


def _revive(entry):
    numbers = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
    return {key: [numbers.get(v, v) if isinstance(v, str) else v for v in value] if isinstance(value, list) else value for key, value in entry.items()}


def assert_close(test, name, actual, expected, size=1):
    """Equality as far as the golden files go: they were computed by another route, and hold the rounding residue of unit numbers where the exact value is 0."""
    expected = torch.as_tensor(expected, dtype=torch.float64).reshape(-1)
    actual = actual.detach().cpu().double().reshape(-1)
    finite = torch.isfinite(expected)
    special = torch.where(torch.isnan(expected), torch.isnan(actual), actual == expected)
    test.assertTrue(bool((finite | special).all()), f"{name}: {actual} is not {expected}")
    if bool(finite.any()):
        scale = expected[finite].abs().max()
        bound = GOLDEN_TOLERANCE * expected[finite].abs() + size * torch.finfo(torch.float64).eps * scale
        test.assertTrue(bool(((actual[finite] - expected[finite]).abs() <= bound).all()), f"{name}: {actual} is not {expected}")


def flat_schedule():
    return sdpo.NoiseSchedule.preset("sd15", inference_steps=20)


def batch(seed=0, rows=4, shape=(3, 8, 8), dtype=torch.float64, device="cpu", near=0.05, timesteps=(400, 600, 250, 800)):
    """(chosen, rejected, timesteps): predictions close to their targets, as a trained model's are; policies require a gradient."""
    generator = torch.Generator().manual_seed(seed)

    def draw(scale, center=0.0):
        return center + scale * torch.randn(rows, *shape, dtype=torch.float64, generator=generator)

    branches = []
    for _ in range(2):
        target = draw(1.0)
        reference = draw(near, target)
        policy = draw(near / 5, reference)
        tensors = [tensor.to(dtype).to(device) for tensor in (policy, reference, target)]
        branches.append((tensors[0].requires_grad_(), tensors[1], tensors[2]))
    return branches[0], branches[1], torch.tensor(list(timesteps)[:rows])


def plain_loss(chosen, rejected, omega, objective="sdpo", beta=500.0, clip=(0.9, 1.1), tau=0.9, kappa=1.0, sft=0.0, kl=0.0):
    """The losses of docs/mathematics.md written plainly: means over all dimensions but the first, difference of means, autograd."""

    def moments(policy, reference, target):
        dims = tuple(range(1, policy.dim()))
        error = ((policy - target) ** 2).mean(dims)
        return error, error - ((reference - target) ** 2).mean(dims), ((policy - reference) ** 2).mean(dims)

    (m_c, delta_c, q_c), (m_r, delta_r, q_r) = moments(*chosen), moments(*rejected)
    psi_c, psi_r = -beta / 2 * delta_c, -beta / 2 * delta_r
    w_c, w_r = torch.exp(-kappa * omega * m_c).detach(), torch.exp(-kappa * omega * m_r).detach()
    keep = ((w_c >= tau) & (w_r >= tau)).to(m_c.dtype)
    if objective == "diffusion-dpo":
        loss = torch.nn.functional.softplus(-(psi_c - psi_r))
    elif objective == "dpo-cm":
        weight = (w_c * w_r).sqrt().clamp(*clip)
        loss = keep * weight * torch.nn.functional.softplus(-(psi_c - psi_r))
    else:
        loss = keep * torch.nn.functional.softplus(-(w_c.clamp(*clip) * psi_c - w_r.clamp(*clip) * psi_r))
    return (loss + sft * m_c + kl * (q_c + q_r)).mean()


def gradients(loss, *policies):
    return torch.autograd.grad(loss, list(policies))


def leaves(chosen, rejected, dtype):
    """The same batch with every tensor converted, policies as fresh leaves."""
    convert = lambda branch: (branch[0].detach().to(dtype).requires_grad_(), branch[1].to(dtype), branch[2].to(dtype))
    return convert(chosen), convert(rejected)


def relative_error(actual, expected):
    actual, expected = actual.detach().double().cpu(), expected.detach().double().cpu()
    return ((actual - expected).norm() / expected.norm()).item()


def run_python(code, env=None, timeout=120):
    """Runs code in a fresh interpreter that finds the package."""
    environment = {**os.environ, "PYTHONPATH": PYTHON_ROOT, **(env or {})}
    return subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=timeout)
