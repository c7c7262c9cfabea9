#!/usr/bin/env bash
# Every check that needs a GPU, in at most 9 minutes: tests, learner speed, a quickstart. A short table last.
#
#     bash tests/gpu/run_all.sh [OUT]     results go to OUT (default tests/gpu/results/<date>)
#
# It uses the python on PATH, brings nothing, and goes on past a part that fails.
set -uo pipefail
cd "$(dirname "$0")/../.."
OUT=${1:-tests/gpu/results/$(date +%Y-%m-%d)}
mkdir -p "$OUT"
export PYTHONPATH="$PWD:$PWD/verifiers:$PWD/sandboxes${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python - <<'PY' | tee "$OUT/device.txt"
import torch, transformers

name = torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"
print(f"{name}, torch {torch.__version__}, transformers {transformers.__version__}")
PY
part() {  # part NAME SECONDS COMMAND...
    local name=$1 seconds=$2 start=$SECONDS
    shift 2
    timeout "$seconds" "$@" >"$OUT/$name.log" 2>&1
    echo "$name: exit $? after $((SECONDS - start)) s"
}
{
    part tests 120 python -m pytest -q -p no:cacheprovider -m gpu tests/gpu
    part learner_speed 240 python tests/gpu/learner_speed.py --output "$OUT/learner_speed.json"
    part lm_head 60 python tests/bench/lm_head.py
    part quickstart 100 python -m rlvr.cli train quickstart run.trackers=[] --run-dir "$OUT/quickstart"
} | tee "$OUT/summary.txt"
[ -f "$OUT/quickstart/metrics.jsonl" ] && mv "$OUT/quickstart/metrics.jsonl" "$OUT/quickstart.jsonl"
rm -rf "$OUT/quickstart"
tail -n 12 "$OUT"/tests.log "$OUT"/learner_speed.log "$OUT"/lm_head.log
cat "$OUT/device.txt" "$OUT/summary.txt"
