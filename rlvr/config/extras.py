"""Optional packages, and the message for a missing one.

Both the checks before a run and the code that imports the package use it; the latter may run on another machine.
"""

import importlib.util

_NEEDED_FOR = {
    "peft": (
        "model.lora.rank above 0 needs peft: pip install 'peft>=0.19' (or 'rlvr[lora]'), or set model.lora.rank=0 to "
        "train all weights"
    ),
    "bitsandbytes": (
        "learner.optimizer=adamw_8bit needs bitsandbytes: pip install 'bitsandbytes>=0.50' (or 'rlvr[eightbit]'), or "
        "set learner.optimizer=adamw"
    ),
    "liger_kernel": (
        "learner.kernels=liger needs liger-kernel: pip install 'liger-kernel>=0.7' (or 'rlvr[liger]'), or set "
        "learner.kernels=torch"
    ),
}


def needed(package: str, error: ImportError | None = None) -> str:
    """The message that names the key which needs the package, and what to do. Args: error: why its import failed.

    >>> needed("peft").partition(":")[0]
    'model.lora.rank above 0 needs peft'
    """
    return _NEEDED_FOR[package] + (f" ({error})" if error else "")


def is_missing(package: str) -> bool:
    """Whether the package is not installed; nothing is imported."""
    return importlib.util.find_spec(package) is None
