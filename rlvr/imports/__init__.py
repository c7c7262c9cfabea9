"""Recipes from the configurations of other trainers, with what each key became.

    read/            a file -> keys and values, each with its place
    tables/*.yaml    one row for each key of a trainer; `table.py` explains them
    trainers/        keys whose meaning depends on others
    conversion.py    the recipe so far, and one verdict for each key
    report.py        the verdicts in three groups

`rlvr.imports.importing.import_config` runs the stages. No code of the configuration is executed.
"""
