"""Rollout engines: prompts as token ids in, completions with log-probs out.

transformers_engine.py, toy_engine.py       run in the learner's process; on a cluster in an actor
waves.py, decode.py, next_token.py,         batches of requests, sampling, the next token's logits and their cache, for
key_value_cache.py                          the transformers engine; waves.py also for the toy engine
vllm/                                       the vLLM engine
server_engine.py, server_dialect.py         a running OpenAI-compatible server, for evaluation only
build.py, context.py                        builds the engine of a recipe; what an engine of another package gets
"""
