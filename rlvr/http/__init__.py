"""A JSON client for HTTP servers, and the choice among the models that a server offers.

Used by the engine of `rlvr eval --server` and by the verifier `llm_judge`. It imports the standard library,
`rlvr.errors` and `rlvr.protocols`.

Input:  a request as JSON, with a deadline.
Output: the answer as JSON, or an error that names the server and never shows the key.
"""
