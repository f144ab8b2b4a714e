"""C2PA, or Content Credentials: how a result came about and of what, signed, in its file."""

import hashlib
import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from PIL import Image

from xpsr.config.checks import check_argument
from xpsr.errors import InputError, MissingDependencyError, brief
from xpsr.files import read_bytes, refusal, sha256
from xpsr.image.xmp import SOURCE_TYPE, Provenance

if TYPE_CHECKING:
    from c2pa import Builder, Context, Signer

__all__ = ["MIME_TYPES", "Credentials", "check_signing", "sign"]

MIME_TYPES = {
    "JPEG": "image/jpeg",
    "PNG": "image/png",
    "TIFF": "image/tiff",
    "WEBP": "image/webp",
    "AVIF": "image/avif",
    "JXL": "image/jxl",
}
"""Of the formats that have a place for it."""

_SOURCE_TYPES = {**MIME_TYPES, "GIF": "image/gif", "HEIF": "image/heif", "MPO": "image/jpeg"}
"""Of the formats of pictures, as Pillow calls them, in which it may stand."""

_MAX_PEM = 2**20
"""Bytes of a file of certificates, or of a key."""

_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
"""How keys on elliptic curves sign, by the curve."""

_SOURCE = "source"
"""What the source is called within a manifest."""

_SETTINGS = {
    # nothing goes to the addresses that a picture, or a certificate, names; whom to trust is for readers to say
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False, "verify_trust": False},
    "builder": {"thumbnail": {"enabled": False}},
}


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Who signs the file of a result, and what the result was made of.

    Attributes:
        certificates: PEM file of the signer's certificate and of those that vouch for it, in this order.
        key: PEM file of its private key, without a password.
        source: the file of the picture, or its bytes.
        name: what the source is called.
    """

    certificates: Path
    key: Path
    source: Path | bytes
    name: str

    def __post_init__(self) -> None:
        """Refuses values of other kinds."""
        for field in ("certificates", "key"):
            object.__setattr__(self, field, check_argument(field, getattr(self, field), Path))
        if not isinstance(self.source, bytes):
            object.__setattr__(self, "source", check_argument("source", self.source, Path))
        check_argument("name", self.name, str)


def check_signing(certificates: Path, key: Path) -> None:
    """Signs something small: what keeps results from being signed is to be known before any picture is restored.

    Raises:
        MissingDependencyError: c2pa-python is not installed.
        InputError: the files cannot be read, do not belong together or may not sign.
    """
    picture = io.BytesIO()
    Image.new("L", (8, 8)).save(picture, "JPEG")
    credentials = Credentials(certificates=certificates, key=key, source=picture.getvalue(), name="picture")
    made = Provenance(software="xpsr 0", model="none")
    _sign(picture, io.BytesIO(), "JPEG", credentials, made, history=None)


def sign(part: Path, kind: str, credentials: Credentials, provenance: Provenance, *, history: str | None) -> None:
    """Puts a signed manifest into the file of a result; pixels, EXIF, XMP and all else in it stay as they are.

    It says that the source was opened, and edited with a trained model. It takes twice the file's size in memory.

    Args:
        part: a file that nobody else knows of.
        kind: its format, one of `MIME_TYPES`.
        credentials: who signs, and the source.
        provenance: software, model and seed.
        history: the format of the source, as Pillow calls it, from which manifests are taken over, with what is wrong
            with them; None: nothing of it is told but its name and its SHA-256.

    Raises:
        MissingDependencyError: c2pa-python is not installed.
        InputError: it cannot be signed so, or the source cannot be read.
        OSError: the disk is full, for example.
    """
    signed = part.with_suffix(".signed.part")  # whoever sweeps knows it by its end
    try:
        with part.open("rb") as source, signed.open("w+b") as target:
            _sign(source, target, kind, credentials, provenance, history=history)
        signed.replace(part)
    finally:
        signed.unlink(missing_ok=True)


def _sign(
    source: BinaryIO,
    target: BinaryIO,
    kind: str,
    credentials: Credentials,
    provenance: Provenance,
    *,
    history: str | None,
) -> None:
    try:
        from c2pa import C2paError, Context
    except ImportError as error:
        message, remedy = "Content Credentials need c2pa-python", "run `pip install c2pa-python`"
        raise MissingDependencyError(message, remedy=remedy) from error
    with _signer(credentials) as signer, Context.from_dict(_SETTINGS) as context:
        try:
            with _builder(credentials, provenance, context, history) as builder:
                builder.sign(signer, MIME_TYPES[kind], source, target)
        except C2paError as error:
            raise _unfit(credentials.certificates, f"cannot sign ({brief(error)})") from error


def _builder(credentials: Credentials, provenance: Provenance, context: "Context", history: str | None) -> "Builder":
    """What makes a manifest, with the source in it."""
    from c2pa import Builder, C2paError

    source = credentials.source
    software, _, version = provenance.software.rpartition(" ")
    agent = {"name": software, "version": version}
    parameters = {
        "model": provenance.model,
        **({} if provenance.seed is None else {"seed": provenance.seed}),
        "input_sha256": hashlib.sha256(source).hexdigest() if isinstance(source, bytes) else sha256(source),
    }
    opened = {"action": "c2pa.opened", "parameters": {"ingredientIds": [_SOURCE]}}
    edited = {
        "action": "c2pa.edited",
        "softwareAgent": agent,
        "digitalSourceType": SOURCE_TYPE,
        "parameters": parameters,
    }
    actions = {"label": "c2pa.actions.v2", "data": {"actions": [opened, edited]}}
    manifest = {"claim_generator_info": [agent], "assertions": [actions]}
    ingredient = {"label": _SOURCE, "relationship": "parentOf", "title": credentials.name}
    mime = _SOURCE_TYPES.get(history or "")
    if mime is not None:
        builder = Builder(manifest, context=context)
        try:
            with io.BytesIO(source) if isinstance(source, bytes) else source.open("rb") as file:
                builder.add_ingredient(ingredient, mime, file)
            return builder
        except OSError as error:
            raise refusal(Path(credentials.name), "cannot be read", error) from error
        except C2paError:  # too damaged for it
            builder.close()
    return Builder({**manifest, "ingredients": [ingredient]}, context=context)


def _signer(credentials: Credentials) -> "Signer":
    """Who signs.

    Raises:
        InputError: the certificates or the key cannot be read, or do not belong together.
    """
    from c2pa import C2paError, C2paSignerInfo, Signer
    from cryptography import x509
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    certificates, secret = (read_bytes(file, limit=_MAX_PEM) for file in (credentials.certificates, credentials.key))
    try:
        owner = x509.load_pem_x509_certificates(certificates)[0].public_key()
    except (ValueError, UnsupportedAlgorithm, x509.InvalidVersion) as error:
        raise _unfit(credentials.certificates, "is no PEM file of certificates") from error
    try:
        key = serialization.load_pem_private_key(secret, None)
    except TypeError as error:
        raise _unfit(credentials.key, "has a password", "give a file without one") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise _unfit(credentials.key, "is no PEM file of a private key") from error
    if key.public_key() != owner:
        raise _unfit(credentials.key, f"is not the key of the first certificate in {credentials.certificates}")
    algorithm = None
    if isinstance(key, ec.EllipticCurvePrivateKey):
        algorithm = _CURVES.get(key.curve.name)
    elif isinstance(key, ed25519.Ed25519PrivateKey):
        algorithm = "ed25519"
    elif isinstance(key, rsa.RSAPrivateKey):
        algorithm = "ps256"
    if algorithm is None:
        raise _unfit(credentials.key, "is of a kind that C2PA does not know", "use P-256, for example")
    form = serialization.PrivateFormat.PKCS8  # OpenSSL writes others, too
    private = key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())
    try:
        return Signer.from_info(C2paSignerInfo(algorithm, certificates, private, None))
    except C2paError as error:
        raise _unfit(credentials.certificates, f"cannot sign ({brief(error)})") from error


def _unfit(
    file: Path, message: str, remedy: str = "give the PEM files of a certificate for C2PA, and of its key"
) -> InputError:
    return InputError(f"{file}: {message}", code="unfit_credentials", remedy=remedy)
