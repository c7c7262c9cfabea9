"""The recipe: pydantic models, loading with line numbers, overrides, provenance. No torch is imported here.

Lives here: loading, presets, what follows from a recipe; `sections/` has the keys, `document/` the YAML,
            `messages/` the error messages and explanations.
Comes in:   a file or the name of a packaged recipe, and `key=value` from the command line.
Goes out:   a `LoadedRecipe`, frozen and checked, or one ConfigError that lists every problem with its line.
"""
