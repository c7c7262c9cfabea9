"""What the user chooses on the command line. Imports nothing heavy: the command line itself imports it."""

from dataclasses import dataclass
from enum import StrEnum

from rlvr.errors import ConfigError


class Target(StrEnum):
    """What the files are for."""

    KUBERAY = "kuberay"
    SLURM = "slurm"
    COMPOSE = "compose"


class Kind(StrEnum):
    """The KubeRay object: a run with its own cluster, or a cluster that stays."""

    JOB = "job"
    CLUSTER = "cluster"


class Firewall(StrEnum):
    """The program that loads the firewall rule of `rlvr cluster up`."""

    NFT = "nft"
    IPTABLES = "iptables"


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """Options of `rlvr cluster render` that go into the files.

    image: of the containers; "" is `rlvr:gpu` or `rlvr:cpu`. max_restarts: how often a run is continued. token_secret:
    a Kubernetes Secret with the key auth_token; "" lets KubeRay create one. container_image, venv, time, sbatch: for
    Slurm.
    """

    image: str = ""
    kind: Kind = Kind.JOB
    namespace: str = ""
    token_secret: str = ""
    max_restarts: int = 3
    container_image: str = ""
    venv: str = ""
    time: str = ""
    sbatch: tuple[str, ...] = ()

    def require_used(self, target: Target) -> None:
        """Raises ConfigError when an option was given that the target does not use."""
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
        given = [name for name, value in unused.items() if value]
        if given:
            raise ConfigError(
                f"--target {target} does not use {', '.join(given)}; `rlvr cluster render --help` says who does"
            )
        if self.venv and self.container_image:
            raise ConfigError("--venv and --container-image exclude each other: an image brings its own installation")
