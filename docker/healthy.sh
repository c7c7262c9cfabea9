#!/bin/sh
# Exit code 0 when this node's Ray runs, the head answers, and the driver answers for the GPUs where there are any.
#
# RLVR_HEAD  the head's address; on the head itself 127.0.0.1:RLVR_PORT
set -eu
export RAY_AUTH_MODE=token
grep -q -x -s raylet "${RLVR_PROC:-/proc}"/[0-9]*/comm
if command -v nvidia-smi >/dev/null; then
    nvidia-smi -L >/dev/null
fi
exec ray health-check --address "${RLVR_HEAD:-127.0.0.1:${RLVR_PORT:-6379}}"
