"""Protocols as data: those that come with xpsr, those of a user, and what none can say."""

import hashlib
from pathlib import Path

import pytest

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, PROTOCOLS, Protocol, load_protocol, open_metrics
from xpsr.evaluation.learned import FILES
from xpsr.evaluation.protocols import _FOLDER


@pytest.fixture(autouse=True)
def no_pyiqa(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine without it: it would fetch weights."""
    monkeypatch.setattr("xpsr.evaluation.metrics.pyiqa_is_there", lambda: False)


def test_each_file_is_a_protocol_and_each_protocol_a_file() -> None:
    assert sorted(path.stem for path in _FOLDER.glob("*.yaml")) == sorted(PROTOCOLS)
    for name in PROTOCOLS:
        protocol = load_protocol(name)
        assert protocol.name == name and protocol.about
        opened, missing = open_metrics(protocol, available={"hr", "lr"})
        assert [metric.name for metric in opened] == [n for n in protocol.metrics if n in METRICS and n not in FILES]
        assert {*missing} == {*protocol.metrics} - {metric.name for metric in opened}
        needed = {file for metric in protocol.metrics for file in FILES.get(metric, ())}
        assert {*protocol.checksums} == needed  # of every file that it asks for


def test_networks_are_named_by_how_their_checksums_begin() -> None:
    sums = load_protocol("xpsr").checksums
    for file in ("alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"):
        assert file.removesuffix(".pth").endswith(sums[file])
    assert all(len(value) == 64 for file, value in sums.items() if "-" not in file)


def test_what_sets_protocols_apart() -> None:
    rules = {name: load_protocol(name) for name in PROTOCOLS}
    assert {name: rule.crop for name, rule in rules.items()} == {"basicsr": 4, "osediff": 0, "stablesr": 0, "xpsr": 0}
    assert {name for name, rule in rules.items() if rule.rounded_luma_ssim} == {"osediff", "stablesr"}
    assert not any(rule.rounded_luma for rule in rules.values())
    assert {rule.resize for rule in rules.values()} == {"refuse"}


def test_a_protocol_of_a_user_is_called_as_its_file(tmp_path: Path) -> None:
    path, checksum = tmp_path / "mine.yaml", hashlib.sha256(b"x").hexdigest()
    path.write_text(
        f"metrics: [ssim_y]\ntile_size: 512\ntile_overlap: 64\nresize: bicubic\nweights: ['{checksum}  alex.pth']\n"
    )
    protocol = load_protocol(str(path))
    assert (protocol.name, protocol.metrics, protocol.tile_overlap) == ("mine", ("ssim_y",), 64)
    assert protocol.checksums == {"alex.pth": checksum}
    assert {"crop", "resize", "tile_size"} < protocol.rules.keys() and "name" not in protocol.rules


def test_an_unknown_protocol_is_told_with_what_there_is() -> None:
    with pytest.raises(InputError) as caught:
        load_protocol("basicrs")
    assert str(caught.value) == (
        "protocol=basicrs is no protocol; there are basicsr, osediff, stablesr, xpsr, or name a YAML file;"
        " did you mean 'basicsr'?"
    )
    with pytest.raises(InputError, match=r"such\.yaml is no protocol; there are .*, or name a YAML file\."):
        load_protocol("none/such.yaml")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("metrics: []", "names nothing to measure"),
        ("metrics: [niqe, psnr_y, niqe]", "names niqe twice"),
        ("crop: -1", r"crop=-1 is not in \[0, 1024\]"),
        ("crops: 4", r"crops is not an option; did you mean 'crop'\?"),
        ("resize: lanczos", "resize=lanczos is not one of refuse, bicubic"),
        ("tile_overlap: 8", "tile_overlap=8 is not below tile_size=0; set tile_size, too"),
        ("{tile_size: 64, tile_overlap: 64}", "tile_overlap=64 is not below tile_size=64; use 8"),
        ("weights: [alex.pth]", "are not all a SHA-256"),
        ("[1]", "expected a mapping"),
    ],
)
def test_what_no_protocol_can_say_is_refused(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "p.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=said) as caught:
        load_protocol(str(path))
    assert str(path) in str(caught.value)


def test_defaults_are_a_protocol() -> None:
    assert Protocol().metrics == ("psnr_y", "ssim_y", "niqe")
