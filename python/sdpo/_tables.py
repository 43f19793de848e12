"""Names, defaults and rules shared with the TypeScript package, read from tables.json (written by scripts/tables.ts)."""

from __future__ import annotations

import json
import os
import re
from typing import Any, Dict

with open(os.path.join(os.path.dirname(__file__), "tables.json"), encoding="utf-8") as _file:
    TABLES = json.load(_file)


def snake(name: str) -> str:
    """`clipRange` -> `clip_range`."""
    return re.sub(r"(?<=[a-z0-9])([A-Z])", lambda match: "_" + match.group(1).lower(), name)


LISTS = {name: tuple(names) for name, names in TABLES["lists"].items()}
ROW_INPUT = {snake(name): index for index, name in enumerate(LISTS["rowInputs"])}
ROW_CHECK = dict(zip(ROW_INPUT, LISTS["rowChecks"]))
ROW_DEFAULTS = tuple(float(value) for value in TABLES["rowDefaults"])
ROW_OUTPUT = {snake(name): index for index, name in enumerate(LISTS["rowOutputs"])}
METRIC = {snake(name): index for index, name in enumerate(LISTS["metrics"])}
ROW_STATISTICS = tuple(snake(name) for name in TABLES["rowStatistics"])
METRICS = tuple(snake(name) for name in TABLES["metrics"])
LOG_NAMES = {snake(name): snake(log) for name, log in TABLES["logNames"].items()}
# What an objective reads: {"weights", "reference", "link", "drift", "rowInputs"}.
TRAITS = {name: {**traits, "rowInputs": frozenset(map(snake, traits["rowInputs"]))} for name, traits in TABLES["traits"].items()}
# Every option but the schedule, in the order in which they are checked; the fields of a row are those of OptionRow in lib/loss/options.ts.
OPTIONS: Dict[str, Dict[str, Any]] = {snake(row["name"]): row for row in TABLES["options"]}
