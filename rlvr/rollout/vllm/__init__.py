"""The vLLM rollout engine: one engine in processes of its own, weights by file, proof of what it holds.

    settings.py     what a recipe asks of vLLM, and what it may not ask
    environment.py  variables that vLLM reads at its start; whether a vLLM that was tried is installed
    outline.py      the folder with config.json and tokenizer that vLLM starts from, without weights
    mapping.py      requests to vLLM's terms, and its outputs to completions
    engine.py       `VllmEngine`: generate, load_weights, score, sleep, health, close
    extension.py    what runs in vLLM's worker: the weight file, its checksums, packed copies
    scheduling.py   what runs in vLLM's core: a scored row has the step to itself
    adapter.py      all that touches vLLM's internals

This is the only package that imports vLLM, and only when an engine is built or by vLLM's own processes.
"""
