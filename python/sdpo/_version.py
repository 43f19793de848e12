"""The version of this package: of the installed distribution, or of the checkout that it lies in."""

from __future__ import annotations

import importlib.metadata
import json
import os


def version() -> str:
    checkout = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    if os.path.exists(os.path.join(checkout, "native", "c", "sdpo.h")):
        with open(os.path.join(checkout, "package.json"), encoding="utf-8") as file:
            return json.load(file)["version"]
    try:
        return importlib.metadata.version("sdpo")
    except importlib.metadata.PackageNotFoundError:  # a copy of the folder
        return "0+unknown"
