#!/bin/sh
# Waits until the cluster's head answers, at most RLVR_START_DEADLINE_S seconds.
set -eu
: "${RLVR_HEAD:?is the head address, HOST:PORT}"
export RAY_AUTH_MODE=token
deadline=$(($(date +%s) + ${RLVR_START_DEADLINE_S:-120}))
until ray health-check --address "$RLVR_HEAD" >/dev/null 2>&1; do
    if [ "$(date +%s)" -ge "$deadline" ]; then
        echo "rlvr: no head answers at $RLVR_HEAD within ${RLVR_START_DEADLINE_S:-120} s; is it up, and is the token (RAY_AUTH_TOKEN_PATH or RAY_AUTH_TOKEN) the same here?" >&2
        exit 1
    fi
    sleep "${RLVR_PAUSE_S:-1}"
done
