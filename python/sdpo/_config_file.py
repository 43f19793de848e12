"""Reads a scheduler config from a file, and says what a file is that is none; a port of lib/schedule/config-file.ts."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict, Optional

from ._errors import SdpoError


def read_config_file(path: os.PathLike[str] | str) -> Dict[str, Any]:
    """The scheduler config in a file: JSON as Python writes it, also behind a byte order mark."""
    name = os.fspath(path)
    try:
        with open(name, encoding="utf-8-sig") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise _failure(f"Expected {name} to be a file, received no such file") from error
    except IsADirectoryError as error:
        raise _failure(f"Expected {name} to be readable JSON, received: a folder") from error
    except (OSError, UnicodeDecodeError) as error:
        raise _failure(f"Expected {name} to be readable JSON, received: {error}") from error
    try:
        value = json.loads(text)
    except ValueError as error:
        raise _failure(f"Expected {name} to be readable JSON, received: {_kind(text) or error}") from error
    if not isinstance(value, dict):
        raise _failure(f"Expected {name} to be a JSON object, received {json.dumps(value)[:60]}")
    return value


def _kind(text: str) -> Optional[str]:
    """What a text is that is no JSON, where that can be told."""
    start = text.lstrip()
    if start == "":
        return "an empty file"
    if start.startswith("version https://git-lfs.github.com/spec/"):
        return "a git LFS pointer: the file itself has not been fetched (git lfs pull)"
    if re.match(r"<(!doctype|html|\?xml)", start, re.IGNORECASE):
        return "a page of markup, as a server sends in place of a file it does not give out"
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', start, flags=re.DOTALL)  # outside strings
    if re.search(r"//|/\*|^\s*#", bare, re.MULTILINE):
        return "JSON with comments, which JSON does not have: remove them"
    return None


def _failure(message: str) -> SdpoError:
    return SdpoError("ERR_SDPO_CONFIG", message)
