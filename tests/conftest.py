"""Shared fixtures: a tiny policy in float64 or float32, and the folder of real data where there is one."""

import os
from pathlib import Path

import hypothesis
import pytest

# An example's time depends on what else the machine does; a test that must be quick measures CPU time.
hypothesis.settings.register_profile("rlvr", deadline=None)
hypothesis.settings.load_profile("rlvr")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def shared_data() -> Path:
    """The folder with real data sets, from RLVR_SHARED (default ../shared); skips where it is absent."""
    folder = Path(os.environ.get("RLVR_SHARED", ROOT.parent / "shared"))
    if not (folder / "data").is_dir():
        pytest.skip(f"no data sets: {folder} does not exist (set RLVR_SHARED)")
    return folder
