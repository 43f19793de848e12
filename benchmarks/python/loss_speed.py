"""The loss in PyTorch on the CPU, forward and backward: ours against the plain lines, eager and compiled, in one run of interleaved rounds.

python3 benchmarks/python/loss_speed.py --out benchmarks/results/python-cpu.json
python3 benchmarks/python/loss_speed.py --memory benchmarks/results/python-cpu.json      # adds extraBytes to the cases of a file

Every case is validated against float64 before it is timed. A round times each peer once; reported are the least, the median and the quartiles of
the rounds, since a busy machine moves all peers of a round together.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))
CASES = [((2, 4, 64, 64), "float32"), ((8, 4, 128, 128), "float32"), ((4, 16, 13, 60, 90), "float32"), ((4, 16, 13, 60, 90), "bfloat16")]
BETA = 5000.0


def peers():
    import torch
    import torch.nn.functional as F

    import sdpo

    def plain(policy, reference, target):
        """Diffusion-DPO as training scripts write it: float32 squares, means over all but the batch, beta / 2; halves."""
        errors = (policy.float() - target.float()).pow(2).mean(dim=list(range(1, policy.dim())))
        chosen, rejected = errors.chunk(2)
        with torch.no_grad():
            reference_errors = (reference.float() - target.float()).pow(2).mean(dim=list(range(1, policy.dim())))
            reference_chosen, reference_rejected = reference_errors.chunk(2)
        inside = -0.5 * BETA * ((chosen - rejected) - (reference_chosen - reference_rejected))
        return -F.logsigmoid(inside).mean()

    def stacked(loss_fn):
        return lambda policy, reference, target: loss_fn(policy=policy, reference=reference, target=target, layout="halves").loss

    loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=BETA)

    def chunks(policy, reference, target):
        chosen, rejected = zip(*(tensor.chunk(2) for tensor in (policy, reference, target)))
        return loss_fn(chosen=chosen, rejected=rejected).loss

    def scaled(policy, reference, target):
        """As under gradient accumulation or a GradScaler: the gradient is formed in backward, in a second reading."""
        return stacked(scaled_loss_fn)(policy, reference, target) / 4

    scaled_loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=BETA)
    return plain, {
        "eager": plain,
        "compiled": torch.compile(plain, dynamic=False),
        "sdpo": stacked(loss_fn),
        "sdpo, loss scaled": scaled,
        "sdpo, two branches": chunks,
        "sdpo, backend torch": stacked(sdpo.PreferenceLoss("diffusion-dpo", beta=BETA, backend="torch")),
    }


def batch(shape, dtype):
    import torch

    generator = torch.Generator().manual_seed(0)
    target = torch.randn(shape, generator=generator)
    reference = target + 0.4 * torch.randn(shape, generator=generator)
    policy = reference + 0.01 * torch.randn(shape, generator=generator)
    return [tensor.to(getattr(torch, dtype)) for tensor in (policy.requires_grad_(), reference, target)]


def measure(shape, dtype, rounds, seconds):
    import torch

    torch._dynamo.reset()
    plain, calls = peers()
    tensors = [tensor.detach() for tensor in batch(shape, dtype)]
    policy = tensors[0].requires_grad_()
    wide = [tensor.detach().double().requires_grad_() for tensor in tensors]
    exact = exact_loss(*wide)
    (exact_gradient,) = torch.autograd.grad(exact, wide[0])
    results = {}
    for name, call in calls.items():
        loss = call(policy, *tensors[1:])
        (gradient,) = torch.autograd.grad(loss, policy)
        scale = 4 if "scaled" in name else 1
        results[name] = {
            "lossError": abs(loss.item() * scale / exact.item() - 1),
            "gradientError": ((gradient.double() * scale - exact_gradient).norm() / exact_gradient.norm()).item(),
        }
        assert results[name]["gradientError"] < 0.05, (name, results[name])

    def run(call):
        policy.grad = None
        call(policy, *tensors[1:]).backward()

    counts = {}
    for name, call in calls.items():
        for _ in range(3):
            run(call)
        start = time.perf_counter()
        run(call)
        counts[name] = max(1, int(seconds / (time.perf_counter() - start)))
    times = {name: [] for name in calls}
    for _ in range(rounds):
        for name, call in calls.items():
            start = time.perf_counter()
            for _ in range(counts[name]):
                run(call)
            times[name].append((time.perf_counter() - start) / counts[name] * 1e6)
    for name, values in times.items():
        low, median, high = statistics.quantiles(values, n=4)
        results[name].update(microseconds={"least": min(values), "quartiles": [low, high], "median": median})
    return results


def extra_bytes(shape, dtype, name):
    """How far the resident memory rises above what it was, at its highest, in a call that has been made before; gradient included."""
    _, calls = peers()
    policy, reference, target = batch(shape, dtype)
    policy = policy.detach().requires_grad_()

    def run():
        policy.grad = None
        calls[name](policy, reference, target).backward()

    for _ in range(3):
        run()
    policy.grad = None
    gc.collect()
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before = resident("VmRSS")
    run()
    return max(0, resident("VmHWM") - before)


def resident(field):
    with open("/proc/self/status", encoding="ascii") as file:
        return next(int(line.split()[1]) * 1024 for line in file if line.startswith(field + ":"))


def add_memory(path):
    """Every peer in a process of its own, where the allocator keeps nothing that was freed."""
    with open(path, encoding="utf-8") as file:
        result = json.load(file)
    # glibc maps what is larger than this, and unmaps it when it is freed.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SDPO_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    for case in result["threads"]["1"]:
        for name, found in case["peers"].items():
            wanted = json.dumps([case["shape"], case["dtype"], name])
            ran = subprocess.run([sys.executable, __file__, "--memory-child", wanted], env=environment, stdout=subprocess.PIPE, check=True)
            found["extraBytes"] = int(ran.stdout.splitlines()[-1])
            print(case["shape"], case["dtype"], name, found["extraBytes"], file=sys.stderr)
    write(path, result)


def write(path, result):
    with open(path, "w", encoding="utf-8") as file:
        json.dump(result, file, indent=1)
        file.write("\n")


def exact_loss(policy, reference, target):
    import torch.nn.functional as F

    chosen, rejected = (policy - target).pow(2).flatten(1).mean(1).chunk(2)
    reference_chosen, reference_rejected = (reference - target).pow(2).flatten(1).mean(1).chunk(2)
    return -F.logsigmoid(-0.5 * BETA * ((chosen - rejected) - (reference_chosen - reference_rejected))).mean()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.05, help="of one peer in one round")
    parser.add_argument("--threads", type=int, nargs="*", default=[1, 2])
    parser.add_argument("--table", help="prints the table of a file of results, and measures nothing")
    parser.add_argument("--memory", help="measures memory alone, and adds it to a file of results")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--memory-child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.memory:
        add_memory(args.memory)
        return
    if args.memory_child:
        print(extra_bytes(*json.loads(args.memory_child)))
        return
    if args.table:
        with open(args.table, encoding="utf-8") as file:
            print(table(json.load(file)))
        return
    if args.child:
        # A process of its own for a number of threads: pools are made when libraries load.
        import torch

        torch.set_num_threads(int(args.child))
        found = [{"shape": list(shape), "dtype": dtype, "peers": measure(shape, dtype, args.rounds, args.seconds)} for shape, dtype in CASES]
        print(json.dumps(found))
        return
    runs = {}
    load = os.getloadavg()[0]
    for threads in args.threads:
        environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "SDPO_NUM_THREADS": str(threads)}
        command = [sys.executable, __file__, "--child", str(threads), "--rounds", str(args.rounds), "--seconds", str(args.seconds)]
        runs[str(threads)] = json.loads(subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True).stdout.splitlines()[-1])
    import torch

    import sdpo

    with open("/proc/cpuinfo", encoding="utf-8") as file:
        model = next((line.split(":", 1)[1].strip() for line in file if line.startswith("model name")), platform.processor())
    result = {
        "processor": model,
        "cores": os.cpu_count(),
        "loadBefore": load,
        "torch": torch.__version__,
        "sdpo": sdpo.__version__,
        "instructionSet": sdpo._library.library().sdpo_instruction_set().decode(),
        "rounds": args.rounds,
        "threads": runs,
    }
    if args.out:
        write(args.out, result)
    print(table(result))


def table(result):
    """Microseconds: the least of the rounds, and in brackets the median and the quartiles."""
    names = list(next(iter(result["threads"].values()))[0]["peers"])
    lines = ["| stacked shape | threads | " + " | ".join(names) + " |", "|" + "---|" * (2 + len(names))]
    for threads, cases in result["threads"].items():
        for case in cases:
            cells = []
            for name in names:
                found = case["peers"][name]["microseconds"]
                low, high = found["quartiles"]
                cells.append(f"{found['least']:.0f} ({found['median']:.0f}, {low:.0f}–{high:.0f})")
            lines.append(f"| {'x'.join(map(str, case['shape']))}, {case['dtype']} | {threads} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
