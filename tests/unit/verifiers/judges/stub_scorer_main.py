"""A child process that speaks the protocol of a reward model without torch: what it does is in the completions."""

import os
import time

from rlvr.processes.frames import ParentPipe, encode


def main() -> None:
    """Fails to load for the path "bad"; otherwise scores a completion with its length."""
    pipe = ParentPipe()
    first = pipe.receive()
    assert first is not None
    if first.body["scorer"]["path"] == "bad":
        pipe.send(encode({"op": "failed", "reason": "no such model"}))
        return
    pipe.send(encode({"op": "loaded", "labels": ["quality"], "max_input_tokens": 64}))
    while (frame := pipe.receive()) is not None:
        texts = [pair["completion"] for pair in frame.body["pairs"]]
        if "die" in texts:
            os._exit(3)
        if "hang" in texts:
            time.sleep(60.0)
        if "raise" in texts:
            pipe.send(encode({"op": "not_scored", "reason": "out of memory"}))
            continue
        rows = [{"logits": [float(len(text))], "num_tokens": len(texts), "problem": ""} for text in texts]
        pipe.send(encode({"op": "scored", "scores": rows}))


if __name__ == "__main__":
    main()
