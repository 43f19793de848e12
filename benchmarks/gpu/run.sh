#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command: checks, sanitizer, timings, peers. Writes JSON and logs to $OUT.
#
#   OUT=folder benchmarks/gpu/run.sh [build]
#
# `build` only compiles build/gpu/{check,calls}, to be carried to a machine without a compiler. Without it the programs are compiled where nvcc
# and cmake are found, and otherwise taken as they lie there. What a machine refuses or lacks is recorded in status.txt and passed over; the
# exit code is that of the checks. Settings, all optional:
#
#   ARCH     architecture; default that of the device, or sm_90 when only building
#   DEVICE   number of the device; default 0
#   PYTHON   the interpreter with PyTorch; default python3
#   COMMIT   what the results are of, where there is no git; default git's HEAD
#   BUDGET   seconds for everything; default 3600. What does not fit is left out, from the end of the list
#   SECONDS_PER_TOOL, SECONDS_FOR_PEERS   how long a sanitizer (default 90) and the peers (default 180) may take
#
# The order is that of worth, since a machine may be lent for minutes: checks, timings, a first look at the peers, sanitizers, other languages.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-build/gpu/results}
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python3}
build=build/gpu
mkdir -p "$OUT" "$build"
commit=${COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

# compile ARCH: the check program, the program of the C interface, and the C library, which the Python package uses.
compile() {
  local generator=()
  command -v ninja > /dev/null && generator=(-G Ninja)
  cmake -S . -B "$build/cmake" "${generator[@]}" -DSDPO_CUDA=ON -DSDPO_ADDON=OFF "-DSDPO_CUDA_ARCHITECTURES=${1#sm_}-real" \
    "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=$PWD/$build" &&
    cmake --build "$build/cmake" --parallel "${JOBS:-$(nproc)}" --target gpu_check gpu_calls sdpo_c
}

if [ "${1:-}" = build ]; then
  compile "${ARCH:-sm_90}"
  exit
fi

: > "$OUT/status.txt"
# within SECONDS COMMAND...: runs it for so long at most, and no longer than the budget lasts; 124 where it did not end.
BUDGET=${BUDGET:-3600}
within() {
  local limit=$1 left=$((BUDGET - SECONDS))
  shift
  [ $left -lt "$limit" ] && limit=$left
  [ "$limit" -gt 5 ] || return 124
  timeout "$limit" "$@"
}
note() { echo "$1: $2" | tee -a "$OUT/status.txt"; }

if command -v nvcc > /dev/null && command -v cmake > /dev/null; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id="$DEVICE" 2> /dev/null | head -n 1 | tr -d .)
  if compile "${ARCH:-sm_${capability:-90}}" > "$OUT/build.log" 2>&1; then note build ok; else note build "failed, see build.log"; exit 1; fi
elif [ -x "$build/check" ]; then
  note build "no nvcc or no cmake: build/gpu/check as it is"
else
  note build "no nvcc or no cmake, and no build/gpu/check"
  exit 1
fi
command -v nvidia-smi > /dev/null && nvidia-smi > "$OUT/nvidia-smi.txt" 2>&1
# What the results are of. The check program tells the device, the driver and the runtime itself.
{
  echo "commit $commit"
  command -v git > /dev/null && [ -n "$(git status --porcelain 2>/dev/null | head -n 1)" ] && echo "with changes that are not committed"
  command -v nvcc > /dev/null && nvcc --version | tail -n 2
  "$PYTHON" -c 'import torch, sys; print("python", sys.version.split()[0], "torch", torch.__version__)' 2> /dev/null
} > "$OUT/versions.txt"

# Correctness first, in both designs: what is wrong is neither timed nor sanitized.
within 600 "$build/check" --device "$DEVICE" --no-timing --commit "$commit" > "$OUT/check.txt" 2>&1
checked=$?
note check "exit code $checked, $(grep -o '"failures": [0-9]*, "checkedInClusters": [0-9]*' "$OUT/check.txt" || echo 'no result')"
[ $checked -eq 0 ] || exit $checked
IFS=, read -ra visible <<< "${CUDA_VISIBLE_DEVICES:-}"  # it takes the first device that it sees
CUDA_VISIBLE_DEVICES=${visible[$DEVICE]:-$DEVICE} within 120 "$build/calls" > "$OUT/calls.txt" 2>&1
called=$?
note calls "exit code $called, $(tail -n 1 "$OUT/calls.txt")"
[ $called -eq 0 ] || exit $called

within 600 "$build/check" --device "$DEVICE" --only-timing --commit "$commit" > "$OUT/timings.json" 2> "$OUT/timings.log"
note timings "exit code $?"

# Not from another build, whose device may be another one.
if [ -f "$build/cmake/libsdpo.so" ]; then
  export SDPO_LIBRARY="$PWD/$build/cmake/libsdpo.so" PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"
fi

if "$PYTHON" -c 'import torch' > /dev/null 2>&1; then
  seconds=${SECONDS_FOR_PEERS:-180}
  [ $((BUDGET - SECONDS - 60)) -lt "$seconds" ] && seconds=$((BUDGET - SECONDS - 60))  # the last case may take a minute to compile
  within $((seconds + 120)) "$PYTHON" benchmarks/gpu/peers.py --seconds "$seconds" --ours "$OUT/timings.json" > "$OUT/peers.json" 2> "$OUT/peers.log"
  note peers "exit code $?"
  if [ -n "${SDPO_LIBRARY:-}" ]; then
    (cd python && within 300 "$PYTHON" -m unittest tests.test_cuda) > "$OUT/python.txt" 2>&1
    note python "exit code $?, $(tail -n 1 "$OUT/python.txt")"
  fi
else
  note peers "no PyTorch"
fi

sanitized=0
for tool in memcheck racecheck initcheck synccheck; do
  if ! command -v compute-sanitizer > /dev/null; then
    note "$tool" "no compute-sanitizer"
    continue
  fi
  within "${SECONDS_PER_TOOL:-90}" compute-sanitizer --tool "$tool" --error-exitcode 99 "$build/check" --device "$DEVICE" --quick --no-timing \
    > "$OUT/$tool.txt" 2>&1
  code=$?
  note "$tool" "exit code $code, $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$OUT/$tool.txt" | tail -n 1)"
  if [ $code -eq 99 ]; then
    sanitized=1
  elif [ $code -ne 0 ]; then
    note "$tool" "passed over: the tool did not run to its end on this machine"
  fi
done

# What the profiler says of the two designs: the time of a launch, and where its reads come from.
if command -v ncu > /dev/null; then
  metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum
  metrics+=,lts__t_sectors_srcunit_tex_lookup_hit.sum,lts__t_sectors_srcunit_tex_lookup_miss.sum
  for case in "tiles sdxl 1" "clusters sdxl 1" "tiles cogvideox 4"; do
    read -r design shape rows <<< "$case"
    within 60 ncu --kernel-name 'regex:(evaluate|cluster)_kernel' --launch-skip 3 --launch-count 3 --csv --metrics "$metrics" \
      "$build/check" --device "$DEVICE" --design "$design" --shape "$shape" --rows "$rows" --only-timing > "$OUT/ncu-$design-$shape-$rows.csv" 2>&1
    note "ncu $case" "exit code $?"
  done
else
  note ncu "no Nsight Compute"
fi

# The self-test of the package: where there is a Node (a binary may be carried in carry/), the built addon and dist/.
node=$(command -v node || find carry -name node -type f -perm -u+x 2> /dev/null | head -n 1)
if [ -n "$node" ] && [ -f dist/cli.js ] && [ -f build/Release/sdpo.node ]; then
  within 300 "$node" dist/cli.js selftest --device "cuda:$DEVICE" > "$OUT/selftest.txt" 2>&1
  note selftest "exit code $?"
else
  note selftest "no Node, no dist/ or no build/Release/sdpo.node"
fi
exit $sanitized
