"""One of two ranks, started by test_distributed.py: compares its gradients and metrics with those of the joined batch."""

import os
import sys
import traceback

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


def check_data_parallel(mode):
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


# ---- Rows whose elements are spread over the ranks

SPREAD = {
    "sdpo": dict(objective="sdpo", beta=5.0, kl_weight=0.1, log_ratio_clip=0.05),
    "dpo-cm": dict(objective="dpo-cm", beta=5.0, log_ratio_reduction="sum", weight_gradient=True, clip_range=0.5, sft_weight=0.1, sft_scope="masked"),
    "safeguard of the batch": dict(objective="diffusion-dpo", beta=50.0, safeguard=0.7, safeguard_scope="batch"),
    "linear": dict(objective="linear-dpo", beta=50.0),
}


def same_bits_on_all_ranks(tensor):
    parts = [torch.empty_like(tensor) for _ in range(2)]
    dist.all_gather(parts, tensor.contiguous())
    return torch.equal(*parts)


def check_spread(backend):
    rank = dist.get_rank()
    mine = slice(0, 10) if rank == 0 else slice(10, 16)
    schedule = sdpo.NoiseSchedule.preset("sd15")
    timesteps = torch.tensor([100, 300, 400, 500, 700, 900])
    weights = sdpo.noise(9, 0, torch.empty(16, dtype=torch.float64)).abs()
    for name, options in SPREAD.items():
        loss_fn = sdpo.PreferenceLoss(schedule=schedule, backend=backend, **options)
        apart = {"chosen": weights, "rejected": weights.flip(0) + 0.5}
        for element_weights in (None, weights) if loss_fn.options.safeguard is not None else (None, weights, apart):
            data = {key: value.clone() for key, value in batch().items()}
            policies = [data[key].requires_grad_() for key in ("x_chosen", "x_rejected")]
            given = dict(timesteps=timesteps, beta_scale=[1.1, 1, 1, 1, 0.9, 1])

            def call(part, **more):
                c, r = ([data[f"{key}_{side}"][:, part] for key in ("x", "ref", "t")] for side in ("chosen", "rejected"))
                cut = None if element_weights is None else element_weights[part] if element_weights is weights else {k: w[part] for k, w in apart.items()}
                return loss_fn(chosen=tuple(c), rejected=tuple(r), element_weights=cut, **given, **more)

            whole = call(slice(0, 16))
            expected = torch.autograd.grad(3 * whole.loss, policies)
            out = call(mine, group=dist.group.WORLD)
            found = torch.autograd.grad(3 * out.loss, policies)
            assert same_bits_on_all_ranks(out.loss.detach()), name
            assert all(same_bits_on_all_ranks(value) for value in out.coefficients.values()), name
            assert torch.allclose(out.loss, whole.loss, rtol=1e-12, atol=0), name
            for key, value in whole.rows.items():
                assert torch.allclose(out.rows[key], value, rtol=1e-11, atol=1e-14, equal_nan=True), (name, key, out.rows[key], value)
            for a, b in zip(found, expected):
                assert torch.allclose(a[:, mine], b[:, mine], rtol=1e-12, atol=1e-15), name
                assert a[:, 10 if rank == 0 else 0].abs().sum() == 0, "the parts of other ranks are theirs"


def check_spread_failure(backend):
    """A bad value on one rank is an error on both, and nobody waits."""
    data, rank = batch(), dist.get_rank()
    if rank == 1:
        data["t_rejected"][2, 3] = float("nan")
    loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, backend=backend)
    branches = [tuple(data[f"{key}_{side}"] for key in ("x", "ref", "t")) for side in ("chosen", "rejected")]
    try:
        loss_fn(chosen=branches[0], rejected=branches[1], group=dist.group.WORLD)
    except sdpo.NonFiniteError as error:
        assert (error.row, error.branch) == (2, "rejected"), error
        assert error.tensor == ("target" if rank == 1 else "row"), error
    else:
        raise AssertionError("expected an error")


def check_spread_weights(backend):
    """Element weights that nobody may have on one rank are an error on both."""
    data, rank = batch(), dist.get_rank()
    weights = torch.ones(6, 16)
    if rank == 1:
        weights[4, 2] = -1
    loss_fn = sdpo.PreferenceLoss("diffusion-dpo", beta=5.0, backend=backend)
    branches = [tuple(data[f"{key}_{side}"] for key in ("x", "ref", "t")) for side in ("chosen", "rejected")]
    try:
        loss_fn(chosen=branches[0], rejected=branches[1], element_weights=weights, group=dist.group.WORLD)
    except sdpo.SdpoError as error:
        assert error.code == "ERR_SDPO_ELEMENT_WEIGHTS", error
        assert ("row 4" in str(error)) == (rank == 1), error
    else:
        raise AssertionError("expected an error")


CHECKS = {
    **{mode: lambda mode=mode: check_data_parallel(mode) for mode in ROWS},
    **{f"spread-{backend}": lambda backend=backend: check_spread(backend) for backend in ("native", "torch")},
    **{f"spread-failure-{backend}": lambda backend=backend: check_spread_failure(backend) for backend in ("native", "torch")},
    **{f"spread-weights-{backend}": lambda backend=backend: check_spread_weights(backend) for backend in ("native", "torch")},
}


def main(names):
    dist.init_process_group("gloo")
    for name in names:
        try:
            CHECKS[name]()
        except Exception:
            print(f"{name}: {traceback.format_exc()}", flush=True)
        else:
            print(f"{name}: passed on rank {dist.get_rank()}", flush=True)
        dist.barrier()
    dist.destroy_process_group()
    # A thread of gloo may still want the interpreter's lock when the interpreter ends, and torch then aborts: so end without that.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1:])
