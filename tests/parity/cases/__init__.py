"""Every comparison with a peer: their settings, our recipe section, and whether the two are meant to agree."""

from tests.parity.case import Case
from tests.parity.cases import areal, nemo_rl, prime_rl, skyrl, trl, verl, verl_corrections

ALL_CASES: tuple[Case, ...] = (
    *trl.CASES,
    *verl.CASES,
    *verl_corrections.CASES,
    *prime_rl.CASES,
    *skyrl.CASES,
    *nemo_rl.CASES,
    *areal.CASES,
)
