"""The vLLM rollout engine: one engine in separate processes, weights by file, proof of the loaded weights.

    settings.py     a recipe's arguments for vLLM, and the forbidden ones
    environment.py  variables that vLLM reads at its start; whether a tested vLLM is installed
    outline.py      the folder with config.json and tokenizer that vLLM starts from, without weights
    mapping.py      requests to vLLM's terms, and its outputs to completions
    engine.py       `VllmEngine`: generate, load_weights, score, sleep, health, close
    extension.py    code in vLLM's worker: the weight file, its checksums, packed copies
    scheduling.py   code in vLLM's core: a scored row gets its own step
    adapter.py      everything that touches vLLM's internals

This is the only package that imports vLLM, and only when an engine is built or by vLLM's own processes.
"""
