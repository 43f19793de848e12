"""Installing: the source distribution, the wheel built from it without Node, and that the wheel works alone with the library that it carries."""

import glob
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import unittest
import zipfile

from . import support

USE = """
import torch, sdpo
p = torch.ones(2, 8, requires_grad=True)
out = sdpo.PreferenceLoss("diffusion-dpo", sdpo.NoiseSchedule.preset("sd15"), 1.0, backend="native")(
    chosen=(p, p.detach(), 2 * p.detach()), rejected=(p.detach(), p.detach(), p.detach()), timesteps=[1, 2])
out.loss.backward()
print(sdpo.__file__, sdpo._library.library()._name, sdpo.__version__, p.grad.sum().item(), sep="\\n")
"""


class Install(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp()
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        # Without Node on the PATH, and without CUDA, whose compiler would take minutes.
        found = [part for part in os.environ["PATH"].split(os.pathsep) if part and not os.path.exists(os.path.join(part, "node"))]
        tools = os.path.join(cls.folder, "bin")
        os.mkdir(tools)
        for name in ("cmake", "ninja", "make", "cc", "c++", "gcc", "g++", "ld", "as", "ar", "ranlib", "git"):
            if shutil.which(name):
                os.symlink(shutil.which(name), os.path.join(tools, name))
        cls.environment = {**os.environ, "PATH": os.pathsep.join([tools, *found]), "SDPO_CUDA": "OFF", "PYTHONPATH": ""}
        cls.environment.pop("SDPO_LIBRARY", None)
        assert shutil.which("node", path=cls.environment["PATH"]) is None
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", cls.folder, support.ROOT]
        built = subprocess.run(command, env=cls.environment, capture_output=True, text=True, timeout=500)
        if built.returncode != 0:
            raise AssertionError(built.stdout + built.stderr)
        (cls.sdist,) = glob.glob(os.path.join(cls.folder, "*.tar.gz"))
        (cls.wheel,) = glob.glob(os.path.join(cls.folder, "*.whl"))

    def test_source_distribution(self):
        with tarfile.open(self.sdist) as sdist:
            names = {name.split("/", 1)[1] for name in sdist.getnames() if "/" in name}
        for name in ("CMakeLists.txt", "package.json", "LICENSE", "pyproject.toml", "native/c/sdpo.h", "native/cuda/loss.cu", "python/sdpo/tables.json"):
            self.assertIn(name, names)
        self.assertFalse([name for name in names if name.startswith(("lib/", "test/", "node_modules/", "build/", "python/tests")) or name.endswith(".so")])

    def test_wheel(self):
        platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
        self.assertTrue(self.wheel.endswith(f"-py3-none-{platform}.whl"), self.wheel)
        with zipfile.ZipFile(self.wheel) as wheel:
            names = wheel.namelist()
            (metadata,) = (wheel.read(name).decode() for name in names if name.endswith("METADATA"))
        for name in ("sdpo/libsdpo.so", "sdpo/tables.json", "sdpo/py.typed", "sdpo/_torch.py"):
            self.assertIn(name, names)
        self.assertFalse([name for name in names if "test" in name or "__pycache__" in name or name.endswith(".h")])
        self.assertIn("Name: sdpo", metadata)

    def test_installed_alone(self):
        target = os.path.join(self.folder, "site")
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", target, self.wheel]
        installed = subprocess.run(install, env=self.environment, capture_output=True, text=True)
        self.assertEqual(installed.returncode, 0, installed.stderr)
        environment = {**self.environment, "PYTHONPATH": target}
        run = lambda *arguments: subprocess.run([sys.executable, *arguments], env=environment, cwd=self.folder, capture_output=True, text=True)
        result = run("-c", USE)
        self.assertEqual(result.returncode, 0, result.stderr)
        package, library, version, gradient = result.stdout.split()
        self.assertTrue(package.startswith(target), package)
        self.assertEqual(library, os.path.join(target, "sdpo", "libsdpo.so"))
        self.assertIn(version, os.path.basename(self.wheel))
        self.assertNotEqual(float(gradient), 0)
        told = run("-m", "sdpo")
        self.assertEqual(told.returncode, 0, told.stderr)
        for text in (f"sdpo {version}", f"library: {library}", "instructions", "CUDA: not built in", "threads"):
            self.assertIn(text, told.stdout)


if __name__ == "__main__":
    unittest.main()
