#!/bin/sh
# The head of a cluster: Ray's bookkeeping, no work of its own. Ends when Ray ends.
#
# RAY_AUTH_TOKEN         shared by every node; needed
# RLVR_PORT              where nodes join (6379)
# RLVR_NODE_IP           this node's address; Ray's guess when unset
# RLVR_OBJECT_STORE_BYTES  of shared memory (536870912); weights do not pass through it
set -eu
: "${RAY_AUTH_TOKEN:?is the secret of the cluster; every node needs the same one}"
export RAY_AUTH_MODE=token
exec ray start --head --block --port="${RLVR_PORT:-6379}" --num-cpus=0 --num-gpus=0 --include-dashboard=false \
    --disable-usage-stats --object-store-memory="${RLVR_OBJECT_STORE_BYTES:-536870912}" \
    ${RLVR_NODE_IP:+--node-ip-address="$RLVR_NODE_IP"}
