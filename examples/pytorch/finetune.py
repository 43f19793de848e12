"""Fine-tunes a small denoiser of real handwritten digits towards 0-4 over 5-9, in plain PyTorch or with sdpo.

    python3 examples/pytorch/finetune.py --objective sdpo            # or diffusion-dpo, dpo-cm, …
    python3 examples/pytorch/finetune.py --objective plain           # the same Diffusion-DPO step written out in PyTorch
    torchrun --nproc_per_node 2 examples/pytorch/finetune.py --distributed ddp      # or fsdp (torch >= 2)

Under a launcher each rank takes its share of the pairs; the logged numbers are those of all ranks.
"""

import argparse
import copy
import os
import sys

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
CHECKOUT = os.path.dirname(os.path.dirname(HERE))
sys.path[:0] = [HERE, os.path.join(CHECKOUT, "python")]  # not needed where sdpo is installed

import sdpo  # noqa: E402
from step import make_step, plain_step  # noqa: E402

# Any scheduler of diffusers, or its config, does here.
SCHEDULER = {"_class_name": "DDPMScheduler", "beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"}


class Denoiser(torch.nn.Module):
    """Three layers with a time embedding: enough for 8x8 digits."""

    def __init__(self, width=128):
        super().__init__()
        self.time = torch.nn.Linear(32, width)
        self.first = torch.nn.Linear(64, width)
        self.middle = torch.nn.Linear(width, width)
        self.last = torch.nn.Linear(width, 64)

    def forward(self, x, timesteps):
        frequencies = torch.exp(torch.linspace(0, -9.2, 16, device=x.device))
        angles = timesteps[:, None] * frequencies
        time = self.time(torch.cat([angles.sin(), angles.cos()], dim=1))
        h = torch.nn.functional.silu(self.first(x.flatten(1)) + time)
        h = h + torch.nn.functional.silu(self.middle(h) + time)
        return self.last(h).reshape(x.shape)


def read_digits():
    """(images in [-1, 1] [1797, 1, 8, 8], labels [1797]) of the repository's copy of the digits."""
    folder = os.path.join(CHECKOUT, "examples", "digits", "data")
    with open(os.path.join(folder, "images.u8"), "rb") as file:
        images = torch.tensor(list(file.read()), dtype=torch.float32).reshape(-1, 1, 8, 8) / 8 - 1
    with open(os.path.join(folder, "labels.u8"), "rb") as file:
        return images, torch.tensor(list(file.read()))


def train_base(schedule, images, steps, generator):
    model = Denoiser()
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(steps):
        x0 = images[torch.randint(len(images), (128,), generator=generator)]
        noise = torch.randn(x0.shape, generator=generator)
        timesteps = schedule.sample_timesteps(len(x0), generator=generator)
        prediction = model(schedule.add_noise(x0, noise, timesteps), timesteps)
        loss = torch.nn.functional.mse_loss(prediction, schedule.target(x0, noise, timesteps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def distribute(model, kind):
    if kind is None:
        return model
    if kind == "fsdp":
        from torch.distributed.fsdp import FullyShardedDataParallel

        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        return FullyShardedDataParallel(model, device_id=device)
    return torch.nn.parallel.DistributedDataParallel(model)


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objective", default="sdpo", help="plain, or an objective of sdpo (default: sdpo)")
    parser.add_argument("--beta", type=float, default=20.0)
    parser.add_argument("--pairs", type=int, default=32, help="pairs per step, over all ranks")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--base-steps", type=int, default=1000)
    parser.add_argument("--distributed", choices=("ddp", "fsdp"))
    args = parser.parse_args(arguments)

    rank, world = 0, 1
    if args.distributed:
        owned = not torch.distributed.is_initialized()  # else the launcher's, as under Ray Train
        if owned:
            torch.distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
        rank, world = torch.distributed.get_rank(), torch.distributed.get_world_size()
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0))) if torch.cuda.is_available() else torch.device("cpu")
    if device.type == "cuda":
        torch.cuda.set_device(device)

    schedule = sdpo.NoiseSchedule.from_diffusers(SCHEDULER, inference_steps=20)
    generator = torch.Generator().manual_seed(0)  # the same on every rank, so that all draw the same batch and take their part of it
    torch.manual_seed(0)
    images, labels = read_digits()
    base = train_base(schedule, images, args.base_steps, generator).to(device)
    reference = copy.deepcopy(base).requires_grad_(False)
    model = distribute(base, args.distributed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, weight_decay=0)
    step = None if args.objective == "plain" else make_step(args.objective, args.beta, schedule)
    better, worse = images[labels < 5], images[labels >= 5]

    history = []
    for number in range(1, args.steps + 1):
        picks = [pool[torch.randint(len(pool), (args.pairs,), generator=generator)] for pool in (better, worse)]
        noise = torch.randn(picks[0].shape, generator=generator)
        timesteps = schedule.sample_timesteps(args.pairs, generator=generator)
        mine = slice(rank, args.pairs, world)
        x0 = torch.cat([pick[mine] for pick in picks]).to(device)
        noise, timesteps = noise[mine].to(device), timesteps[mine].to(device)
        noise2, timesteps2 = noise.repeat(2, 1, 1, 1), timesteps.repeat(2)  # the same noise and timestep for both of a pair

        noised, target = schedule.add_noise(x0, noise2, timesteps2), schedule.target(x0, noise2, timesteps2)
        prediction = model(noised, timesteps2)
        with torch.no_grad():
            reference_prediction = reference(noised, timesteps2)
        if step is None:
            loss, metrics = plain_step(prediction, reference_prediction, target, args.beta)
        else:
            out = step(prediction, reference_prediction, target, timesteps, denominator=args.pairs / world)
            loss = out.loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

        if number % 20 == 0 or number == args.steps:
            if step is not None:
                metrics = out.reduce_metrics() if args.distributed else out.metrics
            history.append({name: float(value) for name, value in metrics.items()})
            if rank == 0:
                shown = ("loss", "implicit_accuracy", "mask_fraction", "error_chosen", "policy_error")
                print(f"step {number:4d}  " + "  ".join(f"{name} {history[-1][name]:.4f}" for name in shown if name in history[-1]), flush=True)
    if args.distributed and owned:
        torch.distributed.destroy_process_group()
    return history


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo may still want the interpreter's lock while it ends, and torch would abort
