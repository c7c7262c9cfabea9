"""Where prompts come from: files, hub data sets and generators, mixed in an order that can be
resumed. No torch here.
"""
