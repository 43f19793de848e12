#!/usr/bin/env bash
# Everything that only a GPU can tell, in one command: checks, sanitizers, timings, peers, profile. Writes results.json, status.txt and logs to $OUT.
#
#   OUT=folder benchmarks/gpu/run.sh [build|dry]
#
# `build` only compiles build/gpu/{check,calls}, to be carried to a machine without a compiler. Without it the programs are compiled where nvcc
# and cmake are found, and otherwise taken as they lie there. `dry` runs what a machine without a GPU can run, the same steps in the same order: the
# peers, the Python package and the self-test on the CPU at small shapes, and the quick checks where there is a program for them (CHECK, linked with
# a runtime that needs no GPU). A step that fails, hangs or finds its tool missing is recorded, and the next one runs; the exit code is 0 only where
# nothing that ran found anything wrong. Settings, all optional:
#
#   ARCH     architecture; default that of the device, or sm_90 when only building
#   DEVICE   number of the device; default 0
#   PYTHON   the interpreter with PyTorch; default python3
#   COMMIT   what the results are of, where there is no git; default git's HEAD
#   BUDGET   seconds for everything; default 570, since a machine may be lent for ten minutes. What does not fit is left out, and said so
#   STEPS    which steps, by name; default all: "check sanitizers timings peers profile python selftest"
#   CHECK    the check program, in place of one that is built
#   CALLS    the program of the C interface, likewise
#
# Of the budget a sanitizer gets a sixteenth, the peers a fifth (all of it where they are the only step), each profile a twentieth.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${OUT:-build/gpu/results}
DEVICE=${DEVICE:-0}
PYTHON=${PYTHON:-python3}
BUDGET=${BUDGET:-570}
STEPS=${STEPS:-check sanitizers timings peers profile python selftest}
mode=${1:-gpu}
build=build/gpu
mkdir -p "$OUT" "$build"
OUT=$(cd "$OUT" && pwd)
commit=${COMMIT:-$(git rev-parse HEAD 2>/dev/null || echo unknown)}

# compile ARCH: the check program, the program of the C interface, and the C library, which the Python package uses.
compile() {
  local generator=()
  command -v ninja > /dev/null && generator=(-G Ninja)
  cmake -S . -B "$build/cmake" "${generator[@]}" -DSDPO_CUDA=ON -DSDPO_ADDON=OFF "-DSDPO_CUDA_ARCHITECTURES=${1#sm_}-real" \
    "-DCMAKE_RUNTIME_OUTPUT_DIRECTORY=$PWD/$build" &&
    cmake --build "$build/cmake" --parallel "${JOBS:-$(nproc)}" --target gpu_check gpu_calls sdpo_c
}

case $mode in
  build)
    compile "${ARCH:-sm_90}"
    exit
    ;;
  gpu | dry) ;;
  *)
    echo "usage: OUT=folder benchmarks/gpu/run.sh [build|dry]" >&2
    exit 2
    ;;
esac

# ---- How steps are run

: > "$OUT/status.txt"
: > "$OUT/steps.tsv" # name, exit code, seconds, what it said: for collect.py
wrong=0
# note NAME CODE TEXT [BEGAN]: one line to look at and one for the results.
note() {
  echo "$1: $3" | tee -a "$OUT/status.txt"
  printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$((SECONDS - ${4:-SECONDS}))" "${3//[$'\t\n']/ }" >> "$OUT/steps.tsv"
}
wants() { [[ " $STEPS " == *" $1 "* ]]; }
# within LIMIT COMMAND...: runs it for so many seconds at most, and no longer than the budget lasts. 124: it did not end in time, 125: there was no time.
within() {
  local limit=$1 left=$((BUDGET - SECONDS))
  shift
  [ $left -lt "$limit" ] && limit=$left
  [ "$limit" -gt 5 ] || return 125
  timeout --kill-after=5 "$limit" "$@"
}
# told CODE: what an exit code says.
told() {
  case $1 in
    124 | 137) echo "did not end in time" ;;
    125) echo "left out: no time" ;;
    *) echo "exit code $1" ;;
  esac
}

# ---- What is run

check=${CHECK:-$build/check}
calls=${CALLS:-$build/calls}
began=$SECONDS
if [ -n "${CHECK:-}" ]; then
  note build 0 "$CHECK as it is"
elif [ "$mode" = dry ]; then
  note build 0 "none: no device to run it on"
  check= calls=
elif command -v nvcc > /dev/null && command -v cmake > /dev/null; then
  capability=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader --id="$DEVICE" 2> /dev/null | head -n 1 | tr -d .)
  if compile "${ARCH:-sm_${capability:-90}}" > "$OUT/build.log" 2>&1; then
    note build 0 ok "$began"
  else
    note build 1 "failed, see build.log" "$began"
    wrong=1 check= calls=
  fi
elif [ -x "$check" ]; then
  note build 0 "no nvcc or no cmake: build/gpu/check as it is"
else
  note build 1 "no nvcc or no cmake, and no build/gpu/check"
  wrong=1 check= calls=
fi

# What the results are of. The check program tells the device, the driver and the runtime itself.
{
  echo "commit $commit"
  # Who names the commit may have copied its files to where git knows another.
  [ -z "${COMMIT:-}" ] && command -v git > /dev/null && [ -n "$(git status --porcelain 2> /dev/null | head -n 1)" ] && echo "with changes that are not committed"
  command -v nvcc > /dev/null && nvcc --version | tail -n 2
  command -v nvidia-smi > /dev/null && nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,clocks.max.memory --format=csv,noheader
  "$PYTHON" -c 'import torch, sys; print("python", sys.version.split()[0], "torch", torch.__version__)' 2> /dev/null
} > "$OUT/versions.txt"
command -v nvidia-smi > /dev/null && nvidia-smi > "$OUT/nvidia-smi.txt" 2>&1

# The C library for the Python package: that of the same build, since one of another may be for another device.
library=$build/cmake/libsdpo.so
[ "$mode" = dry ] && library=build/Release/libsdpo.so
[ -z "${SDPO_LIBRARY:-}" ] && [ -f "$library" ] && SDPO_LIBRARY="$PWD/$library"
[ -n "${SDPO_LIBRARY:-}" ] && export SDPO_LIBRARY
export PYTHONPATH="$PWD/python${PYTHONPATH:+:$PYTHONPATH}"

# ---- Correctness

if wants check && [ -n "$check" ]; then
  began=$SECONDS
  quick=()
  [ "$mode" = dry ] && quick=(--quick)
  within $((BUDGET / 3)) "$check" --device "$DEVICE" --no-timing "${quick[@]}" --commit "$commit" > "$OUT/check.txt" 2>&1
  code=$?
  note check $code "$(told $code), $(grep -o '"failures": [0-9]*' "$OUT/check.txt" || echo 'no result')" "$began"
  [ $code -eq 0 ] || wrong=1
elif wants check; then
  note check 125 "left out: no check program"
fi

if wants check && [ -x "$calls" ]; then
  began=$SECONDS
  IFS=, read -ra visible <<< "${CUDA_VISIBLE_DEVICES:-}" # it takes the first device that it sees
  CUDA_VISIBLE_DEVICES=${visible[$DEVICE]:-$DEVICE} within $((BUDGET / 8)) "$calls" > "$OUT/calls.txt" 2>&1
  code=$?
  note calls $code "$(told $code), $(tail -n 1 "$OUT/calls.txt")" "$began"
  [ $code -eq 0 ] || wrong=1
elif wants check; then
  note calls 125 "left out: no program of the C interface"
fi

for tool in memcheck racecheck initcheck synccheck; do
  wants sanitizers || break
  if [ -z "$check" ] || ! command -v compute-sanitizer > /dev/null; then
    note "$tool" 125 "left out: no compute-sanitizer or no check program"
    continue
  fi
  began=$SECONDS
  # What the checks ask for on purpose, memory that does not exist, is not an error of theirs; and the search for races takes too long over more.
  extent=--quick options=()
  [ "$tool" = memcheck ] && options=(--report-api-errors no)
  [ "$tool" = racecheck ] && extent=--small
  within $((BUDGET / 16)) compute-sanitizer --tool "$tool" "${options[@]}" --error-exitcode 99 "$check" --device "$DEVICE" "$extent" --no-timing > "$OUT/$tool.txt" 2>&1
  code=$?
  # 99: it found something. Anything else but 0: the tool did not run to its end here, which says nothing of the kernels.
  note "$tool" $code "$(told $code), $(grep -E 'ERROR SUMMARY|RACECHECK SUMMARY' "$OUT/$tool.txt" | tail -n 1 | sed 's/^=* *//')" "$began"
  [ $code -eq 99 ] && wrong=1
done

# ---- Timings, with nothing else at work. Kernels that failed their checks are timed too; results.json has both.

if wants timings && [ -n "$check" ] && [ "$mode" = gpu ]; then
  began=$SECONDS
  within $((BUDGET / 3)) "$check" --device "$DEVICE" --only-timing --commit "$commit" > "$OUT/timings.json" 2> "$OUT/timings.log"
  code=$?
  note timings $code "$(told $code), $(grep -c '"microseconds"' "$OUT/timings.json") timings" "$began"
elif wants timings; then
  note timings 125 "left out: no check program or no device to time"
fi

peer_device=cuda
[ "$mode" = dry ] && peer_device=cpu && export TRITON_INTERPRET=1
if ! wants peers; then
  :
elif "$PYTHON" -c 'import torch; assert torch.__version__ >= "2"' > /dev/null 2>&1; then
  began=$SECONDS seconds=$((BUDGET / 5))
  [ "$STEPS" = peers ] && seconds=$((BUDGET - 90))
  ours=()
  [ -s "$OUT/timings.json" ] && ours=(--ours "$OUT/timings.json")
  # The last case may take a minute to compile.
  within $((seconds + 60)) "$PYTHON" benchmarks/gpu/peers.py --device "$peer_device" --seconds "$seconds" "${ours[@]}" --commit "$commit" --out "$OUT/peers.json" > "$OUT/peers.log" 2>&1
  code=$?
  note peers $code "$(told $code), $(grep -c '"microseconds"' "$OUT/peers.json" 2> /dev/null) timings" "$began"
  [ $code -eq 1 ] && wrong=1
else
  note peers 125 "left out: no PyTorch 2"
fi

# ---- What the profiler says: the time of a launch, and what it reads from memory. It empties the caches before each launch.

if wants profile && [ -n "$check" ] && command -v ncu > /dev/null; then
  metrics=gpu__time_duration.sum,dram__bytes_read.sum,dram__bytes_write.sum
  metrics+=,lts__t_sectors_srcunit_tex_lookup_hit.sum,lts__t_sectors_srcunit_tex_lookup_miss.sum,smsp__inst_executed.sum
  profile() { # OUTPUT SHAPE ROWS WHAT...
    local output=$1 shape=$2 rows=$3
    shift 3
    within $((BUDGET / 20)) ncu --clock-control none --kernel-name 'regex:evaluate_kernel' --launch-skip 3 --launch-count 2 "$@" \
      "$check" --device "$DEVICE" --shape "$shape" --rows "$rows" --only-timing > "$output" 2>&1
  }
  for case in "cogvideox 4" "cogvideox 16" "wan2.1 16" "sdxl 1"; do
    began=$SECONDS
    read -r shape rows <<< "$case"
    profile "$OUT/ncu-$shape-$rows.csv" "$shape" "$rows" --csv --metrics "$metrics"
    code=$?
    note "ncu $case" $code "$(told $code)" "$began"
  done
  began=$SECONDS
  profile "$OUT/ncu-details.txt" cogvideox 16 --set full
  code=$?
  note "ncu details" $code "$(told $code)" "$began"
elif wants profile; then
  note ncu 125 "left out: no Nsight Compute or no check program"
fi

# ---- The packages

if wants python && [ -n "${SDPO_LIBRARY:-}" ] && "$PYTHON" -c 'import torch' > /dev/null 2>&1; then
  began=$SECONDS
  modules=(tests.test_cuda tests.test_device_path tests.test_golden tests.test_gradients) # the last two run on every device there is
  (cd python && within $((BUDGET / 4)) "$PYTHON" -m unittest "${modules[@]}") > "$OUT/python.txt" 2>&1
  code=$?
  note python $code "$(told $code), $(tail -n 1 "$OUT/python.txt")" "$began"
  [ $code -eq 1 ] && wrong=1
elif wants python; then
  note python 125 "left out: no PyTorch or no C library"
fi

# Where there is a Node (a binary may be carried in carry/), the built addon and dist/.
node=$(command -v node || find carry -name node -type f -perm -u+x 2> /dev/null | head -n 1)
if ! wants selftest; then
  :
elif [ -n "$node" ] && [ -f dist/cli.js ] && [ -f build/Release/sdpo.node ]; then
  began=$SECONDS selftest_device=cuda:$DEVICE
  [ "$mode" = dry ] && selftest_device=cpu
  within $((BUDGET / 4)) "$node" dist/cli.js selftest --device "$selftest_device" > "$OUT/selftest.txt" 2>&1
  code=$?
  note selftest $code "$(told $code) on $selftest_device" "$began"
  [ $code -eq 1 ] && wrong=1
else
  note selftest 125 "left out: no Node, no dist/ or no build/Release/sdpo.node"
fi

# ---- One file with everything; the logs in another

if "$PYTHON" benchmarks/gpu/collect.py "$OUT" --commit "$commit" --mode "$mode" > "$OUT/collect.log" 2>&1; then
  cat "$OUT/collect.log"
else
  note results 1 "failed, see collect.log"
  wrong=1
fi
(cd "$OUT" && tar -czf logs.tar.gz --exclude=logs.tar.gz --exclude=results.json --exclude=status.txt ./*)
exit $wrong
