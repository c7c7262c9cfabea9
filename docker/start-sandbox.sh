#!/bin/sh
# The sandbox service of one host: runs the programs and jailed verifiers of `sandbox.backend: service`.
#
# RLVR_SANDBOX_SOCKET    its Unix socket, in a folder that only the containers which verify also have
# RLVR_SANDBOX_KEY_FILE  the key; made next to the socket when unset
# RLVR_SANDBOX_BACKEND   auto, landlock or namespaces (auto)
# RLVR_SANDBOX_SLOTS     programs at once; the number of cores when unset
# Further settings of the backend follow as KEY=VALUE.
set -eu
socket=${RLVR_SANDBOX_SOCKET:-/run/rlvr-sandbox/socket}
exec rlvr sandboxes serve --socket "$socket" --key-file "${RLVR_SANDBOX_KEY_FILE:-}" \
    --backend "${RLVR_SANDBOX_BACKEND:-auto}" ${RLVR_SANDBOX_SLOTS:+slots="$RLVR_SANDBOX_SLOTS"} "$@"
