"""Puts what a GPU measured beside what the model of the traffic predicted for it (benchmarks/gpu/traffic.cc).

predicted.py [--measured TIMINGS.json ...] [--json OUT.json] [--write DOCUMENT.md | --check DOCUMENT.md]

--measured is what the check program printed with its timings; without it, benchmarks/results/gpu-*.json. Prints the table, or writes it between the
marks of a document, or checks that it is what the document says. Needs nothing but Python.
"""

import argparse
import glob
import json
import os
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
PREDICTED = os.path.join(ROOT, "benchmarks", "results", "gpu-predicted.json")
BEGIN, END = "<!-- predicted:begin -->", "<!-- predicted:end -->"
SHAPES = {"sd15": "SD1.5", "sdxl": "SDXL", "cogvideox": "CogVideoX", "wan2.1": "Wan2.1"}
DEVICES = ("H100", "H200")  # in the table, beside those that were measured
DTYPE = "bfloat16"


def read_timings(file_name):
    """The JSON of the check program, behind what else it said. Of a run that was cut short, what it had printed by then."""
    with open(file_name, encoding="utf-8", errors="replace") as file:
        lines = file.read().splitlines()
    lines = lines[next((i for i, line in enumerate(lines) if line.startswith("{")), 0) :]
    for end in range(len(lines), 0, -1):
        text = "\n".join(lines[:end])
        for closed in (text, text.rstrip().rstrip(",") + "]}", text.rstrip().rstrip(",") + "}"):
            try:
                return json.loads(closed)
            except ValueError:
                pass
    raise ValueError(f"{file_name} holds no JSON")


def device_of(gpu, devices):
    """The device of the predictions that the driver's name means."""
    return next((d["name"] for d in devices if d["name"] in gpu), None)


def join(predicted, measurements):
    """The predictions, each with `measured` where the same case was timed on the same device."""
    times = {}
    for measured in measurements:
        device = device_of(measured["gpu"], predicted["devices"])
        if device is None:
            print(f"no prediction for {measured['gpu']}", file=sys.stderr)
            continue
        copy = measured.get("copyGigabytesPerSecond")
        for t in measured.get("timings", []):
            times[device, t["shape"], t["dtype"], t["rows"], t["design"]] = {
                "microseconds": t["microseconds"],
                "quartiles": t["quartiles"],
                "shareOfCopy": t["shareOfCopy"],
                "copyGigabytesPerSecond": copy,
                "chosen": t["chosen"],
                "gpu": measured["gpu"],
                "commit": measured["commit"],
            }
    cases = []
    for case in predicted["predictions"]:
        found = times.get((case["device"], case["shape"], case["dtype"], case["rows"], case["design"]))
        if found is not None:
            case = {**case, "measured": found, "measuredOverPredicted": found["microseconds"] / case["repeated"]["microseconds"]}
        cases.append(case)
    return {**predicted, "predictions": cases}


def microseconds(value):
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def table(joined):
    shown = set(DEVICES) | {case["device"] for case in joined["predictions"] if "measured" in case}
    lines = [
        "| device | row | rows | design | second reads from L2 | bandwidth, µs | chain, µs | first call, µs: predicted | again, µs: predicted | again: measured |",
        "|---|---|---:|---|---:|---:|---:|---:|---:|---:|",
    ]
    for case in joined["predictions"]:
        if case["device"] not in shown or case["dtype"] != DTYPE or not case["chosen"]:
            continue
        cold, again = case["cold"], case["repeated"]
        share = lambda t: f"{microseconds(t)} ({100 * case['floorMicroseconds'] / t:.0f} %)"
        measured = case.get("measured")
        cells = [
            case["device"],
            SHAPES[case["shape"]],
            str(case["rows"]),
            "tickets" if case["design"] == "tiles" else "clusters",
            f"{100 * cold['secondReadHits']:.1f} %" if case["design"] == "tiles" else "none",
            microseconds(cold["bandwidthMicroseconds"]),
            microseconds(case["chainMicroseconds"]),
            share(cold["microseconds"]),
            share(again["microseconds"]),
            f"{microseconds(measured['microseconds'])} ({100 * measured['shareOfCopy']:.0f} %)" if measured else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def between_marks(document, text):
    head, rest = document.split(BEGIN)
    return f"{head}{BEGIN}\n{text}\n{END}{rest.split(END)[1]}"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--predicted", default=PREDICTED)
    parser.add_argument("--measured", nargs="*")
    parser.add_argument("--json")
    parser.add_argument("--write")
    parser.add_argument("--check")
    arguments = parser.parse_args()
    with open(arguments.predicted, encoding="utf-8") as file:
        predicted = json.load(file)
    files = arguments.measured
    if files is None:
        pattern = os.path.join(ROOT, "benchmarks", "results", "gpu-*.json")
        files = [name for name in sorted(glob.glob(pattern)) if os.path.basename(name) != os.path.basename(PREDICTED)]
    joined = join(predicted, [read_timings(name) for name in files])
    text = table(joined)
    if arguments.json:
        with open(arguments.json, "w", encoding="utf-8") as file:
            json.dump(joined, file, indent=1)
            file.write("\n")
    target = arguments.write or arguments.check
    if target is None:
        print(text)
        return
    with open(target, encoding="utf-8") as file:
        before = file.read()
    after = between_marks(before, text)
    if arguments.check:
        if before != after:
            sys.exit(f"{target} does not say what the predictions and measurements do: python3 benchmarks/gpu/predicted.py --write {target}")
        return
    with open(target, "w", encoding="utf-8") as file:
        file.write(after)


if __name__ == "__main__":
    main()
