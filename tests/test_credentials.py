"""Results that are signed as C2PA: what their files tell, that it is checked, and what is refused."""

import base64
import datetime
import hashlib
import io
import json
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from full_disk import room_for
from PIL import Image

from xpsr.cli import main
from xpsr.config import UpscaleConfig
from xpsr.errors import InputError, MissingDependencyError
from xpsr.files import sha256
from xpsr.image import (
    Credentials,
    Origin,
    Picture,
    Provenance,
    WriteOptions,
    check_signing,
    credentials,
    image_bytes,
    read_image,
    write_image,
)

pytest.importorskip("c2pa", reason="nothing is signed without c2pa-python")
x509 = pytest.importorskip("cryptography.x509", reason="makes certificates")

from cryptography.hazmat.primitives import hashes, serialization  # noqa: E402
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa  # noqa: E402

MADE = Provenance(software="xpsr 0.1.0", model="mini", seed=7)
COMPOSITE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
KEYS: dict[str, Callable[[], Any]] = {
    "P-256": lambda: ec.generate_private_key(ec.SECP256R1()),
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
    "RSA": lambda: rsa.generate_private_key(65537, 2048),
}

Signing = tuple[Path, Path]


def make_signing(folder: Path, key: Any = None, *, days: int = 30) -> Signing:
    """Files of a chain, an authority's and a signer's certificate, which is of that key, and of the key."""
    authority, key = KEYS["P-256"](), key or KEYS["P-256"]()
    start = datetime.datetime.now(datetime.UTC) - datetime.timedelta(days=60)

    def certificate(name: str, public: Any, *, is_authority: bool) -> bytes:
        use = dict.fromkeys(
            ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
        )
        use |= {"decipher_only": False, "digital_signature": not is_authority}
        use |= dict.fromkeys(("key_cert_sign", "crl_sign"), is_authority)
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "authority")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(start + datetime.timedelta(days=60 + days))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.KeyUsage(**use), critical=True)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(authority.public_key()), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), critical=False)
        )
        if not is_authority:
            usage = x509.ExtendedKeyUsage([x509.ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(usage, critical=False)
        signed: bytes = builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
        return signed

    folder.mkdir(exist_ok=True)
    chain = [certificate("signer", key.public_key(), is_authority=False)]
    chain.append(certificate("authority", authority.public_key(), is_authority=True))
    (folder / "chain.pem").write_bytes(b"".join(chain))
    (folder / "key.pem").write_bytes(pem_of(key))
    return folder / "chain.pem", folder / "key.pem"


def pem_of(key: Any, form: str = "PKCS8", password: bytes | None = None) -> bytes:
    hidden = serialization.NoEncryption() if password is None else serialization.BestAvailableEncryption(password)
    written: bytes = key.private_bytes(serialization.Encoding.PEM, getattr(serialization.PrivateFormat, form), hidden)
    return written


@pytest.fixture(scope="session")
def signing(tmp_path_factory: pytest.TempPathFactory) -> Signing:
    return make_signing(tmp_path_factory.mktemp("signing"))


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)).save(path)
    return path


def options_of(signing: Signing, source: Path | bytes, **more: Any) -> WriteOptions:
    signed = Credentials(certificates=signing[0], key=signing[1], source=source, name="photo.png")
    return WriteOptions(provenance=MADE, credentials=signed, **more)


def picture(format: str = "PNG") -> Picture:  # noqa: A002 - what it is
    """A result of a file of that format."""
    pixels = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(0))
    return Picture(pixels=pixels, origin=Origin(format=format))


def told_by(content: Path | bytes) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """What a reader makes of a file: its verdict, the manifest, and all of them."""
    from c2pa import Context, Reader

    content = content.read_bytes() if isinstance(content, Path) else content
    settings = {"verify": {"verify_trust": False, "remote_manifest_fetch": False}}
    with Context.from_dict(settings) as context, Reader(None, io.BytesIO(content), context=context) as reader:
        told = json.loads(reader.json())
    manifest = told["manifests"][told["active_manifest"]]
    assert told["validation_state"] == (
        "Invalid" if told["validation_results"]["activeManifest"]["failure"] else "Valid"
    )
    return told["validation_state"], manifest, told


def actions_of(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    (told,) = [one["data"]["actions"] for one in manifest["assertions"] if one["label"] == "c2pa.actions.v2"]
    return list(told)


# What a file tells


@pytest.mark.parametrize("kind", ["jpg", "png", "tif", "webp", "avif", "jxl"])
def test_a_signed_file_tells_what_was_done_to_what_and_is_otherwise_the_same(
    tmp_path: Path, photo: Path, signing: Signing, kind: str
) -> None:
    plain, signed = tmp_path / f"plain.{kind}", tmp_path / f"signed.{kind}"
    write_image(plain, picture(), options=WriteOptions(provenance=MADE))
    assert write_image(signed, picture(), options=options_of(signing, photo)) == ()

    state, manifest, _ = told_by(signed)
    assert state == "Valid" and manifest["signature_info"]["issuer"] == "signer"
    (source,) = manifest["ingredients"]
    assert (source["title"], source["format"], source["relationship"]) == ("photo.png", "image/png", "parentOf")
    opened, edited = actions_of(manifest)
    assert opened["action"] == "c2pa.opened" and len(opened["parameters"]["ingredients"]) == 1
    assert edited == {
        "action": "c2pa.edited",
        "softwareAgent": {"name": "xpsr", "version": "0.1.0"},
        "digitalSourceType": COMPOSITE,
        "parameters": {"model": "mini", "seed": 7, "input_sha256": sha256(photo)},
    }
    one, other = read_image(plain), read_image(signed)
    assert torch.equal(one.pixels, other.pixels) and one.origin == other.origin
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(["photo.png", plain.name, signed.name])


def test_a_changed_pixel_shows(tmp_path: Path, photo: Path, signing: Signing) -> None:
    content = bytearray(image_bytes(Path("a.jpg"), picture(), options_of(signing, photo)))
    content[-20] ^= 1
    state, _, told = told_by(bytes(content))
    failures = [one["code"] for one in told["validation_results"]["activeManifest"]["failure"]]
    assert state == "Invalid" and failures == ["assertion.dataHash.mismatch"]


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_all_usual_kinds_sign(tmp_path: Path, photo: Path, kind: str) -> None:
    key = KEYS[kind]()
    certificates, file = make_signing(tmp_path / "signing", key)
    if kind in ("P-256", "RSA"):
        file.write_bytes(pem_of(key, "TraditionalOpenSSL"))
    check_signing(certificates, file)
    assert told_by(image_bytes(Path("a.png"), picture(), options_of((certificates, file), photo)))[0] == "Valid"


def test_what_the_source_tells_of_itself_is_taken_over_with_what_is_wrong_with_it(
    signing: Signing, photo: Path
) -> None:
    before = image_bytes(Path("a.jpg"), picture(), options_of(signing, photo))
    changed = bytearray(before)
    changed[-20] ^= 1
    for source, failures in ((before, []), (bytes(changed), ["assertion.dataHash.mismatch"])):
        _, manifest, told = told_by(image_bytes(Path("a.jpg"), picture("JPEG"), options_of(signing, source)))
        assert len(told["manifests"]) == 2
        found = manifest["ingredients"][0]["validation_results"]["activeManifest"]["failure"]
        assert [one["code"] for one in found] == failures


@pytest.mark.parametrize("option", ["strip_gps", "strip_metadata"])
def test_nothing_of_the_source_is_taken_over_where_its_metadata_are_not(
    signing: Signing, photo: Path, option: str
) -> None:
    before = image_bytes(Path("a.png"), picture(), options_of(signing, photo))
    after = image_bytes(Path("a.png"), picture(), options_of(signing, before, **{option: True}))
    state, manifest, told = told_by(after)
    assert state == "Valid" and len(told["manifests"]) == 1
    assert [one["title"] for one in manifest["ingredients"]] == ["photo.png"]
    assert actions_of(manifest)[1]["parameters"]["input_sha256"] == digest(before)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.mark.parametrize("kind", ["GIF", "BMP", "truncated PNG", "PNG that is a JPEG"])
def test_a_source_that_cannot_tell_anything_is_named(signing: Signing, kind: str) -> None:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 40)).save(buffer, kind.split()[-1])
    content = buffer.getvalue()[: -30 if kind == "truncated PNG" else None]
    result = picture(kind.removeprefix("truncated ").partition(" ")[0])
    state, manifest, _ = told_by(image_bytes(Path("a.png"), result, options_of(signing, content)))
    assert state == "Valid" and manifest["ingredients"][0]["title"] == "photo.png"


@contextmanager
def server() -> Iterator[tuple[str, list[str]]]:
    """An address on this machine, and what was asked for there."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as listening:
        thread = threading.Thread(target=listening.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listening.server_port}/", asked
        finally:
            listening.shutdown()
            thread.join()


def test_addresses_in_a_picture_are_not_asked(signing: Signing, photo: Path) -> None:
    from c2pa import C2paError, Context, Reader

    with server() as (address, asked):
        xmp = (
            '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
            '<rdf:Description rdf:about="" xmlns:dcterms="http://purl.org/dc/terms/"'
            f' dcterms:provenance="{address}a.c2pa"/>'
            "</rdf:RDF></x:xmpmeta>"
        )
        buffer = io.BytesIO()
        Image.new("RGB", (40, 40)).save(buffer, "JPEG", xmp=xmp.encode())
        with Context() as context, pytest.raises(C2paError):
            Reader("image/jpeg", io.BytesIO(buffer.getvalue()), context=context)
        assert asked == ["/a.c2pa"]  # that a reader would
        asked.clear()
        assert (
            told_by(image_bytes(Path("a.jpg"), picture("JPEG"), options_of(signing, buffer.getvalue())))[0] == "Valid"
        )
    assert asked == []


# What is refused


def test_files_that_cannot_sign_are_told_by_name(tmp_path: Path, signing: Signing) -> None:
    chain, key = signing
    words, other, locked = (tmp_path / name for name in ("words", "other", "locked"))
    words.write_text("hello")
    other.write_bytes(pem_of(KEYS["P-256"]()))
    locked.write_bytes(pem_of(KEYS["P-256"](), password=b"secret"))
    expired = make_signing(tmp_path / "expired", days=-1)
    odd = make_signing(tmp_path / "odd", ec.generate_private_key(ec.SECP256K1()))
    own = make_authority_alone(tmp_path / "own")
    first = x509.load_pem_x509_certificates(chain.read_bytes())[0].public_bytes(serialization.Encoding.DER)
    curve = bytes.fromhex("06082a8648ce3d0301")  # the seventh of these is P-256, and the sixth nobody knows
    assert first.count(curve) == 1
    unknown = tmp_path / "unknown"
    content = base64.encodebytes(first.replace(curve + b"\7", curve + b"\6")).decode()
    unknown.write_text(f"-----BEGIN CERTIFICATE-----\n{content}-----END CERTIFICATE-----\n")
    for certificates, file, at, message in (
        (words, key, words, "is no PEM file of certificates"),
        (unknown, key, unknown, "is no PEM file of certificates"),
        (chain, words, words, "is no PEM file of a private key"),
        (chain, other, other, "is not the key of the first certificate in"),
        (chain, locked, locked, "has a password; give a file without one"),
        (chain, tmp_path / "none", tmp_path / "none", "cannot be read"),
        (tmp_path / "none", key, tmp_path / "none", "cannot be read"),
        (*odd, odd[1], "is of a kind that C2PA does not know; use P-256"),
        (*expired, expired[0], "cannot sign"),
        (*own, own[0], "cannot sign"),
    ):
        with pytest.raises(InputError) as caught:
            check_signing(certificates, file)
        assert str(caught.value).startswith(f"{at}: {message}"), caught.value


def make_authority_alone(folder: Path) -> Signing:
    """Files of a certificate that is signed with its own key, which nobody vouches for."""
    folder.mkdir()
    key = KEYS["P-256"]()
    name = x509.Name([x509.NameAttribute(x509.NameOID.ORGANIZATION_NAME, "own")])
    start = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    (folder / "chain.pem").write_bytes(made.public_bytes(serialization.Encoding.PEM))
    (folder / "key.pem").write_bytes(pem_of(key))
    return folder / "chain.pem", folder / "key.pem"


def test_without_the_package_the_command_to_install_it_is_told(
    signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(MissingDependencyError, match="need c2pa-python; run `pip install c2pa-python`"):
        check_signing(*signing)


def test_a_signature_needs_a_place_and_something_to_sign(tmp_path: Path, photo: Path, signing: Signing) -> None:
    with pytest.raises(InputError, match=r"BMP cannot hold this picture \(it is to be signed\); use .png"):
        write_image(tmp_path / "a.bmp", picture(), options=options_of(signing, photo))
    with pytest.raises(InputError, match="credentials say how a picture came about, and there is no provenance"):
        WriteOptions(credentials=options_of(signing, photo).credentials)
    with pytest.raises(InputError, match="provenance leaves out what c2pa signs"):
        UpscaleConfig(c2pa=signing, provenance=False)
    with pytest.raises(InputError, match="c2pa"):
        UpscaleConfig(c2pa=(Path("a"),))  # type: ignore[arg-type]


@pytest.mark.skipif(sys.platform == "win32", reason="the system has no limit on the size of files")
def test_a_full_disk_is_told_as_such(tmp_path: Path, photo: Path, signing: Signing) -> None:
    target = tmp_path / "a.png"
    write_image(target, picture())
    room = target.stat().st_size + 1500
    with room_for(room), pytest.raises(InputError) as caught:
        write_image(target, picture(), options=options_of(signing, photo))
    assert caught.value.code == "disk_full"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.png", "photo.png"]


def test_what_is_left_when_a_signer_is_killed_is_called_a_part(
    tmp_path: Path, photo: Path, signing: Signing, monkeypatch: pytest.MonkeyPatch
) -> None:
    left: set[str] = set()
    sign = credentials._sign

    def look(*arguments: Any, **options: Any) -> None:
        left.update(path.name for path in tmp_path.iterdir())
        sign(*arguments, **options)

    monkeypatch.setattr(credentials, "_sign", look)
    write_image(tmp_path / "a.png", picture(), options=options_of(signing, photo))
    parts = left - {"photo.png"}
    assert len(parts) == 2 and all(fnmatch(one, ".xpsr-*.part") for one in parts)  # as those look for it who sweep


# The command line


@pytest.fixture
def upscale(
    capfdbinary: pytest.CaptureFixture[bytes],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_model: Path,
    loaded_once: None,
) -> Callable[..., tuple[int, bytes, str]]:
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> tuple[int, bytes, str]:
        code = main(["upscale", "--model", str(tiny_model), "--describer", "none", "--seed", "1", *map(str, arguments)])
        out, error = capfdbinary.readouterr()
        return code, out, error.decode()

    return run


def test_results_are_signed_and_their_records_are_of_the_signed_files(
    tmp_path: Path, photo: Path, signing: Signing, upscale: Callable[..., tuple[int, bytes, str]]
) -> None:
    assert upscale(photo, "-o", "plain")[0] == 0
    assert upscale(photo, "-o", "signed", "--c2pa", *signing)[0] == 0
    plain, signed = Path("plain/photo_x4.png"), Path("signed/photo_x4.png")
    state, manifest, _ = told_by(signed)
    assert state == "Valid"
    parameters = actions_of(manifest)[1]["parameters"]
    assert parameters["seed"] == 1 and parameters["input_sha256"] == sha256(photo)
    assert torch.equal(read_image(plain).pixels, read_image(signed).pixels)
    records = [json.loads(path.with_suffix(".json").read_text()) for path in (plain, signed)]
    assert records[1]["output_sha256"] == sha256(signed) and records[1]["asked"]["c2pa"] == sha256(signing[0])
    for record in records:
        for part in ("output_sha256", "asked", "input", "seconds"):
            record.pop(part)
    assert records[0] == records[1]

    before = sha256(signed)
    assert upscale(photo, "-o", "signed", "--c2pa", *signing)[0] == 0
    assert sha256(signed) == before  # a signature is another each time
    other = make_signing(tmp_path / "other")
    assert upscale(photo, "-o", "signed", "--c2pa", *other)[0] == 0
    assert sha256(signed) != before and told_by(signed)[0] == "Valid"

    code, piped, _ = upscale(photo, "-o", "-", "--c2pa", *signing)
    assert code == 0 and told_by(piped)[0] == "Valid"


def test_what_cannot_be_signed_is_known_before_any_picture_is_restored(
    tmp_path: Path, photo: Path, signing: Signing, upscale: Callable[..., tuple[int, bytes, str]]
) -> None:
    (tmp_path / "words").write_text("hello")
    code, _, error = upscale(photo, "--c2pa", signing[0], tmp_path / "words")
    assert (code, error.count("\n")) == (2, 1) and "is no PEM file of a private key" in error
    code, _, error = upscale(photo, "-o", "outputs/a.bmp", "--c2pa", *signing)
    assert code == 1 and "BMP cannot hold this picture (it is to be signed)" in error
    code, _, error = upscale(photo, "--c2pa", *signing, "--no-provenance")
    assert code == 2 and "--no-provenance leaves out what c2pa signs; leave one of them out." in error
    assert not list(tmp_path.glob("outputs/*"))
