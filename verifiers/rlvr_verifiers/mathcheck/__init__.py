"""Whether a written mathematical answer equals a reference: the standard library only, in bounded time."""
