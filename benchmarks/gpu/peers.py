"""Times the Diffusion-DPO loss and gradient of PyTorch on a GPU, each way validated against float64 before it is timed.

eager: the formula of the diffusers example, in float32; compiled and graphs: the same under torch.compile, tuned, without and with CUDA graphs;
triton: a straightforward two-kernel version. Where the Python package of this project is installed it is run beside them.

With --device cpu everything runs on the CPU at small shapes: a rehearsal, so that a GPU is not what finds a mistake in here. Its times mean nothing.
Triton takes part in it with TRITON_INTERPRET=1 in the environment.

Writes one JSON object to --out (default: standard output), again after every case, so that what was measured is kept when the time is up.
"""

import argparse
import json
import os
import statistics
import sys
import time

import torch
from collect import json_of

try:
    import triton
    import triton.language as tl
except ImportError:  # recorded in the output
    triton = None

try:
    import sdpo
except ImportError:
    sdpo = None

BETA = 500.0
SHAPES = {"sd15": (4, 64, 64), "sdxl": (4, 128, 128), "cogvideox": (13, 16, 60, 90), "wan2.1": (16, 21, 60, 104)}
REHEARSAL_SHAPES = {"small": (4, 24, 25)}  # 2400 elements: a whole block of the Triton kernels and a part of one
ROWS = (4, 1, 16, 64)  # in the order of worth
DTYPES = {"bfloat16": torch.bfloat16, "float32": torch.float32}


def make_batch(shape, rows, dtype, device):
    """policy, reference and target of both branches: references near the policy, as in training."""
    generator = torch.Generator(device).manual_seed(0)
    batch = []
    for _ in range(2):
        target = torch.randn((rows, *shape), device=device, generator=generator)
        policy = target + 0.3 * torch.randn((rows, *shape), device=device, generator=generator)
        reference = policy + 0.01 * torch.randn((rows, *shape), device=device, generator=generator)
        batch.append(tuple(x.to(dtype) for x in (policy, reference, target)))
        del policy, reference, target
    return batch


def formula(policy_c, reference_c, target_c, policy_r, reference_r, target_r):
    def error(u, t):
        return (u.float() - t.float()).pow(2).flatten(1).mean(1)

    model = error(policy_c, target_c) - error(policy_r, target_r)
    reference = error(reference_c, target_c) - error(reference_r, target_r)
    return -torch.nn.functional.logsigmoid(-0.5 * BETA * (model - reference)).mean()


def with_gradients(loss_of):
    def call(batch):
        (policy_c, *rest_c), (policy_r, *rest_r) = batch
        policy_c, policy_r = policy_c.detach().requires_grad_(), policy_r.detach().requires_grad_()
        loss = loss_of(policy_c, *rest_c, policy_r, *rest_r)
        gradients = torch.autograd.grad(loss, (policy_c, policy_r))
        return loss.detach(), gradients

    return call


def exact(batch):
    """Loss and gradients in float64, row by row so that it fits beside the batch."""
    (uc, rc, tc), (ur, rr, tr) = batch
    rows, losses, gradients = uc.shape[0], [], ([], [])
    for i in range(rows):
        wide = [x[i].double() for x in (uc, rc, tc, ur, rr, tr)]
        d_c, h_c, d_r, h_r = wide[0] - wide[2], wide[0] - wide[1], wide[3] - wide[5], wide[3] - wide[4]
        z = -0.5 * BETA * ((h_c * (2 * d_c - h_c)).mean() - (h_r * (2 * d_r - h_r)).mean())
        losses.append(torch.nn.functional.softplus(-z))
        slope = torch.sigmoid(-z) * BETA / (d_c.numel() * rows)
        gradients[0].append((slope * d_c).to(torch.float32))
        gradients[1].append((-slope * d_r).to(torch.float32))
    return torch.stack(losses).mean(), tuple(torch.stack(g) for g in gradients)


if triton is not None:

    @triton.jit
    def moments_kernel(policy, reference, target, sums, size, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        u = tl.load(policy + row * size + at, mask=inside, other=0).to(tl.float32)
        r = tl.load(reference + row * size + at, mask=inside, other=0).to(tl.float32)
        t = tl.load(target + row * size + at, mask=inside, other=0).to(tl.float32)
        d, h = u - t, u - r
        tl.atomic_add(sums + row, tl.sum(h * (2 * d - h), 0))

    @triton.jit
    def gradient_kernel(policy, target, slopes, out, size, BLOCK: tl.constexpr):
        row = tl.program_id(0).to(tl.int64)
        at = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
        inside = at < size
        u = tl.load(policy + row * size + at, mask=inside, other=0).to(tl.float32)
        t = tl.load(target + row * size + at, mask=inside, other=0).to(tl.float32)
        tl.store(out + row * size + at, tl.load(slopes + row) * (u - t), mask=inside)

    def triton_call(batch):
        rows, size = batch[0][0].shape[0], batch[0][0][0].numel()
        block = 2048
        grid = (rows, triton.cdiv(size, block))
        sums = torch.zeros((2, rows), device=batch[0][0].device)
        for branch, (policy, reference, target) in enumerate(batch):
            moments_kernel[grid](policy, reference, target, sums[branch], size, BLOCK=block)
        z = -0.5 * BETA * (sums[0] - sums[1]) / size
        slope = torch.sigmoid(-z) * (BETA / (size * rows))
        slopes = torch.stack((slope, -slope))
        gradients = []
        for branch, (policy, _, target) in enumerate(batch):
            out = torch.empty_like(policy)
            gradient_kernel[grid](policy, target, slopes[branch], out, size, BLOCK=block)
            gradients.append(out)
        return torch.nn.functional.softplus(-z).mean(), tuple(gradients)


def ours_call():
    schedule = sdpo.NoiseSchedule.preset("sdxl", inference_steps=50)
    loss_fn = sdpo.PreferenceLoss(objective="diffusion-dpo", schedule=schedule, beta=BETA)

    def call(batch):
        chosen, rejected = [(p.detach().requires_grad_(), r, t) for p, r, t in batch]
        timesteps = torch.full((chosen[0].shape[0],), 500, device=chosen[0].device)
        loss = loss_fn(chosen=chosen, rejected=rejected, timesteps=timesteps).loss
        return loss.detach(), torch.autograd.grad(loss, (chosen[0], rejected[0]))

    return call


def validate(name, call, batch):
    """Raises when loss or gradients are off by more than their dtype and the formula's cancellation allow; returns the largest errors."""
    loss, gradients = call(batch)
    expected, wanted = exact(batch)
    size = batch[0][0][0].numel()
    # The formula subtracts two means of about 0.09, each right to some units of float32, and multiplies the difference by beta / 2.
    allowed = 0.5 * BETA * 4 * 0.1 * 64 * torch.finfo(torch.float32).eps
    loss_error = abs(loss.double().item() - expected.item())
    if not loss_error <= allowed:
        raise AssertionError(f"{name}: loss {loss.item()} instead of {expected.item()} (D = {size})")
    unit = torch.finfo(batch[0][0].dtype).eps
    gradient_error = 0.0
    for ours, exactly in zip(gradients, wanted):
        scale = exactly.abs().max().item()
        gradient_error = max(gradient_error, (ours.float() - exactly).abs().max().item() / scale)
    if not gradient_error <= unit + allowed:
        raise AssertionError(f"{name}: gradient off by {gradient_error} of its largest element")
    return {"lossError": loss_error, "gradientError": gradient_error}


class Gpu:
    """Device time, from events. Before each sample the device is kept busy with other work, so that nobody waits for Python."""

    def __init__(self):
        self.name = torch.cuda.get_device_name()
        self.ballast = torch.empty(2**28, device="cuda")

    def microseconds(self, call, each):
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        for _ in range(8):
            self.ballast.zero_()
        begin.record()
        for _ in range(each):
            call()
        end.record()
        end.synchronize()
        return begin.elapsed_time(end) * 1e3 / each

    def extra_bytes(self, call):
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    def between_cases(self):
        torch.cuda.empty_cache()


class Cpu:
    """Wall-clock time."""

    name = "cpu"

    def microseconds(self, call, each):
        begin = time.perf_counter()
        for _ in range(each):
            call()
        return (time.perf_counter() - begin) * 1e6 / each

    def extra_bytes(self, call):
        call()
        return None

    def between_cases(self):
        pass


def measure(machine, call, batch, samples):
    """As the check program measures: short calls many at a time. `singleCall`: one call between two events.

    Where the host does not keep up with many, the time of one is what the device takes. `hostMicroseconds`: how long the host is at a call.
    """
    once = lambda: call(batch)
    for _ in range(5):
        once()
    extra = machine.extra_bytes(once)
    if extra is not None:
        extra -= sum(p.numel() * p.element_size() for p, _, _ in batch)
    times = [machine.microseconds(once, 1) for _ in range(samples)]
    single = statistics.median(times)
    if single < 100:
        many = [machine.microseconds(once, 16) for _ in range(samples)]
        if statistics.median(many) < single:
            times = many
    begin = time.perf_counter()
    for _ in range(16):
        once()
    host = (time.perf_counter() - begin) * 1e6 / 16
    quartiles = statistics.quantiles(times, n=4)
    return {"microseconds": quartiles[1], "quartiles": [quartiles[0], quartiles[2]], "singleCall": single, "hostMicroseconds": host, "extraBytes": extra}


def peers_of(device):
    """The calls by name, and why others are missing."""
    compiled = lambda mode: with_gradients(torch.compile(formula, mode=mode, dynamic=False))
    calls = {"eager": with_gradients(formula), "compiled": compiled("max-autotune-no-cudagraphs"), "graphs": compiled("max-autotune")}
    missing = []
    if triton is None:
        missing.append({"peer": "triton", "reason": "Triton is not installed"})
    elif device == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        missing.append({"peer": "triton", "reason": "on the CPU it needs TRITON_INTERPRET=1"})
    else:
        calls["triton"] = triton_call
    try:
        calls["package"] = ours_call()
    except Exception as error:  # not installed, or its library is missing or another version's
        missing.append({"peer": "package", "reason": first_line(error)})
    return calls, missing


def first_line(error):
    return f"{type(error).__name__}: {error}".splitlines()[0]


def times_of(file_name):
    """What the check program timed."""
    timings = (json_of(file_name) if file_name else None) or {}  # the peers are worth measuring without it
    return {(t["shape"], t["dtype"], t["rows"]): t["microseconds"] for t in timings.get("timings", [])}


def write(out, results):
    if out is None:
        return
    with open(out + ".new", "w", encoding="utf-8") as file:
        json.dump(results, file, indent=2)
        file.write("\n")
    os.replace(out + ".new", out)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--ours", help="the JSON of the check program of the same run and device; its times are compared")
    parser.add_argument("--quick", action="store_true", help="fewer rows and samples")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="after these no further case begins; the rest is listed as skipped")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--out", help="the file to write; default: standard output")
    arguments = parser.parse_args()
    if arguments.device == "cuda" and not torch.cuda.is_available():
        sys.exit("PyTorch sees no CUDA device")
    rehearsal = arguments.device == "cpu"
    machine = Cpu() if rehearsal else Gpu()

    deadline = time.monotonic() + arguments.seconds
    calls, skipped = peers_of(arguments.device)
    ours = times_of(arguments.ours)
    results = {
        "gpu": machine.name,
        "commit": arguments.commit,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "triton": triton.__version__ if triton is not None else None,
        "package": sdpo.__version__ if sdpo is not None else None,
        "results": [],
        "skipped": skipped,
    }
    left_out = 0
    shapes = REHEARSAL_SHAPES if rehearsal else SHAPES
    samples = 3 if rehearsal else 10 if arguments.quick else 30
    for dtype_name, dtype in DTYPES.items():
        for rows in ROWS[:2] if arguments.quick or rehearsal else ROWS:
            for shape_name, shape in sorted(shapes.items(), key=lambda item: -torch.Size(item[1]).numel()):
                batch = make_batch(shape, rows, dtype, arguments.device)
                for name, call in calls.items():
                    case = {"peer": name, "shape": shape_name, "dtype": dtype_name, "rows": rows}
                    if time.monotonic() > deadline:
                        left_out += 1
                        continue
                    try:
                        case.update(validate(name, call, batch))
                        case.update(measure(machine, call, batch, samples))
                    except Exception as error:  # whatever a compiler throws: the other peers are measured all the same
                        skipped.append({**case, "reason": first_line(error)})
                    else:
                        if (shape_name, dtype_name, rows) in ours:
                            case["ratio"] = case["microseconds"] / ours[shape_name, dtype_name, rows]
                        results["results"].append(case)
                    write(arguments.out, results)
                del batch
                machine.between_cases()
                torch._dynamo.reset()  # else, beyond eight kinds of arguments, it would go on without compiling
    if left_out:
        skipped.append({"cases": left_out, "reason": "out of time"})
    write(arguments.out, results)
    if arguments.out is None:
        print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
