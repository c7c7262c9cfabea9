#!/bin/sh
# A node for rollout engines and judges. Waits for the head; ends when Ray ends, with exit code 1 about a minute after
# the head is gone. Whatever starts it again (a restart policy; `until start-node.sh; do sleep 1; done`) has it rejoin.
#
# RAY_AUTH_TOKEN_PATH    a file with the secret of the cluster, that of the head; or the secret in RAY_AUTH_TOKEN
# RLVR_HEAD              the head's address, HOST:PORT; needed
# RLVR_PORT              first of the 1,100 ports of this node (6379); another one where a host has two nodes
# RLVR_CPUS, RLVR_GPUS   cores and GPUs that Ray may give away here; all when unset
# RLVR_NODE_IP           this node's address; Ray's guess when unset
# RLVR_OBJECT_STORE_BYTES  of shared memory (536870912)
# RLVR_DRAIN_S           how long SIGTERM waits until a run's engines have finished and left (75)
# RLVR_WEIGHTS_FOLDER    where weights lie that engines load; shared memory when unset
set -eu
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    echo "rlvr: set RAY_AUTH_TOKEN_PATH to a file with the secret of the cluster, or RAY_AUTH_TOKEN to the secret itself" >&2
    exit 2
fi
: "${RLVR_HEAD:?is the head address, HOST:PORT}"
export RAY_AUTH_MODE=token RLVR_PORT="${RLVR_PORT:-6379}" RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RLVR_DRAIN_S:-75}"
wait-for-head.sh
exec ray start --block --address="$RLVR_HEAD" --disable-usage-stats \
    --node-manager-port=$((RLVR_PORT + 1)) --object-manager-port=$((RLVR_PORT + 2)) \
    --dashboard-agent-listen-port=$((RLVR_PORT + 3)) --dashboard-agent-grpc-port=$((RLVR_PORT + 4)) \
    --runtime-env-agent-port=$((RLVR_PORT + 5)) --metrics-export-port=$((RLVR_PORT + 6)) \
    --ray-client-server-port=$((RLVR_PORT + 8)) --dashboard-port=$((RLVR_PORT + 9)) \
    --min-worker-port=$((RLVR_PORT + 100)) --max-worker-port=$((RLVR_PORT + 1099)) \
    --object-store-memory="${RLVR_OBJECT_STORE_BYTES:-536870912}" \
    ${RLVR_CPUS:+--num-cpus="$RLVR_CPUS"} ${RLVR_GPUS:+--num-gpus="$RLVR_GPUS"} \
    ${RLVR_NODE_IP:+--node-ip-address="$RLVR_NODE_IP"}
