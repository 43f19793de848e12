"""LoRA with accelerate and peft: the reference is the same model with its adapters switched off, so that no second copy is held.

accelerate launch --num_processes 2 examples/pytorch/lora.py --objective sdpo         # or python3 for one process
"""

import argparse
import contextlib
import os
import sys

import accelerate
import peft
import torch

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(os.path.dirname(HERE)), "python")]  # not needed where sdpo is installed

import sdpo  # noqa: E402
from finetune import SCHEDULER, Denoiser, read_digits  # noqa: E402


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--objective", default="sdpo")
    parser.add_argument("--beta", type=float, default=200.0)
    parser.add_argument("--pairs", type=int, default=16, help="pairs per step, over all processes")
    parser.add_argument("--accumulate", type=int, default=1)
    parser.add_argument("--steps", type=int, default=20)
    args = parser.parse_args(arguments)

    accelerator = accelerate.Accelerator(gradient_accumulation_steps=args.accumulate, cpu=not torch.cuda.is_available())
    torch.manual_seed(0)  # the same base model and adapters everywhere
    model = peft.get_peft_model(Denoiser(), peft.LoraConfig(r=4, lora_alpha=8, target_modules=["time", "first", "middle", "last"], init_lora_weights=True))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=2e-3, weight_decay=0)
    model, optimizer = accelerator.prepare(model, optimizer)
    schedule = sdpo.NoiseSchedule.from_diffusers(SCHEDULER, inference_steps=20)
    loss_fn = sdpo.PreferenceLoss(args.objective, schedule, args.beta)

    images, labels = read_digits()
    better, worse = images[labels < 5], images[labels >= 5]
    generator = torch.Generator().manual_seed(0)  # all processes draw the same batch and take their part of it
    world, rank = accelerator.num_processes, accelerator.process_index
    for step in range(args.steps):
        picks = [pool[torch.randint(len(pool), (args.pairs,), generator=generator)] for pool in (better, worse)]
        noise = torch.randn(picks[0].shape, generator=generator)[rank::world]
        timesteps = schedule.sample_timesteps(args.pairs, generator=generator)[rank::world]
        x0 = torch.cat([pick[rank::world] for pick in picks])
        noise, timesteps = noise.repeat(2, 1, 1, 1), timesteps.repeat(2)
        x0, noise, timesteps = (tensor.to(accelerator.device) for tensor in (x0, noise, timesteps))
        noised, target = schedule.add_noise(x0, noise, timesteps), schedule.target(x0, noise, timesteps)
        with accelerator.accumulate(model):
            with torch.no_grad(), accelerator.unwrap_model(model).disable_adapter():
                reference = accelerator.unwrap_model(model)(noised, timesteps)
            prediction = model(noised, timesteps)
            out = loss_fn(policy=prediction, reference=reference, target=target, layout="halves", timesteps=timesteps)
            accelerator.backward(out.loss)
            optimizer.step()
            optimizer.zero_grad()
        metrics = out.reduce_metrics() if world > 1 else out.metrics
        if accelerator.is_main_process and (step + 1) % 10 == 0:
            numbers = out.log_entries(metrics)
            print(f"step {step + 1:3d}  loss {numbers['loss']:.6f}  accuracy {numbers['rewards/accuracies']:.3f}", flush=True)
    accelerator.end_training()
    with contextlib.suppress(ValueError, AssertionError):
        torch.distributed.destroy_process_group()
    return metrics


if __name__ == "__main__":
    main()
    sys.stdout.flush()
    os._exit(0)  # a thread of gloo may still want the interpreter's lock while it ends, and torch would abort
