"""The digits' fine-tuning under Ray Train: every worker runs finetune.py's loop on its share of the pairs.

python3 examples/pytorch/ray_train.py --workers 2 --steps 20
"""

import argparse
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def work(settings):
    sys.path[:0] = [settings["folder"], os.path.join(os.path.dirname(os.path.dirname(settings["folder"])), "python")]
    import ray.train
    import torch

    import finetune

    # Ray has set the process group up; the loop finds it and shards its batches by rank.
    assert torch.distributed.is_initialized()
    history = finetune.main([*settings["arguments"], "--distributed", "ddp"])  # the metrics are those of all workers, and rank 0 prints them
    ray.train.report(history[-1])


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--workers", type=int, default=2)
    args, rest = parser.parse_known_args()
    from ray.train import ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(work, train_loop_config={"folder": HERE, "arguments": rest}, scaling_config=ScalingConfig(num_workers=args.workers))
    trainer.fit()


if __name__ == "__main__":
    main()
