"""PyTorch and NumPy in one long-lived process: answers JSON requests, one a line, and times calls inside itself."""

import json
import math
import os
import sys
import time

# Set before the libraries load: their pools are made then.
THREADS = int(sys.argv[1])
for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = str(THREADS)

try:
    import numpy
except ImportError:
    numpy = None
try:
    import torch
    import torch.nn.functional as F
except ImportError:
    torch = None

BRANCHES = ("chosen", "rejected")
TENSORS = ("policy", "reference", "target")


class TorchCase:
    """The loss as it is written in training scripts: errors in float32, weights detached, gradients by autograd."""

    def __init__(self, case):
        self.case = case
        self.inputs = {}
        for branch in BRANCHES:
            for tensor in TENSORS:
                self.inputs[branch, tensor] = self.load(f"{branch}.{tensor}")
        self.policies = [self.inputs[branch, "policy"].requires_grad_(case["gradients"]) for branch in BRANCHES]
        self.omega = torch.tensor(case["omega"], dtype=torch.float32)

    def load(self, name):
        bits = torch.float32 if self.case["dtype"] == "float32" else torch.int16
        count = self.case["rows"] * self.case["size"]
        flat = torch.from_file(os.path.join(self.case["folder"], name), shared=False, size=count, dtype=bits).clone()
        return flat.view(getattr(torch, self.case["dtype"])).view(self.case["rows"], self.case["size"])

    def loss(self):
        case = self.case
        error, reward = [], []
        for branch in BRANCHES:
            policy, reference, target = (self.inputs[branch, tensor].float() for tensor in TENSORS)
            error.append(F.mse_loss(policy, target, reduction="none").mean(dim=1))
            with torch.no_grad():
                of_reference = F.mse_loss(reference, target, reduction="none").mean(dim=1)
            reward.append(-0.5 * case["beta"] * (error[-1] - of_reference))
        if case["objective"] == "diffusion-dpo":
            return -F.logsigmoid(reward[0] - reward[1]).mean()
        log_weight = [-self.omega * e.detach() for e in error]
        keep = (torch.minimum(*log_weight) >= math.log(case["maskThreshold"])).float()
        low, high = 1 - case["clipRange"], 1 + case["clipRange"]
        if case["objective"] == "dpo-cm":
            pair = (0.5 * (log_weight[0] + log_weight[1])).exp().clamp(low, high)
            return -(keep * pair * F.logsigmoid(reward[0] - reward[1])).mean()
        weight = [value.exp().clamp(low, high) for value in log_weight]
        return -(keep * F.logsigmoid(weight[0] * reward[0] - weight[1] * reward[1])).mean()

    def __call__(self):
        if not self.case["gradients"]:
            with torch.no_grad():
                return self.loss(), None
        loss = self.loss()
        return loss, torch.autograd.grad(loss * self.case["gradientScale"], self.policies)

    def save(self, folder):
        loss, gradients = self()
        for branch, gradient in zip(BRANCHES, gradients or ()):
            bits = gradient if gradient.dtype == torch.float32 else gradient.view(torch.int16)
            bits.numpy().tofile(os.path.join(folder, f"{branch}.gradient"))
        return float(loss)


class NumpyCase:
    """The loss with its gradient by hand, in float32, without temporaries that can be avoided."""

    def __init__(self, case):
        self.case = case
        shape = (case["rows"], case["size"])
        self.inputs = {
            (branch, tensor): numpy.fromfile(os.path.join(case["folder"], f"{branch}.{tensor}"), numpy.float32).reshape(shape)
            for branch in BRANCHES
            for tensor in TENSORS
        }
        self.omega = numpy.array(case["omega"])

    def __call__(self):
        case = self.case
        objective, size, rows = case["objective"], case["size"], case["rows"]
        differences, error, reward = [], [], []
        for branch in BRANCHES:
            policy, reference, target = (self.inputs[branch, tensor] for tensor in TENSORS)
            differences.append(policy - target)
            error.append(mean_square(differences[-1]))
            reward.append(-0.5 * case["beta"] * (error[-1] - mean_square(reference - target)))
        keep, pair, weight = numpy.ones(rows), numpy.ones(rows), [numpy.ones(rows), numpy.ones(rows)]
        if objective != "diffusion-dpo":
            log_weight = [-self.omega * e for e in error]
            keep = (numpy.minimum(*log_weight) >= math.log(case["maskThreshold"])).astype(float)
            clip = lambda value: numpy.exp(value).clip(1 - case["clipRange"], 1 + case["clipRange"])
            if objective == "dpo-cm":
                pair = clip((log_weight[0] + log_weight[1]) / 2)
            else:
                weight = [clip(value) for value in log_weight]
        logit = weight[0] * reward[0] - weight[1] * reward[1]
        loss = numpy.mean(keep * pair * numpy.logaddexp(0, -logit))
        if not case["gradients"]:
            return loss, None
        slope = -keep * pair / (1 + numpy.exp(logit)) * (-0.5 * case["beta"]) * 2 / size / rows
        for sign, w, d in zip((1, -1), weight, differences):
            d *= (sign * slope * w).astype(numpy.float32)[:, None]
        return loss, differences

    def save(self, folder):
        loss, gradients = self()
        for branch, gradient in zip(BRANCHES, gradients or ()):
            gradient.tofile(os.path.join(folder, f"{branch}.gradient"))
        return float(loss)


def mean_square(x):
    return numpy.einsum("ij,ij->i", x, x).astype(float) / x.shape[1]


def status(field):
    with open("/proc/self/status") as lines:
        for line in lines:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    raise KeyError(field)


def extra_peak(work):
    try:
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")
    except OSError:
        return None
    before = status("VmRSS")
    work()
    return max(0, status("VmHWM") - before)


CASES = {"PyTorch": TorchCase, "NumPy": NumpyCase}


def answer(request, live):
    operation = request["operation"]
    if operation == "versions":
        return {
            "PyTorch": torch and torch.__version__,
            "NumPy": numpy and numpy.__version__,
            "Python": sys.version.split()[0],
        }
    if operation == "prepare":
        live[request["id"]] = CASES[request["provider"]](request["case"])
        return None
    if operation == "dispose":
        del live[request["id"]]
        return None
    case = live[request["id"]]
    if torch is not None:
        torch.set_num_threads(request["threads"])
    if operation == "time":
        start = time.perf_counter_ns()
        for _ in range(request["calls"]):
            case()
        return (time.perf_counter_ns() - start) / request["calls"]
    if operation == "outcome":
        return case.save(request["folder"])
    if operation == "extraBytes":
        return extra_peak(case)
    raise ValueError(operation)


def main():
    live = {}
    for line in sys.stdin:
        try:
            reply = {"value": answer(json.loads(line), live)}
        except Exception as error:  # every failure belongs to the case that caused it, and is reported there
            reply = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(reply), flush=True)


main()
