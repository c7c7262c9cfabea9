"""What the user chooses on the command line. Imports nothing heavy: the command line itself imports it."""

import re
from dataclasses import dataclass
from enum import StrEnum

from rlvr.errors import ConfigError

_RESTARTS = 3
_LABEL = r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_LABELS = rf"(?=.{{1,253}}\Z){_LABEL}(\.{_LABEL})*"


class Target(StrEnum):
    """What the files are for."""

    KUBERAY = "kuberay"
    SLURM = "slurm"
    COMPOSE = "compose"


class Kind(StrEnum):
    """The KubeRay object: a run with its own cluster, or a cluster that outlives the run."""

    JOB = "job"
    CLUSTER = "cluster"


class Firewall(StrEnum):
    """The program that loads the firewall rule of `rlvr cluster up`."""

    NFT = "nft"
    IPTABLES = "iptables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Options of `rlvr cluster render` that go into the files.

    image: of the containers; "" is `rlvr:gpu` or `rlvr:cpu`. max_restarts: how often a run is continued; None if the
    user gave none. token_secret: a Kubernetes Secret with the key auth_token; "" lets KubeRay create one.
    container_image, venv, time, sbatch: for Slurm.
    """

    image: str = ""
    kind: Kind = Kind.JOB
    namespace: str = ""
    token_secret: str = ""
    max_restarts: int | None = None
    container_image: str = ""
    venv: str = ""
    time: str = ""
    sbatch: tuple[str, ...] = ()

    @property
    def restarts(self) -> int:
        """How often a run is continued."""
        return _RESTARTS if self.max_restarts is None else self.max_restarts

    def require_valid(self, target: Target) -> None:
        """Raises ConfigError when an option was given that the target does not use, or whose value cannot be right."""
        self._require_used(target)
        self._require_names()

    def _require_names(self) -> None:
        if self.namespace and not re.fullmatch(_LABEL, self.namespace):
            raise ConfigError(
                f"--namespace {self.namespace!r} is not the name of a Kubernetes namespace: up to 63 lower-case "
                "letters, digits and dashes, with a letter or digit at both ends"
            )
        if self.token_secret and not re.fullmatch(_LABELS, self.token_secret):
            raise ConfigError(
                f"--token-secret {self.token_secret!r} is not the name of a Kubernetes Secret: lower-case letters, "
                "digits, dashes and dots, with a letter or digit at both ends"
            )
        if re.search(r"\s", self.image):
            raise ConfigError(f"--image {self.image!r} is not the name of an image")
        if self.container_image and not self.container_image.strip():  # a path, which may contain spaces
            raise ConfigError(f"--container-image {self.container_image!r} is not the name of an image")

    def _require_used(self, target: Target) -> None:
        of_kuberay = {
            "--kind": self.kind is not Kind.JOB,
            "--namespace": self.namespace,
            "--token-secret": self.token_secret,
        }
        of_slurm = {
            "--container-image": self.container_image,
            "--venv": self.venv,
            "--time": self.time,
            "--sbatch": self.sbatch,
        }
        unused: dict[str, object] = {}
        if target is not Target.KUBERAY:
            unused |= of_kuberay
        if target is not Target.SLURM:
            unused |= of_slurm
        if target is Target.SLURM:
            unused["--image"] = self.image
        if target is Target.COMPOSE or (target is Target.KUBERAY and self.kind is Kind.CLUSTER):
            unused["--max-restarts"] = self.max_restarts is not None
        given = [name for name, value in unused.items() if value]
        if given:
            kind = " --kind cluster" if self.kind is Kind.CLUSTER and target is Target.KUBERAY else ""
            raise ConfigError(
                f"--target {target}{kind} does not use {', '.join(given)}; `rlvr cluster render --help` says which "
                "target does"
            )
        if self.venv and self.container_image:
            raise ConfigError("--venv and --container-image exclude each other: an image contains its own installation")
