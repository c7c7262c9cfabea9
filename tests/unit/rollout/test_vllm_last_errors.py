"""Why vLLM's core did not start is found in the output that it shares with its parent."""

import subprocess
import sys
from pathlib import Path

import pytest

from rlvr.errors import ConfigError
from rlvr.rollout.vllm import environment
from rlvr.rollout.vllm.environment import engine_environment, require_libraries

CORE = """
import os, sys
from rlvr.rollout.vllm.last_errors import last_errors
os.write(2, '''(EngineCore pid=9) ERROR 11-29 20:00:00 [core.py:1] Traceback (most recent call last):
(EngineCore pid=9) ERROR 11-29 20:00:00 [core.py:1]   File "x.py", line 1, in <module>
(EngineCore pid=9) ERROR 11-29 20:00:00 [core.py:1] OSError: libnuma.so.1: cannot open shared object file
RuntimeError: Engine core initialization failed. See root cause above.
'''.encode())
os.write(1, b"torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found\\n")
with open(sys.argv[1], "w") as file:
    file.write(last_errors())
"""


def test_the_error_names_the_causes_and_not_only_that_something_failed(tmp_path: Path):
    with (tmp_path / "out").open("w+") as out, (tmp_path / "err").open("w+") as err:
        subprocess.run([sys.executable, "-c", CORE, str(tmp_path / "found")], stdout=out, stderr=err, check=True)
    assert (tmp_path / "found").read_text() == (
        "torch._inductor.exc.InvalidCxxCompiler: No working C++ compiler found; "
        "OSError: libnuma.so.1: cannot open shared object file"
    )


def test_a_pipe_is_not_read(tmp_path: Path):
    command = [sys.executable, "-c", CORE, str(tmp_path / "found")]
    subprocess.run(command, capture_output=True, check=True)
    assert (tmp_path / "found").read_text() == ""


def test_a_library_that_is_missing_is_named_with_the_package():
    with pytest.raises(ConfigError, match=r"needs libabsent\.so\.7, .*apt install libnuma1"):
        require_libraries("libabsent.so.7")


def test_without_a_compiler_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert engine_environment(is_cpu=True, threads=1)["TORCH_COMPILE_DISABLE"] == "1"
    assert "TORCH_COMPILE_DISABLE" not in engine_environment(is_cpu=False, threads=1)
    monkeypatch.setattr(environment.shutil, "which", lambda _: "/usr/bin/g++")
    assert "TORCH_COMPILE_DISABLE" not in engine_environment(is_cpu=True, threads=1)
