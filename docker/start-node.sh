#!/bin/sh
# A node for rollout engines and judges. Waits for the head; ends when Ray ends, with exit code 1 about a minute after
# the head is gone. Whatever starts it again (a restart policy; `until start-node.sh; do sleep 1; done`) has it rejoin.
#
# RAY_AUTH_TOKEN         that of the head; needed
# RLVR_HEAD              the head's address, HOST:PORT; needed
# RLVR_CPUS, RLVR_GPUS   cores and GPUs that Ray may give away here; all when unset
# RLVR_NODE_IP           this node's address; Ray's guess when unset
# RLVR_OBJECT_STORE_BYTES  of shared memory (536870912)
# RLVR_DRAIN_S           how long SIGTERM waits until a run's engines have finished and left (75)
# RLVR_WEIGHTS_FOLDER    where weights lie that engines load; shared memory when unset
set -eu
: "${RAY_AUTH_TOKEN:?is the secret of the cluster; every node needs the same one}"
: "${RLVR_HEAD:?is the head address, HOST:PORT}"
export RAY_AUTH_MODE=token RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="${RLVR_DRAIN_S:-75}"
wait-for-head.sh
exec ray start --block --address="$RLVR_HEAD" --disable-usage-stats \
    --object-store-memory="${RLVR_OBJECT_STORE_BYTES:-536870912}" \
    ${RLVR_CPUS:+--num-cpus="$RLVR_CPUS"} ${RLVR_GPUS:+--num-gpus="$RLVR_GPUS"} \
    ${RLVR_NODE_IP:+--node-ip-address="$RLVR_NODE_IP"}
