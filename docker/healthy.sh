#!/bin/sh
# Exit code 0 when this node's Ray runs and the head answers.
#
# RLVR_HEAD  the head's address; on the head itself 127.0.0.1:RLVR_PORT
set -eu
export RAY_AUTH_MODE=token
grep -q -x -s raylet "${RLVR_PROC:-/proc}"/[0-9]*/comm
exec ray health-check --address "${RLVR_HEAD:-127.0.0.1:${RLVR_PORT:-6379}}"
