"""Sends weights from the learner to engines without a file: the part that both sides share.

Comes in:   a rendezvous of the driver; on rank 0 named tensors.
Goes out:   a communicator that has proven that bytes arrive; tensors packed into chunks and broadcast, each operation
            within a deadline.
"""
