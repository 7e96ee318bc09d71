"""Salted hashes in place of identifiers.

HMAC-SHA256 under a secret salt: without the salt nobody can hash a list of known patient ids and look them up, which
a plain hash allows. The dataset's name is not hashed in, so that two datasets built with one salt match by patient.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import hashlib
import hmac
import os
from pathlib import Path

from radnet_jax.data import storage
from radnet_jax.errors import UserError

SALT_VARIABLE = "RADNET_JAX_SALT_FILE"
MIN_SALT_BYTES = 16
RECIPE = "head -c 32 /dev/urandom | base64 > FILE"


@dataclasses.dataclass(frozen=True)
class Salt:
    """Attributes: value, the secret; kind, "file" or "public"; name, its fingerprint where the secret itself is not
    known and not needed, since all is hashed already.
    """

    value: bytes = dataclasses.field(repr=False)
    kind: str
    name: str = ""

    def fingerprint(self) -> str:
        """Names the salt without giving it away."""
        return self.name or hashlib.sha256(b"radnet_jax salt fingerprint\0" + self.value).hexdigest()[:16]


PUBLIC_SALT = Salt(b"radnet_jax public salt: these ids are no secret", "public")


def given_salt(salt_file: str | os.PathLike[str] | None) -> Salt | None:
    """Returns the salt of `salt_file`, else that of the file which RADNET_JAX_SALT_FILE names, else None.

    Raises:
      UserError: the file is missing or holds fewer than 16 bytes.
    """
    named = salt_file or os.environ.get(SALT_VARIABLE)
    if not named:
        return None
    path, fix = named, f"write one: {RECIPE}, and keep it secret"
    try:
        value = (
            (storage.read_bytes(str(named)) or b"") if storage.is_remote(named) else Path(named).read_bytes()
        ).strip()
    except OSError as error:
        raise UserError(f"salt file {path} can't be read ({error.strerror})", fix=fix) from error
    if len(value) < MIN_SALT_BYTES:
        raise UserError(
            f"salt file {path} is too short", got=f"{len(value)} bytes", expected=f"at least {MIN_SALT_BYTES}", fix=fix
        )
    return Salt(value, "file")


def pseudonym(salt: bytes, kind: str, identifier: str) -> str:
    """Hash of an identifier as 20 hexadecimal digits (80 bits: no collision to be expected among 10^9 of them).

    Args:
      salt: the secret.
      kind: "case", "patient" or "series"; the same text hashes differently for each.
      identifier: what must not be seen.
    """
    return hmac.new(salt, f"{kind}\0{identifier}".encode(), hashlib.sha256).hexdigest()[:20]


def digest(data: object) -> str:
    """SHA-256 of a JSON-like value, independent of the order of its keys."""
    return hashlib.sha256(_canonical(data).encode()).hexdigest()


def _canonical(data: object) -> str:
    if isinstance(data, Mapping):
        return "{" + ",".join(f"{k!r}:{_canonical(data[k])}" for k in sorted(data)) + "}"
    if isinstance(data, list | tuple):
        return "[" + ",".join(_canonical(v) for v in data) + "]"
    return repr(data)
