"""Freed memory stays with the process in every process that trains, and where the user decides, it does not."""

import subprocess
import sys

import pytest

from rlvr.models.allocator import use_expandable_segments

# Large blocks taken and freed, as by a step; prints the page faults of the second round.
ROUNDS = """
import resource
{setting}
def take():
    blocks = [bytearray(8 << 20) for _ in range(8)]
    for block in blocks:
        block[::4096] = b"x" * len(block[::4096])
take()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
take()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
KEEP = "from rlvr.models.allocator import keep_freed_memory; keep_freed_memory()"


def faults(setting: str, **environment: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", ROUNDS.format(setting=setting)],
        capture_output=True,
        text=True,
        check=True,
        env={"PATH": "/usr/bin", **environment},
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_memory_that_was_freed_is_not_faulted_in_again():
    blocks = 8 * 8 * 256  # pages of one round
    assert faults("pass") > blocks // 2
    assert faults(KEEP) < blocks // 10


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's allocator")
def test_a_setting_of_the_user_stays():
    assert faults(KEEP, MALLOC_MMAP_MAX_="65536") > 8 * 8 * 128


def test_segments_of_gpu_memory_can_grow_unless_the_user_has_set_the_allocator():
    environ: dict[str, str] = {}
    use_expandable_segments(environ)
    assert environ == {"PYTORCH_CUDA_ALLOC_CONF": "expandable_segments:True"}
    for own in ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, {"PYTORCH_ALLOC_CONF": "x"}):
        environ = dict(own)
        use_expandable_segments(environ)
        assert environ == own
