"""Builds the wheel: the Python files, tables.json and the libsdpo of this checkout's build, tagged for its platform (PEP 517).

    python3 python/backend.py [folder]      writes sdpo-<version>-py3-none-<platform>.whl and prints its path
    pip wheel --no-deps ./python            the same through pip

Standard library only, so that it works where neither setuptools nor a network is.
"""

import base64
import hashlib
import json
import os
import sys
import sysconfig
import zipfile

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(HERE)
LIBRARY = os.path.join(ROOT, "build", "Release", "libsdpo.so")
# Earlier than any file of the package could be; the same input gives the same bytes.
TIME = (1980, 1, 1, 0, 0, 0)


def _version():
    with open(os.path.join(ROOT, "package.json"), encoding="utf-8") as file:
        return json.load(file)["version"].replace("-", "+", 1)  # a pre-release of npm as a local version of Python


def _tag():
    return "py3-none-" + sysconfig.get_platform().replace("-", "_").replace(".", "_")


def _metadata(version):
    with open(os.path.join(ROOT, "docs", "pytorch.md"), encoding="utf-8") as file:
        description = file.read()
    return (
        f"Metadata-Version: 2.1\nName: sdpo\nVersion: {version}\n"
        "Summary: Preference losses for diffusion models (SDPO, DPO-C&M, Diffusion-DPO) on PyTorch, with the gradient formed in one native pass\n"
        "License: Apache-2.0\nRequires-Python: >=3.9\nDescription-Content-Type: text/markdown\n\n" + description
    )


def _files(version):
    """(name in the wheel, contents) of everything but RECORD."""
    package = os.path.join(HERE, "sdpo")
    for name in sorted(os.listdir(package)):
        if name.endswith((".py", ".json", ".typed")):
            with open(os.path.join(package, name), "rb") as file:
                yield f"sdpo/{name}", file.read()
    if not os.path.exists(LIBRARY):
        raise SystemExit(f"{LIBRARY} is missing; build it first with `npm run build:native`")
    with open(LIBRARY, "rb") as file:
        yield "sdpo/libsdpo.so", file.read()
    info = f"sdpo-{version}.dist-info"
    yield f"{info}/METADATA", _metadata(version).encode()
    yield f"{info}/WHEEL", f"Wheel-Version: 1.0\nGenerator: sdpo\nRoot-Is-Purelib: false\nTag: {_tag()}\n".encode()
    with open(os.path.join(ROOT, "LICENSE"), "rb") as file:
        yield f"{info}/LICENSE", file.read()


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    version = _version()
    name = f"sdpo-{version}-{_tag()}.whl"
    record = []
    with zipfile.ZipFile(os.path.join(wheel_directory, name), "w", zipfile.ZIP_DEFLATED) as wheel:

        def add(path, data):
            entry = zipfile.ZipInfo(path, TIME)
            entry.external_attr = (0o755 if path.endswith(".so") else 0o644) << 16
            entry.compress_type = zipfile.ZIP_DEFLATED
            wheel.writestr(entry, data)

        for path, data in _files(version):
            add(path, data)
            digest = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            record.append(f"{path},sha256={digest},{len(data)}")
        path = f"sdpo-{version}.dist-info/RECORD"
        add(path, "\n".join([*record, f"{path},,", ""]).encode())
    return name


def build_sdist(sdist_directory, config_settings=None):
    raise SystemExit("sdpo has no Python source distribution: the library is built from the whole checkout (npm ci); build a wheel instead")


if __name__ == "__main__":
    folder = sys.argv[1] if len(sys.argv) > 1 else "."
    print(os.path.join(folder, build_wheel(folder)))
