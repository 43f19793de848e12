"""Puts what run.sh left in a folder into one results.json there, and the table of predictions and measurements into predicted.md.

collect.py FOLDER [--commit HASH] [--mode gpu|dry]. Needs nothing but Python. Prints a short summary.
"""

import argparse
import csv
import glob
import json
import os
import statistics
import sys

from predicted import PREDICTED, device_of, join, read_timings, table

# The units in which Nsight Compute may print, as factors to bytes and nanoseconds.
UNITS = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "ns": 1, "nsecond": 1, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}


def text_of(folder, name):
    try:
        with open(os.path.join(folder, name), encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def json_of(folder, name):
    """What a program printed as JSON, or None. Messages may stand before it, and it may be cut short."""
    path = os.path.join(folder, name)
    try:
        return read_timings(path)
    except (OSError, ValueError):
        return None


def steps_of(folder):
    steps = []
    for line in (text_of(folder, "steps.tsv") or "").splitlines():
        name, code, seconds, said = line.split("\t", 3)
        steps.append({"name": name, "exitCode": int(code), "seconds": int(seconds), "said": said})
    return steps


def profile_of(path):
    """Medians over the launches, by metric, of what `ncu --csv --metrics` printed; None where it printed no table."""
    with open(path, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    begin = next((i for i, line in enumerate(lines) if line.startswith('"ID"')), None)
    if begin is None:
        return None
    values = {}
    for row in csv.DictReader(lines[begin:]):
        try:
            value = float(row["Metric Value"].replace(",", "")) * UNITS.get(row["Metric Unit"], 1)
        except (KeyError, TypeError, ValueError, AttributeError):
            continue  # what the program printed in between
        values.setdefault(row["Metric Name"], []).append(value)
    return {name: statistics.median(found) for name, found in values.items()} or None


def profiles_of(folder, predicted, gpu):
    out = []
    for path in sorted(glob.glob(os.path.join(folder, "ncu-*.csv"))):
        design, shape, rows = os.path.basename(path)[len("ncu-") : -len(".csv")].split("-")
        metrics = profile_of(path)
        if metrics is None:
            continue
        entry = {"design": design, "shape": shape, "rows": int(rows), "dtype": "bfloat16", "metrics": metrics}
        device = device_of(gpu or "", predicted["devices"])
        key = (device, shape, "bfloat16", int(rows), design)
        found = [p for p in predicted["predictions"] if (p["device"], p["shape"], p["dtype"], p["rows"], p["design"]) == key]
        if found:
            entry["predicted"] = found[0]["cold"]  # the profiler empties the caches
        out.append(entry)
    return out


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--mode", default="gpu")
    arguments = parser.parse_args()
    folder = arguments.folder
    with open(PREDICTED, encoding="utf-8") as file:
        predicted = json.load(file)
    check, timings, peers = (json_of(folder, name) for name in ("check.txt", "timings.json", "peers.json"))
    known = timings or check or {}
    joined = join(predicted, [timings] if timings else [])
    results = {
        "mode": arguments.mode,
        "commit": arguments.commit,
        **{name: known.get(name) for name in ("gpu", "computeCapability", "multiProcessors", "driver", "runtime")},
        "versions": (text_of(folder, "versions.txt") or "").splitlines(),
        "steps": steps_of(folder),
        "check": check,
        "timings": timings,
        "measuredAndPredicted": [case for case in joined["predictions"] if "measured" in case],
        "peers": peers,
        "profiles": profiles_of(folder, predicted, known.get("gpu")),
    }
    with open(os.path.join(folder, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    with open(os.path.join(folder, "predicted.md"), "w", encoding="utf-8") as file:
        file.write(table(joined) + "\n")
    for case in results["measuredAndPredicted"]:
        if case["measured"]["chosen"] and case["dtype"] == "bfloat16":
            print(
                f"{case['shape']:10} {case['rows']:3} rows {case['design']:8} measured {case['measured']['microseconds']:8.1f} us "
                f"({100 * case['measured']['shareOfCopy']:5.1f} % of a copy), predicted {case['repeated']['microseconds']:8.1f} us"
            )
    for case in (peers or {}).get("results", []):
        if "ratio" in case and case["dtype"] == "bfloat16":
            print(f"{case['shape']:10} {case['rows']:3} rows {case['peer']:8} {case['ratio']:6.2f} times our time")
    for step in results["steps"]:
        if step["exitCode"] not in (0, 125):
            print(f"{step['name']}: {step['said']}", file=sys.stderr)


if __name__ == "__main__":
    main()
