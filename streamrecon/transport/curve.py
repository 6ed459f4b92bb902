"""Keys of CURVE, from files as `zmq.auth` and Bluesky write and read them."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import zmq.auth

from streamrecon.errors import ConfigError

KEY_LENGTH = 40
"""Characters of a key in Z85."""


@dataclass(frozen=True, slots=True)
class CurveKeys:
    """What a client needs to talk to a server that asks for keys."""

    public: bytes
    """Its own public key, in Z85."""
    secret: bytes = field(repr=False)
    """Its own secret key, in Z85."""
    server: bytes
    """The server's public key, in Z85."""


def read_curve_keys(secret_path: str | os.PathLike[str], server_public_key: str | os.PathLike[str]) -> CurveKeys:
    """Keys of a client; the two files are those of Bluesky's `ClientCurve`.

    Parameters
    ----------
    secret_path
        File of the client's own pair (`NAME.key_secret`).
    server_public_key
        File with the server's public key (`NAME.key`).

    Raises
    ------
    ConfigError
        If a file is missing, is no such file, or has no such key.
    """
    public, secret = _read(secret_path)
    if secret is None:
        raise ConfigError(
            f"{os.fspath(secret_path)!r} has only a public key; name the file NAME.key_secret of this client"
        )
    return CurveKeys(public, secret, _read(server_public_key)[0])


def _read(path: str | os.PathLike[str]) -> tuple[bytes, bytes | None]:
    try:
        public, secret = zmq.auth.load_certificate(path)
    except (OSError, ValueError, IndexError) as error:
        raise ConfigError(f"{os.fspath(path)!r} is not a file of CURVE keys: {error}") from error
    if len(public) != KEY_LENGTH or (secret is not None and len(secret) != KEY_LENGTH):
        raise ConfigError(f"{os.fspath(path)!r} has a key that is not of {KEY_LENGTH} characters")
    return public, secret
