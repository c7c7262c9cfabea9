"""Weights as files, weights perturbed and put back, and scores of a learner over ranks."""

import asyncio
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.config.load import load_recipe
from rlvr.config.recipe import EngineDtype
from rlvr.errors import ConfigError, LearnerError
from rlvr.learner.weights import publication as publication_module
from rlvr.learner.weights import weights_file
from rlvr.learner.weights.perturbation import Perturbation, tensor_groups
from rlvr.learner.weights.publication import Publication, require_room
from rlvr.learner.weights.weights_file import WeightsFolder, place_for, remove_stale
from rlvr.models import lora
from rlvr.models.checksum import tensor_checksum
from rlvr.models.scoring import score_rows
from rlvr.records import Transport, WeightsKind
from rlvr.run.launch.start_learner import start_learner
from tests.unit.learner.group_cases import make_batch, make_policy, start_group
from tests.unit.run.weights.proof_cases import ProofWorld, tiny_policy


def publication(folder: Path, dtype: torch.dtype = torch.bfloat16) -> Publication:
    return Publication(transport=Transport.FILE, dtype=dtype, folder=folder)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize("rank", [0, 4])
def test_a_file_holds_the_merged_weights_and_the_manifest_its_bytes(tmp_path: Path, dtype: torch.dtype, rank: int):
    model = tiny_policy(rank=rank).model
    ref = publication(tmp_path, dtype).publish(model)
    tensors = load_file(ref.uri)
    expected = {name: w.to(dtype) for name, w in lora.merged_weights(model)}
    assert set(tensors) == set(expected) == {entry.name for entry in ref.manifest}
    for entry in ref.manifest:
        assert torch.equal(tensors[entry.name], expected[entry.name])
        assert entry.checksum == tensor_checksum(tensors[entry.name])
        assert entry.shape == tuple(tensors[entry.name].shape)
    assert ref.dtype == str(dtype).removeprefix("torch.")


def test_adapters_are_published_alone_with_a_base_that_stays(tmp_path: Path):
    model = tiny_policy(rank=4).model
    published = Publication(transport=Transport.FILE, dtype=torch.bfloat16, folder=tmp_path, kind=WeightsKind.ADAPTER)
    refs = []
    for _ in range(4):
        published.has_changed = True
        refs.append(published.publish(model))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if ".lora_B." in name:
                    parameter.add_(1.0)
    trial = published.publish_trial(model)
    folder = Path(refs[0].uri).parent
    names = ["base.safetensors", "v-1.safetensors", "v2.safetensors", "v3.safetensors"]
    assert sorted(file.name for file in folder.iterdir()) == names
    for ref in (*refs, trial):
        assert ref.kind is WeightsKind.ADAPTER
        assert ref.base == refs[0].base
        assert {entry.name for entry in ref.manifest} == set(lora.adapter_names(model).values())
    assert refs[2].manifest != refs[3].manifest
    sent = load_file(refs[3].uri)
    assert all(tensor_checksum(sent[e.name]) == e.checksum for e in refs[3].manifest)
    base = refs[0].base
    assert base is not None
    assert base.kind is WeightsKind.FULL
    plain = load_file(base.uri)
    assert {e.name: e.shape for e in base.manifest} == {n: tuple(t.shape) for n, t in plain.items()}
    expected = {n: w.to(torch.bfloat16) for n, w in lora.base_weights(model)}
    assert all(torch.equal(plain[name], weight) for name, weight in expected.items())
    assert set(plain) == {name for name, _ in lora.merged_weights(model)}
    published.close()
    assert not list(tmp_path.iterdir())


def test_the_two_newest_versions_are_kept_and_none_after_close(tmp_path: Path):
    model = tiny_policy().model
    published = publication(tmp_path)
    ref = published.publish(model)
    for _ in range(3):
        published.has_changed = True
        ref = published.publish(model)
    folder = Path(ref.uri).parent
    assert sorted(file.name for file in folder.iterdir()) == ["v2.safetensors", "v3.safetensors"]
    published.close()
    published.close()
    assert not list(tmp_path.iterdir())


def test_trials_count_downwards_and_leave_real_versions_alone(tmp_path: Path):
    model = tiny_policy().model
    published = publication(tmp_path)
    first = published.publish(model)
    trials = [published.publish_trial(model) for _ in range(3)]
    assert [ref.policy_version for ref in trials] == [-1, -2, -3]
    folder = Path(first.uri).parent
    assert sorted(f.name for f in folder.iterdir()) == ["v-3.safetensors", "v0.safetensors"]
    published.end_trials()
    assert [f.name for f in folder.iterdir()] == ["v0.safetensors"]
    assert published.publish(model) is first
    published.has_changed = True
    assert published.publish(model).policy_version == 1
    published.close()


def test_folders_of_dead_processes_are_removed_and_of_living_ones_kept(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = tmp_path / f"rlvr-weights-{dead.pid}-abc"
    alive = tmp_path / f"rlvr-weights-{os.getpid()}-abc"
    copies = tmp_path / "rlvr-weights-copies"
    held = tmp_path / f"rlvr-weights-{dead.pid}-held"  # by a process that is numbered elsewhere
    for folder in (stale, alive, copies, held):
        folder.mkdir()
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert remove_stale(tmp_path) == [stale]
    assert sorted(tmp_path.iterdir()) == sorted([alive, copies, held])
    os.close(lock)
    assert remove_stale(tmp_path) == [held]


def test_what_others_put_in_the_place_of_a_folder_is_neither_followed_nor_waited_for(tmp_path: Path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    os.mkfifo(tmp_path / f"rlvr-weights-{dead.pid}-fifo")
    (tmp_path / "theirs").mkdir()
    (tmp_path / f"rlvr-weights-{dead.pid}-link").symlink_to(tmp_path / "theirs")
    assert remove_stale(tmp_path) == []
    assert len(list(tmp_path.iterdir())) == 3


def test_the_folder_of_a_killed_process_goes_with_it(tmp_path: Path):
    code = (
        "import os, sys, torch; from pathlib import Path; from rlvr.learner.weights.weights_file import WeightsFolder; "
        "written, _ = WeightsFolder(Path(sys.argv[1])).write("
        "0, [('a', torch.ones(2))], shapes={'a': (2,)}, dtype=torch.float32); "
        "print(written.stat().st_size, flush=True); os.kill(os.getpid(), 9)"
    )
    root = Path(__file__).parents[3]
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=root, check=False, capture_output=True)
    assert int(done.stdout) > 8
    until = time.monotonic() + 60
    while list(tmp_path.iterdir()):
        assert time.monotonic() < until
        time.sleep(0.02)


def test_a_folder_that_cannot_be_made_is_named(tmp_path: Path):
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(LearnerError, match=r"no folder for weights.*file"):
        WeightsFolder(blocked).write(0, [("a", torch.ones(2))], shapes={"a": (2,)}, dtype=torch.float32)


@pytest.fixture
def small_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder that represents a `/dev/shm` of 64 MiB with 60 free: Docker's default for a container."""
    memory = tmp_path / "shm"
    memory.mkdir()
    usage = shutil.disk_usage(tmp_path)
    small = usage._replace(total=64 << 20, used=4 << 20, free=60 << 20)
    monkeypatch.setattr(weights_file, "_SHARED_MEMORY", memory)
    monkeypatch.setattr(weights_file.shutil, "disk_usage", lambda place: small if Path(place) == memory else usage)
    monkeypatch.delenv("RLVR_WEIGHTS_FOLDER", raising=False)
    return memory


def test_weights_that_fit_go_to_shared_memory(small_memory: Path):
    assert place_for(60 << 20) == small_memory


def test_too_little_shared_memory_is_refused_with_the_bytes_and_what_to_do(small_memory: Path):
    with pytest.raises(ConfigError) as found:
        place_for((1 << 30) + 1)
    message = str(found.value)
    assert "need 1,073,741,825 bytes (1.0 GiB)" in message
    assert f"{small_memory} has 62,914,560 bytes (0.1 GiB) free of 67,108,864 bytes" in message
    assert "docker run --shm-size=2g; RLVR_SHM=2gb" in message
    assert "set RLVR_WEIGHTS_FOLDER" in message
    assert found.value.exit_code == 2


def test_shared_memory_that_cannot_be_written_is_refused(small_memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights_file.os, "access", lambda place, mode: False)
    with pytest.raises(ConfigError, match=r"shm is not writable.*RLVR_WEIGHTS_FOLDER"):
        place_for(1)


def test_a_folder_that_is_named_takes_the_place_of_shared_memory(
    small_memory: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    disk = tmp_path / "disk" / "weights"
    monkeypatch.setenv("RLVR_WEIGHTS_FOLDER", str(disk))
    assert place_for(61 << 20) == disk
    assert disk.is_dir()
    with pytest.raises(ConfigError, match=r"disk/weights has .*; set RLVR_WEIGHTS_FOLDER"):
        place_for(1 << 60)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RLVR_WEIGHTS_FOLDER", str(tmp_path / "file" / "below"))
    with pytest.raises(ConfigError, match=r"RLVR_WEIGHTS_FOLDER=.*cannot be made"):
        place_for(1)


def test_without_shared_memory_the_temporary_folder_is_used(small_memory: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(weights_file, "_SHARED_MEMORY", small_memory / "absent")
    assert place_for(1) == Path(tempfile.gettempdir())


@pytest.mark.parametrize(
    ("rank", "kind", "numbers"),
    [
        (0, WeightsKind.FULL, lambda base, adapters: 4 * base),
        (4, WeightsKind.FULL, lambda base, adapters: 4 * base),
        (4, WeightsKind.ADAPTER, lambda base, adapters: base + 4 * adapters),
    ],
)
def test_free_space_is_checked_before_a_learner_starts(
    monkeypatch: pytest.MonkeyPatch, rank: int, kind: WeightsKind, numbers: Callable[[int, int], int]
):
    asked: list[int] = []
    monkeypatch.setattr(publication_module, "place_for", asked.append)
    model = tiny_policy(rank=rank).model
    trained = {n: p.numel() for n, p in model.named_parameters() if ".lora_" in n}
    base = sum(p.numel() for p in model.parameters()) - sum(trained.values())
    for transport in Transport:
        require_room(model, transport=transport, dtype=torch.bfloat16, kind=kind)
    assert asked == [2 * numbers(base, sum(trained.values()))]


def test_a_base_needs_room_once_and_versions_four_times(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    asked: list[int] = []

    def place(num_bytes: int) -> Path:
        asked.append(num_bytes)
        return tmp_path

    monkeypatch.setattr(weights_file, "place_for", place)
    for write in (
        lambda folder: folder.write(0, [("a", torch.ones(2))], shapes={"a": (2,)}, dtype=torch.float32),
        lambda folder: folder.write_base([("a", torch.ones(2))], shapes={"a": (2,)}, dtype=torch.float32),
    ):  # fmt: skip
        folder = WeightsFolder()
        write(folder)
        folder.close()
    assert asked == [4 * 8, 8]


def test_a_run_that_has_no_room_for_its_weights_ends_before_its_cold_start(small_memory: Path, tmp_path: Path):
    recipe = load_recipe("tiny", ["cluster.backend=ray", "rollout.engine_dtype=float32"]).recipe
    policy = tiny_policy()
    policy.model.resize_token_embeddings(1_000_000)  # 64 MB and more in float32
    steps: list[int] = []
    with pytest.raises(ConfigError, match=r"RLVR_WEIGHTS_FOLDER"):
        start_learner(
            recipe,
            policy=policy,
            transport=Transport.FILE,
            faults=tmp_path,
            reference_folder=tmp_path,
            checkpoint=None,
            progress=lambda step, loss: steps.append(step),
        )
    assert steps == []


def test_perturbed_weights_are_restored_bit_for_bit():
    model = tiny_policy(rank=4).model
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    perturbation = Perturbation(model)
    names = ["model.embed_tokens.weight", "model.layers.0.self_attn.q_proj.lora_B.default.weight"]
    perturbation.begin(names, scale=0.5)
    own = dict(model.named_parameters())
    embed = own[names[0]] - before[names[0]]
    size = before[names[0]].square().mean().sqrt()
    assert (embed.square().mean().sqrt() / size).item() == pytest.approx(0.5, rel=0.1)
    # B is zero before its first step: it moves by half of the least size.
    assert own[names[1]].square().mean().sqrt().item() == pytest.approx(0.01, rel=0.3)
    assert all(torch.equal(p, before[n]) for n, p in own.items() if n not in names)
    with pytest.raises(LearnerError, match="others are still perturbed"):
        perturbation.begin(names, scale=0.5)
    perturbation.end()
    assert all(torch.equal(p, before[n]) for n, p in own.items())
    assert not perturbation.is_active
    with pytest.raises(LearnerError, match="not in the model"):
        perturbation.begin(["nothing"], scale=0.5)


def test_groups_cover_every_tensor_at_every_size():
    names = [
        "model.embed.weight",
        "model.norm.weight",
        *(
            f"model.layers.{i}.{part}.weight"
            for i in range(30)
            for part in ("self_attn.q", "self_attn.o", "mlp.up", "mlp.down", "input_norm")
        ),
    ]
    for most in (1, 8, 20, 48, 100, 200):
        groups = tensor_groups(names, most=most)
        assert {name for members in groups.values() for name in members} == set(names)
        assert len(groups) <= max(most, 2 + 3 + 1)
    assert "model.layers.*.self_attn.q.weight" in tensor_groups(names, most=48)
    assert "model.layers.7 attention" in tensor_groups(names, most=100)
    assert "model.layers.0 to model.layers.9" in tensor_groups(names, most=8)


def test_scores_are_the_engines_bit_for_bit_in_the_same_arithmetic(tmp_path: Path):
    world = ProofWorld(tmp_path, dtype=EngineDtype.FLOAT32, autocast=True)
    rows = [(1, 5, 6, 7, 9), (1, 4, 4)]

    async def of_engine() -> list[list[float]]:
        engine = world.engine()
        await engine.load_weights(world.learner.publish())
        scores = await engine.score(rows)
        await engine.close()
        return scores

    assert world.learner.score(rows) == asyncio.run(of_engine())
    assert [len(row) for row in world.learner.score(rows)] == [4, 2]
    world.learner.close()


@pytest.mark.slow
def test_ranks_score_perturb_and_restore_bit_for_bit(tmp_path: Path):
    rows = [(1, 5, 6, 7, 9), (1, 4, 4), (1, 8, 9, 10)]
    with start_group(
        2, tmp_path, transport=Transport.FILE, published_dtype=torch.float64, reference=None,
        weights_folder=tmp_path / "weights",
    ) as group:  # fmt: skip
        group.step(make_batch())
        first = group.publish()
        before = load_file(first.uri)
        model = make_policy().model
        with torch.no_grad():
            for n, p in model.named_parameters():
                p.copy_(before[n])
            whole = score_rows(model, rows)
        scores = group.score(rows)
        assert [len(row) for row in scores] == [4, 2, 3]
        for row, expected in zip(scores, whole, strict=True):
            assert row == pytest.approx(expected, abs=1e-5)

        name = "model.layers.1.mlp.up_proj.weight"
        assert name in {n for names in group.tensor_groups(most=100).values() for n in names}
        group.perturb([name], scale=0.5)
        moved = group.score(rows)
        trial = group.publish()
        assert trial.policy_version == -1
        assert not torch.equal(load_file(trial.uri)[name], load_file(first.uri)[name])
        assert max(abs(a - b) for a, b in zip(moved[0], scores[0], strict=True)) > 1e-4
        group.unperturb()
        assert group.score(rows) == scores
        assert group.publish() is first
        group.step(make_batch(seed=1))
        group.publish()
        group.save(tmp_path / "checkpoint")
        assert all(torch.equal(load_file(first.uri)[n], before[n]) for n in before)
    assert not list((tmp_path / "weights").iterdir())
