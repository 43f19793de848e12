"""Puts what run.sh left in a folder into one results.json there; or a table of such a file into a page.

collect.py FOLDER [--commit HASH] [--mode gpu|dry]
collect.py --write PAGE RESULTS.json     between the lines <!-- measured:begin --> and <!-- measured:end -->

Needs nothing but Python. Prints a short summary.
"""

import argparse
import csv
import glob
import json
import os
import re
import statistics
import sys

# The units in which Nsight Compute may print, as factors to bytes and nanoseconds.
UNITS = {"byte": 1, "Kbyte": 1e3, "Mbyte": 1e6, "Gbyte": 1e9, "ns": 1, "nsecond": 1, "us": 1e3, "usecond": 1e3, "ms": 1e6, "msecond": 1e6}
SHAPES = {"sd15": "SD1.5", "sdxl": "SDXL", "cogvideox": "CogVideoX", "wan2.1": "Wan2.1"}
PEERS = {"eager": "PyTorch eager", "compiled": "compiled", "graphs": "compiled, CUDA graphs", "triton": "Triton", "package": "`sdpo` in PyTorch"}


def text_of(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return None


def json_of(path):
    """What a program printed as JSON, or None. Messages may stand before it, and it may be cut short."""
    text = text_of(path) or ""
    begin = text.find("{")
    for end in ("", "]}", "}"):
        try:
            return json.loads(text[begin:].rstrip().rstrip(",") + end) if begin >= 0 else None
        except ValueError:
            continue
    return None


def steps_of(folder):
    steps = []
    for line in (text_of(os.path.join(folder, "steps.tsv")) or "").splitlines():
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


def profiles_of(folder):
    out = []
    for path in sorted(glob.glob(os.path.join(folder, "ncu-*.csv"))):
        shape, rows = os.path.basename(path)[len("ncu-") : -len(".csv")].rsplit("-", 1)
        metrics = profile_of(path)
        if metrics is not None:
            out.append({"shape": shape, "rows": int(rows), "dtype": "bfloat16", "metrics": metrics})
    return out


def table(results):
    """Times of both dtypes, and those of the peers in bfloat16, as a table in Markdown."""
    timings = results["timings"]
    peers = {(case["shape"], case["rows"], case["peer"]): case for case in (results["peers"] or {}).get("results", []) if case["dtype"] == "bfloat16"}
    lines = [
        "| row | rows | bfloat16, \u00b5s | of a copy | float32, \u00b5s | of a copy | " + " | ".join(PEERS.values()) + " |",
        "|---|---:|---:|---:|---:|---:|" + "---:|" * len(PEERS),
    ]
    times = {(case["shape"], case["rows"], case["dtype"]): case for case in timings["timings"]}
    for shape, rows in dict.fromkeys((case["shape"], case["rows"]) for case in timings["timings"]):
        cells = [SHAPES.get(shape, shape), str(rows)]
        for dtype in ("bfloat16", "float32"):
            case = times[shape, rows, dtype]
            cells += [f"{case['microseconds']:.1f}" if case["microseconds"] < 100 else f"{case['microseconds']:.0f}", f"{100 * case['shareOfCopy']:.0f} %"]
        for peer in PEERS:
            case = peers.get((shape, rows, peer))
            ratio = None if case is None else min(case["microseconds"], case["singleCall"]) / times[shape, rows, "bfloat16"]["microseconds"]
            cells.append("" if ratio is None else f"{ratio:.1f}")
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def write(page, path):
    with open(path, encoding="utf-8") as file:
        results = json.load(file)
    with open(page, encoding="utf-8") as file:
        text = file.read()
    marks = re.compile(r"(<!-- measured:begin -->\n).*?(<!-- measured:end -->)", re.S)
    if len(marks.findall(text)) != 1:
        sys.exit(f"{page}: expected the lines of one table")
    with open(page, "w", encoding="utf-8") as file:
        file.write(marks.sub(lambda found: found[1] + table(results) + "\n" + found[2], text))


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", help="the folder, or with --write the file of results")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--mode", default="gpu")
    parser.add_argument("--write", metavar="PAGE")
    arguments = parser.parse_args()
    folder = arguments.folder
    if arguments.write is not None:
        write(arguments.write, folder)
        return
    check, timings, peers = (json_of(os.path.join(folder, name)) for name in ("check.txt", "timings.json", "peers.json"))
    known = timings or check or {}
    results = {
        "mode": arguments.mode,
        "commit": arguments.commit,
        **{name: known.get(name) for name in ("gpu", "computeCapability", "multiProcessors", "driver", "runtime")},
        "versions": (text_of(os.path.join(folder, "versions.txt")) or "").splitlines(),
        "steps": steps_of(folder),
        "check": check,
        "timings": timings,
        "peers": peers,
        "profiles": profiles_of(folder),
    }
    with open(os.path.join(folder, "results.json"), "w", encoding="utf-8") as file:
        json.dump(results, file, indent=1)
        file.write("\n")
    for case in (timings or {}).get("timings", []):
        if case["dtype"] == "bfloat16":
            print(f"{case['shape']:10} {case['rows']:3} rows measured {case['microseconds']:8.1f} us ({100 * case['shareOfCopy']:5.1f} % of a copy)")
    for case in (peers or {}).get("results", []):
        if "ratio" in case and case["dtype"] == "bfloat16":
            print(f"{case['shape']:10} {case['rows']:3} rows {case['peer']:8} {case['ratio']:6.2f} times our time")
    for step in results["steps"]:
        if step["exitCode"] not in (0, 125):
            print(f"{step['name']}: {step['said']}", file=sys.stderr)


if __name__ == "__main__":
    main()
