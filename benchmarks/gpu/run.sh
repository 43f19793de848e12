#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command: checks, sanitizer, timings, peers. Writes JSON and logs to $OUT.
#
#   OUT=folder benchmarks/gpu/run.sh [build]
#
# `build` only compiles build/gpu/check, to be carried to a machine without a compiler. Without it the program is compiled where nvcc is
# found, and otherwise taken as it lies there. ARCH (default: native, or sm_90 when only building) chooses the architecture, DEVICE the
# device, PYTHON the interpreter with PyTorch. What a machine refuses or lacks is recorded in status.txt and passed over; the exit code is
# that of the checks.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-build/gpu/results}
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python3}
build=build/gpu
mkdir -p "$OUT" "$build"
commit=$(git rev-parse HEAD 2>/dev/null || echo unknown)

compile() {
  local arch=$1 objects=() source object pids=()
  for source in native/cuda/*.cu native/cpu/{kernels_baseline,rows,evaluate,threads,elementwise}.cc benchmarks/gpu/check.cc; do
    object=$build/$(basename "$source").o
    objects+=("$object")
    [ "$object" -nt "$source" ] && [ -z "$(find native test/cuda-host benchmarks/gpu -newer "$object" \( -name '*.h' -o -name '*.cuh' -o -name '*.inl' \) | head -n 1)" ] && continue
    nvcc -std=c++17 -O3 -lineinfo "-arch=$arch" -Xcompiler=-ffp-contract=off -c -o "$object" "$source" &
    pids+=($!)
    if [ ${#pids[@]} -ge "${JOBS:-$(nproc)}" ]; then
      wait "${pids[0]}" || return 1
      pids=("${pids[@]:1}")
    fi
  done
  local pid
  for pid in "${pids[@]}"; do wait "$pid" || return 1; done
  nvcc "-arch=$arch" -o "$build/check" "${objects[@]}" -lpthread
}

if [ "${1:-}" = build ]; then
  compile "${ARCH:-sm_90}"
  exit
fi

: > "$OUT/status.txt"
note() { echo "$1: $2" | tee -a "$OUT/status.txt"; }

if command -v nvcc > /dev/null; then
  if compile "${ARCH:-native}" > "$OUT/build.log" 2>&1; then note build ok; else note build "failed, see build.log"; exit 1; fi
elif [ -x "$build/check" ]; then
  note build "no nvcc: build/gpu/check as it is"
else
  note build "no nvcc and no build/gpu/check"
  exit 1
fi
command -v nvidia-smi > /dev/null && nvidia-smi > "$OUT/nvidia-smi.txt" 2>&1

# Correctness first: what is wrong is neither sanitized nor timed.
"$build/check" --device "$DEVICE" --no-timing --commit "$commit" > "$OUT/check.txt" 2>&1
checked=$?
note check "exit code $checked, $(grep -o '"failures": [0-9]*' "$OUT/check.txt" || echo 'no result')"
[ $checked -eq 0 ] || exit $checked

sanitized=0
for tool in memcheck racecheck initcheck synccheck; do
  if ! command -v compute-sanitizer > /dev/null; then
    note "$tool" "no compute-sanitizer"
    continue
  fi
  timeout 600 compute-sanitizer --tool "$tool" --error-exitcode 99 "$build/check" --device "$DEVICE" --quick --no-timing > "$OUT/$tool.txt" 2>&1
  code=$?
  note "$tool" "exit code $code, $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$OUT/$tool.txt" | tail -n 1)"
  if [ $code -eq 99 ]; then
    sanitized=1
  elif [ $code -ne 0 ]; then
    note "$tool" "passed over: the tool did not run to its end on this machine"
  fi
done

# The selftest of the installed package, where there is one.
if [ -f dist/index.js ] && command -v npx > /dev/null; then
  npx --no-install sdpo selftest --device "cuda:$DEVICE" > "$OUT/selftest.txt" 2>&1
  note selftest "exit code $?"
fi

"$build/check" --device "$DEVICE" --quick --commit "$commit" > "$OUT/timings.json" 2> "$OUT/timings.log"
note timings "exit code $?"
if "$PYTHON" -c 'import torch' > /dev/null 2>&1; then
  "$PYTHON" benchmarks/gpu/peers.py --ours "$OUT/timings.json" > "$OUT/peers.json" 2> "$OUT/peers.log"
  note peers "exit code $?"
else
  note peers "no PyTorch"
fi
exit $sanitized
