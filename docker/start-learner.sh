#!/bin/sh
# The node of a run: joins the cluster and trains. Takes what `rlvr train` takes: start-learner.sh RECIPE [KEY=VALUE]...
#
# The same variables as start-node.sh, and
# RLVR_ENGINES           cluster.engines: a number, or "auto" for what the GPUs of this node allow (fit-gpus.py);
#                        the recipe's when unset
#
# Ends with the exit code of `rlvr train`; when it runs in a container of its own, its Ray node ends with the container.
set -eu
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    echo "rlvr: set RAY_AUTH_TOKEN_PATH to a file with the secret of the cluster, or RAY_AUTH_TOKEN to the secret itself" >&2
    exit 2
fi
: "${RLVR_HEAD:?is the head address, HOST:PORT}"
if [ "$#" -eq 0 ]; then
    echo "usage: start-learner.sh RECIPE [KEY=VALUE]... [OPTIONS of rlvr train]" >&2
    exit 2
fi
case "${RLVR_ENGINES:-}" in
    "") engines="" ;;
    auto) engines=$(fit-gpus.py "$@") ;;
    *) engines="cluster.engines=$RLVR_ENGINES" ;;
esac
recipe=$1
shift
export RAY_AUTH_MODE=token RLVR_PORT="${RLVR_PORT:-6379}"
wait-for-head.sh
ray start --address="$RLVR_HEAD" --disable-usage-stats \
    --node-manager-port=$((RLVR_PORT + 1)) --object-manager-port=$((RLVR_PORT + 2)) \
    --dashboard-agent-listen-port=$((RLVR_PORT + 3)) --dashboard-agent-grpc-port=$((RLVR_PORT + 4)) \
    --runtime-env-agent-port=$((RLVR_PORT + 5)) --metrics-export-port=$((RLVR_PORT + 6)) \
    --ray-client-server-port=$((RLVR_PORT + 8)) --dashboard-port=$((RLVR_PORT + 9)) \
    --min-worker-port=$((RLVR_PORT + 100)) --max-worker-port=$((RLVR_PORT + 1099)) \
    --object-store-memory="${RLVR_OBJECT_STORE_BYTES:-536870912}" \
    ${RLVR_CPUS:+--num-cpus="$RLVR_CPUS"} ${RLVR_GPUS:+--num-gpus="$RLVR_GPUS"} \
    ${RLVR_NODE_IP:+--node-ip-address="$RLVR_NODE_IP"}
# shellcheck disable=SC2086  # one override a word; before the caller's, which win
exec rlvr train "$recipe" $engines "$@" cluster.backend=ray cluster.address=auto
