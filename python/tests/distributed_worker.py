"""One of two ranks, started by test_distributed.py: compares its gradients and metrics with those of the joined batch."""

import sys

import torch
import torch.distributed as dist

import sdpo

ROWS = {"ddp-equal": (3, 3), "ddp-different": (4, 2), "ddp-empty": (6, 0), "fsdp": (4, 2)}


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.SiLU(), torch.nn.Linear(32, 16)).double()


def batch():
    draw = lambda seed: sdpo.noise(seed, 0, torch.empty(6, 16, dtype=torch.float64))
    return {name: draw(i) for i, name in enumerate(("x_chosen", "x_rejected", "ref_chosen", "ref_rejected", "t_chosen", "t_rejected"))}


def evaluate(network, loss_fn, rows, denominator=None):
    data = {name: tensor[rows] for name, tensor in batch().items()}
    timesteps = torch.tensor([100, 300, 400, 500, 700, 900])[rows]
    # One call of the model, as training steps make it: DistributedDataParallel expects one forward per backward.
    chosen, rejected = network(torch.cat([data["x_chosen"], data["x_rejected"]])).chunk(2)
    return loss_fn(
        chosen=(chosen, data["ref_chosen"], data["t_chosen"]),
        rejected=(rejected, data["ref_rejected"], data["t_rejected"]),
        timesteps=timesteps,
        denominator=denominator,
    )


def main(mode):
    dist.init_process_group("gloo")
    rank, rows = dist.get_rank(), ROWS[mode]
    loss_fn = sdpo.PreferenceLoss("sdpo", sdpo.NoiseSchedule.preset("sd15"), beta=5.0, kl_weight=0.1)

    joined = model()
    whole = evaluate(joined, loss_fn, slice(0, 6))
    whole.loss.backward()
    assert 0 < whole.metrics["mask_fraction"] < 1, "the case is meant to have kept and removed rows"

    mine = slice(0, rows[0]) if rank == 0 else slice(rows[0], 6)
    denominator = sdpo.denominator(rows[rank])
    assert denominator == 3, denominator
    network = model()
    if mode == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel

        network = FullyShardedDataParallel(network, use_orig_params=True, device_id=torch.device("cpu"))
    else:
        network = torch.nn.parallel.DistributedDataParallel(network)
    out = evaluate(network, loss_fn, mine, denominator)
    out.loss.backward()

    if mode == "fsdp":
        # Each rank holds a part of each gradient; a step of plain SGD shows the whole of it.
        for net in (network, joined):
            torch.optim.SGD(net.parameters(), lr=1.0).step()
        with FullyShardedDataParallel.summon_full_params(network):
            pairs = [(a.detach().clone(), b.detach()) for a, b in zip(network.parameters(), joined.parameters())]
    else:
        pairs = [(a.grad, b.grad) for a, b in zip(network.parameters(), joined.parameters())]
    for a, b in pairs:
        assert torch.allclose(a, b, rtol=1e-12, atol=1e-14), (a - b).abs().max()

    reduced = out.reduce_metrics(dist.group.WORLD)
    for name, value in whole.metrics.items():
        assert torch.allclose(reduced[name], value, rtol=1e-12, atol=1e-14, equal_nan=True), (name, reduced[name], value)
    total = out.loss.detach().clone()
    dist.all_reduce(total)
    assert torch.allclose(total / 2, whole.loss.detach(), rtol=1e-12)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main(sys.argv[1])
