#!/usr/bin/env bash
# One stage on a machine that is lent with a copy of this tree: `bash bench/gpu/lend.sh STAGE` there, with $OUT the folder that comes
# back. It goes on from the record in bench/results/gpu, and from the build in build/gpu-built.tgz where that was carried along.
set -euo pipefail
cd "$(dirname "$0")/../.."
stage=$1 built=build/gpu-built.tgz
nvidia-smi --query-gpu=name,driver_version,memory.total --format=csv,noheader || true
mkdir -p build
if [ -f "$built" ] && ! [ -f build/bench-gpu.json ]; then tar xzf "$built"; fi
cp bench/results/gpu/*.json "$OUT"/ 2>/dev/null || true
result=0
PYTHONUNBUFFERED=1 python3 -m bench --suite gpu --stage "$stage" --minutes "${MINUTES:-8}" --out "$OUT" 2>&1 | tee "$OUT/stage-$stage.log" || result=$?
# The next stage may meet a fresh machine: what comes back is 16 MiB a file at most.
tar czf "$OUT/gpu-built.tgz" rnnkernels/_C*.so rnnkernels/_build.py build/bench-gpu.json || rm -f "$OUT/gpu-built.tgz"
mkdir -p bench/results/gpu
cp "$OUT"/*.json bench/results/gpu/ 2>/dev/null || true # for a next stage on this very machine
exit "$result"
