"""System call filters, run by a small BPF interpreter: the result of each call, on both architectures."""

import errno
import struct

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rlvr_sandboxes.inside import seccomp, syscalls
from rlvr_sandboxes.inside.seccomp import Mode

ALLOW, KILL = "allow", "kill"
ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
MACHINES = list(ARCH)


def run_filter(program: bytes, number: int, arguments: tuple[int, ...] = (), arch: int = ARCH["x86_64"]) -> str | int:
    """What the kernel would do: "allow", "kill" or an errno."""
    words = [*arguments, *([0] * (6 - len(arguments)))]
    data = struct.pack("<IIQ6Q", number, arch, 0, *(word & (2**64 - 1) for word in words))
    at, accumulator = 0, 0
    while True:
        code, yes, no, constant = struct.unpack_from("HBBI", program, 8 * at)
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, constant)
        elif code == 0x54:
            accumulator &= constant
        elif code == 0x05:
            at += constant
        elif code == 0x06:
            action = constant & 0xFFFF0000
            return {0x7FFF0000: ALLOW, 0x80000000: KILL}.get(action, constant & 0xFFFF)
        else:
            holds = {0x15: accumulator == constant, 0x35: accumulator >= constant, 0x45: bool(accumulator & constant)}
            at += yes if holds[code] else no


def call(name: str, machine: str = "x86_64") -> int:
    groups = [getattr(syscalls, group) for group in ("PLAIN", "CHECKED", "EXEC", "METADATA", "PRETENDED", "ZYGOTE")]
    return syscalls.numbers(*groups, machine=machine)[name]


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("mode", list(Mode))
def test_ordinary_calls_pass_and_unknown_ones_do_not(mode: Mode, machine: str) -> None:
    base = seccomp.base_filter(mode, owns_files=True, machine=machine)
    for name in syscalls.numbers(syscalls.PLAIN, machine=machine):
        if mode is Mode.LANDLOCK and name in ("connect", "bind", "listen", "accept", "accept4"):
            continue
        assert run_filter(base, call(name, machine), arch=ARCH[machine]) == ALLOW, name
    assert run_filter(base, 100_000, arch=ARCH[machine]) == errno.ENOSYS
    assert run_filter(base, 463, arch=ARCH[machine]) == errno.ENOSYS
    assert run_filter(base, call("sync", machine), arch=ARCH[machine]) == 0


@pytest.mark.parametrize(
    ("name", "x86_64", "aarch64"),
    [
        ("ptrace", 101, 117), ("bpf", 321, 280), ("perf_event_open", 298, 241), ("userfaultfd", 323, 282),
        ("add_key", 248, 217), ("io_uring_setup", 425, 425), ("process_vm_readv", 310, 270), ("shmget", 29, 194),
        ("msgget", 68, 186), ("mq_open", 240, 180), ("setxattr", 188, 5), ("pivot_root", 155, 41), ("reboot", 169, 142),
        ("init_module", 175, 105), ("settimeofday", 164, 170), ("personality", 135, 92), ("open_tree", 428, 428),
    ],
)  # fmt: skip
def test_dangerous_calls_are_refused(name: str, x86_64: int, aarch64: int) -> None:
    for machine, number in (("x86_64", x86_64), ("aarch64", aarch64)):
        for mode in Mode:
            base = seccomp.base_filter(mode, owns_files=True, machine=machine)
            assert run_filter(base, number, arch=ARCH[machine]) == errno.EPERM, name


def test_other_architectures_and_the_x32_numbers_are_killed() -> None:
    base = seccomp.base_filter(Mode.NAMESPACES, owns_files=True, machine="x86_64")
    assert run_filter(base, call("read"), arch=0x40000003) == KILL
    assert run_filter(base, 0x40000000 + call("read")) == KILL
    assert run_filter(base, 0xFFFFFFFF) == KILL


@pytest.mark.parametrize("machine", MACHINES)
def test_arguments_decide(machine: str) -> None:
    def verdict(mode: Mode, name: str, *arguments: int) -> str | int:
        base = seccomp.base_filter(mode, owns_files=True, machine=machine)
        return run_filter(base, call(name, machine), arguments, ARCH[machine])

    ns, ll = Mode.NAMESPACES, Mode.LANDLOCK
    assert verdict(ns, "clone", 17) == ALLOW
    for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
        assert verdict(ns, "clone", flag | 17) == errno.EPERM
    assert verdict(ns, "clone3", 0, 0) == errno.ENOSYS
    assert verdict(ns, "socket", 1, 1) == ALLOW
    assert [verdict(ns, "socket", family, 1) for family in (0, 2, 10, 16, 17, 38, 40)] == [errno.EACCES] * 7
    assert verdict(ll, "socket", 1, 1) == errno.EACCES
    assert verdict(ns, "socketpair", 1, 2) == ALLOW
    assert verdict(ll, "socketpair", 1, 1 | 0o2000000) == ALLOW
    assert verdict(ll, "socketpair", 1, 2) == errno.EPERM
    assert verdict(ll, "connect") == errno.EPERM
    assert verdict(ns, "ioctl", 0, 0x5401) == ALLOW
    assert verdict(ns, "ioctl", 0, 0x5412) == errno.EPERM
    assert verdict(ns, "ioctl", 0, 0x541C) == errno.EPERM
    assert verdict(ns, "prlimit64", 0, 7) == ALLOW
    assert verdict(ns, "prlimit64", 1, 7) == errno.EPERM
    assert verdict(ns, "sched_setaffinity", 2**32 + 5) == errno.EPERM
    assert verdict(ns, "setpriority", 0, 0, 5) == ALLOW
    assert verdict(ns, "setpriority", 2, 0, 5) == errno.EPERM
    assert verdict(ns, "setpriority", 0, 9, 5) == errno.EPERM


def test_a_shared_user_cannot_change_modes_and_gets_no_error() -> None:
    shared = seccomp.base_filter(Mode.LANDLOCK, owns_files=False, machine="x86_64")
    own = seccomp.base_filter(Mode.LANDLOCK, owns_files=True, machine="x86_64")
    for name in ("chmod", "fchmodat2", "chown", "utimensat"):
        assert (run_filter(shared, call(name)), run_filter(own, call(name))) == (0, ALLOW)


@pytest.mark.parametrize("machine", MACHINES)
def test_a_run_loses_what_the_zygote_has(machine: str) -> None:
    plain = seccomp.run_filter(Mode.NAMESPACES, machine=machine)
    strict = seccomp.run_filter(Mode.NAMESPACES, can_exec=False, machine=machine)
    for name in syscalls.numbers(syscalls.ZYGOTE, machine=machine):
        assert run_filter(plain, call(name, machine)) == errno.EPERM
    assert run_filter(plain, call("execve", machine)) == ALLOW
    assert run_filter(strict, call("execve", machine)) == run_filter(strict, call("execveat", machine)) == errno.EPERM
    assert run_filter(plain, call("read", machine)) == ALLOW


def test_signals_to_the_zygote_its_group_and_everybody_are_refused() -> None:
    run = seccomp.run_filter(Mode.LANDLOCK, protected=(77, 76), machine="x86_64")
    for name in ("kill", "tkill", "tgkill", "rt_sigqueueinfo", "rt_tgsigqueueinfo"):
        for pid in (77, -77, 76, -76, -1):
            assert run_filter(run, call(name), (pid, 9)) == errno.EPERM, (name, pid)
        assert run_filter(run, call(name), (78, 9)) == ALLOW


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 500), st.sampled_from([0x7FFF0000, 0x00050001, 0x00050000]), min_size=1))
def test_the_search_tree_answers_as_a_table(actions: dict[int, int]) -> None:
    tree = seccomp._assemble([(0x20, 0, 0, 0), *seccomp._tree(dict(actions), x32=True)])
    names = {0x7FFF0000: ALLOW, 0x00050001: 1, 0x00050000: 0}
    for number in range(max(actions) + 3):
        expected = names[actions[number]] if number in actions else errno.EPERM
        if number > max(actions):
            expected = errno.ENOSYS
        assert run_filter(tree, number) == expected


def test_an_unknown_machine_has_no_filter() -> None:
    with pytest.raises(OSError, match="'riscv64'"):
        seccomp.base_filter(Mode.NAMESPACES, owns_files=True, machine="riscv64")
