"""The wheel: its tag and its record, and that it works installed alone, with the library that it carries."""

import base64
import hashlib
import os
import subprocess
import sys
import sysconfig
import tempfile
import unittest
import zipfile

from . import support

USE = """
import torch, sdpo
p = torch.ones(2, 8, requires_grad=True)
out = sdpo.PreferenceLoss("diffusion-dpo", sdpo.NoiseSchedule.preset("sd15"), 1.0)(
    chosen=(p, p.detach(), 2 * p.detach()), rejected=(p.detach(), p.detach(), p.detach()), timesteps=[1, 2])
out.loss.backward()
print(sdpo.__file__, sdpo._library.library()._name, p.grad.sum().item(), sep="\\n")
"""


class Wheel(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        script = os.path.join(support.PYTHON_ROOT, "backend.py")
        self.wheel = subprocess.run([sys.executable, script, self.folder.name], capture_output=True, text=True, check=True).stdout.strip()

    def test_tag_and_record(self):
        platform = sysconfig.get_platform().replace("-", "_")
        self.assertTrue(self.wheel.endswith(f"-py3-none-{platform}.whl"), self.wheel)
        with zipfile.ZipFile(self.wheel) as wheel:
            names = wheel.namelist()
            self.assertIn("sdpo/libsdpo.so", names)
            self.assertIn("sdpo/tables.json", names)
            self.assertFalse([name for name in names if "test" in name or "__pycache__" in name])
            record = [line.rsplit(",", 2) for line in wheel.read(names[-1]).decode().splitlines()]
            self.assertEqual([name for name, _, _ in record], names)
            for name, digest, size in record[:-1]:
                data = wheel.read(name)
                expected = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
                self.assertEqual((digest, size), (f"sha256={expected}", str(len(data))), name)

    def test_installed_alone(self):
        target = os.path.join(self.folder.name, "site")
        has_pip = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode == 0
        if has_pip:
            command = ["-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, self.wheel]
            installed = subprocess.run([sys.executable, *command], capture_output=True, text=True)
            self.assertEqual(installed.returncode, 0, installed.stderr)
        else:
            with zipfile.ZipFile(self.wheel) as wheel:
                wheel.extractall(target)
        environment = {**os.environ, "PYTHONPATH": target}
        environment.pop("SDPO_LIBRARY", None)
        result = subprocess.run([sys.executable, "-c", USE], env=environment, cwd=self.folder.name, capture_output=True, text=True)
        self.assertEqual(result.returncode, 0, result.stderr)
        package, library, gradient = result.stdout.split()
        self.assertTrue(package.startswith(target), package)
        self.assertEqual(library, os.path.join(target, "sdpo", "libsdpo.so"))
        self.assertNotEqual(float(gradient), 0)


if __name__ == "__main__":
    unittest.main()
