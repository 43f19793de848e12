"""Two processes: DistributedDataParallel gives the gradient of one process on the joined batch, metrics are reduced over the group; FSDP."""

import os
import socket
import subprocess
import sys
import unittest

import sdpo

from . import support

WORKER = os.path.join(os.path.dirname(os.path.abspath(__file__)), "distributed_worker.py")


def launch_two(arguments):
    """Starts two ranks of a script as a launcher does, by environment variables alone: (exit codes, what they printed)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ranks = []
    for rank in range(2):
        environment = {
            **os.environ,
            "PYTHONPATH": support.PYTHON_ROOT,
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "WORLD_SIZE": "2",
            "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": str(port),
        }
        ranks.append(subprocess.Popen([sys.executable, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True))
    outputs = [rank.communicate(timeout=180)[0] for rank in ranks]
    return [rank.returncode for rank in ranks], "\n".join(outputs)


class Distributed(unittest.TestCase):
    """One pair of processes runs all checks; each test looks at one of them."""

    @classmethod
    def setUpClass(cls):
        names = ["ddp-equal", "ddp-different", "ddp-empty"]
        names += [f"spread{check}-{backend}" for check in ("", "-failure", "-weights") for backend in ("native", "torch")]
        if support.TORCH >= (2, 0):
            names.append("fsdp")
        cls.codes, cls.output = launch_two([WORKER, *names])

    def check(self, name):
        self.assertEqual(self.codes, [0, 0], self.output)
        for rank in range(2):
            self.assertIn(f"{name}: passed on rank {rank}", self.output)

    def test_ddp_with_equal_rows(self):
        self.check("ddp-equal")

    def test_ddp_with_different_rows(self):
        self.check("ddp-different")

    def test_ddp_with_a_rank_without_rows(self):
        self.check("ddp-empty")

    @support.needs_torch(2, 0)  # FSDP on the CPU
    def test_fsdp(self):
        self.check("fsdp")

    def test_elements_spread_over_ranks(self):
        for backend in support.BACKENDS:
            self.check(f"spread-{backend}")

    def test_a_bad_value_on_one_rank(self):
        for backend in support.BACKENDS:
            self.check(f"spread-failure-{backend}")
            self.check(f"spread-weights-{backend}")

    def test_without_a_process_group(self):
        chosen, rejected, timesteps = support.batch()
        out = sdpo.PreferenceLoss("sdpo", support.flat_schedule(), 500.0)(chosen=chosen, rejected=rejected, timesteps=timesteps)
        reduced = out.reduce_metrics()
        for name, value in out.metrics.items():
            self.assertAlmostEqual(reduced[name].item(), value.item(), places=12, msg=name)
        self.assertEqual(sdpo.denominator(4), 4)
        self.assertIn("rewards/chosen", out.log_entries())


if __name__ == "__main__":
    unittest.main()
