"""rlvr: reinforcement learning with verifiable rewards, and evidence that it happened."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("rlvr")
except PackageNotFoundError:  # a checkout on sys.path that was never installed
    __version__ = "0+unknown"
