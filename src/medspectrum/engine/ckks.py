"""Numbers under CKKS encryption (Cheon et al. 2017, doi:10.1007/978-3-319-70694-8_15), by TenSEAL.

Rings of degree 8192 with a modulus of 160 bits stay well under the 218 bits that the Homomorphic Encryption
Standard (2018) gives for 128 bits of security. What comes from the other side is bytes of known size that
Microsoft SEAL checks; no pickle is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from medspectrum.errors import UserError

DEGREE, MODULUS_BITS, SCALE_BITS = 8192, (60, 40, 60), 40
SLOTS = DEGREE // 2
"""Numbers that one ciphertext holds."""
MOST_KEY_BYTES = 64 << 20
MOST_CIPHERTEXT_BYTES = 1 << 20


def tenseal() -> Any:
    """The library. Raises UserError where it is not installed."""
    try:
        import tenseal as library
    except ImportError:
        raise UserError('encrypted inference needs TenSEAL: pip install "medspectrum[encrypted]"') from None
    return library


def new_keys() -> tuple[bytes, bytes]:
    """(secret, public): the first opens answers and stays with who asks; the second lets others compute."""
    library = tenseal()
    made = library.context(library.SCHEME_TYPE.CKKS, DEGREE, coeff_mod_bit_sizes=list(MODULUS_BITS))
    made.global_scale = 2.0**SCALE_BITS
    made.generate_galois_keys()
    secret = made.serialize(save_secret_key=True, save_galois_keys=False, save_relin_keys=False)
    return secret, made.serialize(save_secret_key=False, save_relin_keys=False)


def opened_keys(held: bytes, *, secret: bool) -> Any:
    """The keys as the library holds them. Raises UserError where they are not such keys."""
    library = tenseal()
    if not 0 < len(held) <= MOST_KEY_BYTES:
        raise UserError(f"the keys have {len(held)} bytes, and not 1 to {MOST_KEY_BYTES}; send them again")
    try:
        found = library.context_from(held)
        right = found.has_secret_key() == secret and found.global_scale == 2.0**SCALE_BITS
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"these are no keys ({_short(error)}); make some with: medspectrum encrypted keys"
        ) from None
    if not right:
        wanted = "secret.key" if secret else "public.key, which holds no secret part"
        raise UserError(f"these are not the keys that are needed here; give {wanted}")
    return found


def encrypt(keys: Any, row: np.ndarray) -> bytes:
    """A row (d,) of at most SLOTS numbers as one ciphertext."""
    if not 0 < len(row) <= SLOTS:
        raise UserError(f"a case has {len(row)} features; one ciphertext holds 1 to {SLOTS}")
    return tenseal().ckks_vector(keys, np.asarray(row, np.float64).tolist()).serialize()


def scores(keys: Any, asked: bytes, weights: np.ndarray, intercepts: np.ndarray) -> list[bytes]:
    """One ciphertext for each column of weights (d, c): the hidden row times the column, plus intercept (c,).

    Raises UserError where the bytes are no such ciphertext.
    """
    row = _ciphertext(keys, asked)
    if row.size() != len(weights):
        raise UserError(
            f"a request holds {row.size()} numbers and the head takes {len(weights)}; embed again"
        )
    found = []
    for column, intercept in zip(weights.T, intercepts, strict=True):
        hidden = row.dot(column.tolist())
        hidden += [float(intercept)]
        found.append(hidden.serialize())
    return found


def decrypt(keys: Any, answers: Sequence[bytes]) -> np.ndarray:
    """(c,) the hidden numbers. Raises UserError where the bytes are no such ciphertexts."""
    return np.array([_ciphertext(keys, own).decrypt()[0] for own in answers])


def _ciphertext(keys: Any, held: bytes) -> Any:
    if not 0 < len(held) <= MOST_CIPHERTEXT_BYTES:
        raise UserError(
            f"a ciphertext has {len(held)} bytes, and not 1 to {MOST_CIPHERTEXT_BYTES}; send it again"
        )
    try:
        return tenseal().ckks_vector_from(keys, held)
    except (ValueError, RuntimeError) as error:
        raise UserError(f"a ciphertext cannot be read ({_short(error)}); send it again") from None


def _short(error: Exception) -> str:
    return str(error).split("\n")[0][:80] or type(error).__name__
