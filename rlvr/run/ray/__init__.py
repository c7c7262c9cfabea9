"""The Ray backend: the same run with learner, engines and judges as actors. The only package that imports ray."""
