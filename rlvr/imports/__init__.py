"""Recipes from the configurations of other trainers, with what each key became.

    read/ (file -> keys and values)  ->  tables/*.yaml and trainers/ (keys -> recipe, one verdict each)  ->  writing, report

`rlvr.imports.importing.import_config` runs the stages. No code of the configuration is executed.
"""
