#!/bin/sh
# The head of a cluster: Ray's bookkeeping, and no work of its own unless it is given cores. Ends when Ray ends.
#
# RAY_AUTH_TOKEN_PATH    a file with the secret of the cluster, the same for every node; or the secret in RAY_AUTH_TOKEN
# RLVR_PORT              where nodes join (6379); Ray and rlvr listen on this port and the 1,099 above it
# RLVR_CPUS, RLVR_GPUS   cores and GPUs that Ray may give away here (0)
# RLVR_NODE_IP           this node's address; Ray's guess when unset
# RLVR_OBJECT_STORE_BYTES  of shared memory (536870912); weights do not pass through it
# RLVR_SUBMITTED         the shared folder of the cluster: runs that were submitted and have not ended are continued
set -eu
if [ -z "${RAY_AUTH_TOKEN:-}${RAY_AUTH_TOKEN_PATH:-}" ]; then
    echo "rlvr: set RAY_AUTH_TOKEN_PATH to a file with the secret of the cluster, or RAY_AUTH_TOKEN to the secret itself" >&2
    exit 2
fi
export RLVR_PORT="${RLVR_PORT:-6379}"
export RAY_AUTH_MODE=token
if [ -n "${RLVR_SUBMITTED:-}" ]; then
    python -m rlvr.deploy.submission.host resume "$RLVR_SUBMITTED" &
fi
# Without the autoscaler, whose metrics every interface would show without asking for the token.
exec ray start --head --block --port="$RLVR_PORT" --num-cpus="${RLVR_CPUS:-0}" --num-gpus="${RLVR_GPUS:-0}" \
    --include-dashboard=false --no-monitor \
    --node-manager-port=$((RLVR_PORT + 1)) --object-manager-port=$((RLVR_PORT + 2)) \
    --dashboard-agent-listen-port=$((RLVR_PORT + 3)) --dashboard-agent-grpc-port=$((RLVR_PORT + 4)) \
    --runtime-env-agent-port=$((RLVR_PORT + 5)) --metrics-export-port=$((RLVR_PORT + 6)) \
    --ray-client-server-port=$((RLVR_PORT + 8)) --dashboard-port=$((RLVR_PORT + 9)) \
    --min-worker-port=$((RLVR_PORT + 100)) --max-worker-port=$((RLVR_PORT + 1099)) \
    --disable-usage-stats --object-store-memory="${RLVR_OBJECT_STORE_BYTES:-536870912}" \
    ${RLVR_NODE_IP:+--node-ip-address="$RLVR_NODE_IP"}
