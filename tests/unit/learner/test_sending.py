"""Weights that the learner sends: what is announced, what ranks broadcast, the file for an engine that starts alone."""

import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from rlvr.errors import LearnerError, TransferError
from rlvr.learner.weights.publication import Publication
from rlvr.learner.weights.wire import wire_tensors
from rlvr.models import lora
from rlvr.models.checksum import tensor_checksum
from rlvr.records import Transport, WeightsKind
from rlvr.transfer.communicator import SUBSTITUTE_VARIABLE, join
from rlvr.transfer.rendezvous import Rendezvous
from tests.unit.learner.group_cases import start_group
from tests.unit.run.weights.proof_cases import tiny_policy

SUBSTITUTES = Path(__file__).parents[2] / "e2e" / "vllm"
sys.path.insert(0, str(SUBSTITUTES))


def test_weights_that_are_sent_are_announced_without_checksums_and_only_while_the_learner_has_them(tmp_path: Path):
    model = tiny_policy(rank=4).model
    published = Publication(transport=Transport.NCCL, dtype=torch.bfloat16, folder=tmp_path)
    ref = published.publish(model)
    assert {entry.name: entry.shape for entry in ref.manifest} == {
        name: tuple(weight.shape) for name, weight in lora.merged_weights(model)
    }
    assert {entry.checksum for entry in ref.manifest} == {None}
    assert ref.num_bytes == 2 * sum(weight.numel() for _, weight in lora.merged_weights(model))
    assert published.is_current(ref)
    trial = published.publish_trial(model)
    assert (published.is_current(ref), published.is_current(trial)) == (False, True)
    published.end_trials()
    assert (published.is_current(ref), published.is_current(trial)) == (True, False)
    published.has_changed = True
    assert not published.is_current(ref)
    assert published.write_file(model, ref) is None
    with pytest.raises(LearnerError, match=r"version 0 cannot be sent: the learner has changed them since"):
        published.require_current(ref)


def test_an_engine_that_starts_alone_gets_a_file_of_the_weights_that_were_sent(tmp_path: Path):
    model = tiny_policy(rank=4).model
    published = Publication(transport=Transport.NCCL, dtype=torch.bfloat16, folder=tmp_path)
    ref = published.publish(model)
    file = published.write_file(model, ref)
    assert file is not None
    assert (file.transport, file.policy_version) == (Transport.FILE, ref.policy_version)
    expected = {name: weight.to(torch.bfloat16) for name, weight in lora.merged_weights(model)}
    for name, tensor in load_file(file.uri).items():
        assert torch.equal(tensor, expected[name])
    assert {entry.name: entry.checksum for entry in file.manifest} == {
        name: tensor_checksum(tensor) for name, tensor in expected.items()
    }
    published.close()


@pytest.mark.slow
def test_ranks_gather_and_send_together_and_survive_an_engine_that_does_not_come(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv(SUBSTITUTE_VARIABLE, "gloo_communicator:GlooCommunicator")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(SUBSTITUTES), os.environ.get("PYTHONPATH", "")]))
    with start_group(2, tmp_path, transport=Transport.NCCL, reference=None, weights_folder=tmp_path) as group:
        ref = group.publish()

        def meeting(deadline_s: float) -> Rendezvous:
            port = group.meet("127.0.0.1")
            names = ("the learner", "engine-0")
            return Rendezvous(address="127.0.0.1", port=port, names=names, token=5, deadline_s=deadline_s)

        with pytest.raises(TransferError, match=r"engine-0 \(rank 1\) did not join"):
            group.join(meeting(0.3))
        with pytest.raises(TransferError, match="has not joined a group"):
            group.send(ref)

        def receive(there: Rendezvous) -> torch.Tensor:
            found = torch.zeros(ref.num_bytes, dtype=torch.uint8)
            join(there, rank=1, device=torch.device("cpu")).broadcast(found, src=0)
            return found

        there = meeting(20.0)
        with ThreadPoolExecutor(1) as pool:
            receiving = pool.submit(receive, there)
            group.join(there)
            sent = group.send(ref)
            found = receiving.result()
        own = dict(wire_tensors(group.policy.model, dtype=torch.bfloat16, kind=WeightsKind.FULL))
        assert torch.equal(
            found, torch.cat([tensor.contiguous().view(-1).view(torch.uint8) for tensor in own.values()])
        )
        assert {entry.name: entry.checksum for entry in sent.manifest} == {
            n: tensor_checksum(t) for n, t in own.items()
        }
        file = group.write_file(ref)
        assert file is not None
        assert file.manifest == sent.manifest
