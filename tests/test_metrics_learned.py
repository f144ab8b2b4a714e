"""LPIPS, DISTS and ENet-dist: properties, with random networks, and what is said of files that do not fit.

Their forward passes were compared once with those of the packages lpips 0.1.4 and DISTS_pytorch 0.1, over the same
random networks and the published weights of the metrics, at three sizes: no further than 1e-7 apart.
"""

import math
from pathlib import Path

import pytest
import torch
from evaluation_helpers import photo

from xpsr.errors import InputError
from xpsr.evaluation import METRICS, Metric, Protocol, Subject, digest, open_metrics
from xpsr.evaluation.learned import FILES
from xpsr.features import EfficientNetFeatures

ALEX = ((0, 64, 3, 11), (3, 192, 64, 5), (6, 384, 192, 3), (8, 256, 384, 3), (10, 256, 256, 3))
VGG = ((64, (0, 2)), (128, (5, 7)), (256, (10, 12, 14)), (512, (17, 19, 21, 24, 26, 28)))
ALEX_FILE, VGG_FILE = "alexnet-owt-7be5be79.pth", "vgg16-397923af.pth"
LEARNED = Protocol(metrics=tuple(FILES))
ALONE = Protocol(metrics=("lpips_alex",))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files as they were published, with other numbers in them."""
    place, generator = tmp_path_factory.mktemp("weights"), torch.Generator().manual_seed(0)

    def convolution(number: int, width: int, width_in: int, kernel: int) -> dict[str, torch.Tensor]:
        weight = torch.randn(width, width_in, kernel, kernel, generator=generator)
        weight *= math.sqrt(2 / (width_in * kernel**2))
        return {f"features.{number}.weight": weight, f"features.{number}.bias": torch.zeros(width)}

    alex = {name: value for layer in ALEX for name, value in convolution(*layer).items()}
    torch.save({**alex, "classifier.1.weight": torch.zeros(3)}, place / ALEX_FILE)
    vgg: dict[str, torch.Tensor] = {}
    width_in = 3
    for width, numbers in VGG:
        for number in numbers:
            vgg |= convolution(number, width, width_in, 3)
            width_in = width
    torch.save(vgg, place / VGG_FILE)
    for file, widths in (("alex.pth", (64, 192, 384, 256, 256)), ("vgg.pth", (64, 128, 256, 512, 512))):
        shapes = enumerate((1, width, 1, 1) for width in widths)
        torch.save(
            {f"lin{k}.model.1.weight": torch.rand(shape, generator=generator) for k, shape in shapes}, place / file
        )
    torch.save(
        {part: torch.rand(1, 1475, 1, 1, generator=generator) for part in ("alpha", "beta")}, place / "weights.pt"
    )
    return place


@pytest.fixture(scope="module")
def opened(folder: Path) -> dict[str, Metric]:
    metrics, missing = open_metrics(LEARNED, available={"hr"}, weights=folder)
    assert not missing
    return {metric.name: metric for metric in metrics}


@pytest.mark.parametrize("name", FILES)
def test_equal_pictures_are_at_no_distance_and_more_noise_is_further(opened: dict[str, Metric], name: str) -> None:
    hr = photo((72, 64))

    def distance(restored: torch.Tensor, original: torch.Tensor = hr) -> float:
        return opened[name].compute(Subject(restored=restored, hr=original), LEARNED)

    slight, strong = photo((72, 64), noise=0.03), photo((72, 64), noise=0.2)
    assert 0 <= distance(hr) < 1e-6 < distance(slight) < distance(strong)
    assert distance(strong) == pytest.approx(distance(hr, strong), abs=1e-6)  # it is symmetric
    with pytest.raises(InputError, match=r"too few for .*; use at least 32 x 32"):
        distance(photo((31, 64)), photo((31, 64)))


def test_lpips_is_the_published_formula(opened: dict[str, Metric], folder: Path, tmp_path: Path) -> None:
    """The first stage alone, by hand: a head that weighs nothing else."""
    network, heads = (torch.load(folder / file, weights_only=True) for file in FILES["lpips_alex"])
    torch.save(network, tmp_path / ALEX_FILE)
    torch.save({name: value * (name[:4] == "lin0") for name, value in heads.items()}, tmp_path / "alex.pth")
    (metric,), _ = open_metrics(ALONE, available={"hr"}, weights=tmp_path)
    pictures = [photo((48, 40), noise=0.1), photo((48, 40))]
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in ([-0.030, -0.088, -0.188], [0.458, 0.448, 0.450]))
    units = []
    for pixels in pictures:
        x = (2 * pixels - 1 - mean) / deviation
        seen = torch.relu(torch.nn.functional.conv2d(x[None], network["features.0.weight"], stride=4, padding=2))
        units.append(seen / seen.norm(dim=1, keepdim=True).clamp_min(1e-10))
    expected = ((units[0] - units[1]) ** 2 * heads["lin0.model.1.weight"]).sum(1).mean().item()
    found = metric.compute(Subject(restored=pictures[0], hr=pictures[1]), ALONE)
    assert found == pytest.approx(expected, rel=1e-4)


def test_versions_and_digests_hold_the_checksums_of_the_weights(folder: Path, tmp_path: Path) -> None:
    (metric,), _ = open_metrics(ALONE, available={"hr"}, weights=folder)
    (tmp_path / ALEX_FILE).write_bytes((folder / ALEX_FILE).read_bytes())
    heads = torch.load(folder / "alex.pth", weights_only=True)
    torch.save({name: value * 2 for name, value in heads.items()}, tmp_path / "alex.pth")
    (other,), _ = open_metrics(ALONE, available={"hr"}, weights=tmp_path)
    assert metric.version != other.version
    assert digest(ALONE, (metric,)) != digest(ALONE, (other,))


def test_weights_that_are_absent_wrong_or_no_weights_are_told(folder: Path, tmp_path: Path) -> None:
    def open_there(protocol: Protocol = ALONE) -> str:
        _, missing = open_metrics(protocol, available={"hr"}, weights=tmp_path)
        return missing["lpips_alex"]

    assert open_there() == f"needs {ALEX_FILE} and alex.pth; put them into {tmp_path}"
    (tmp_path / "alex.pth").write_bytes((folder / "alex.pth").read_bytes())
    assert open_there() == f"needs {ALEX_FILE}; put it into {tmp_path}"
    network = tmp_path / ALEX_FILE
    network.write_bytes((folder / VGG_FILE).read_bytes())
    with pytest.raises(InputError, match=r"alexnet-owt.* do not hold the weights of lpips_alex"):
        open_there()
    network.write_bytes((folder / ALEX_FILE).read_bytes())
    (tmp_path / "alex.pth").write_bytes((folder / "vgg.pth").read_bytes())
    with pytest.raises(InputError, match=r"alex\.pth: do not hold the weights of lpips_alex"):
        open_there()
    (tmp_path / "alex.pth").write_bytes((folder / "alex.pth").read_bytes())
    network.write_bytes(b"no weights")
    with pytest.raises(InputError, match=rf"{ALEX_FILE}: holds no weights that can be read"):
        open_there()
    torch.save([1, 2], network)
    with pytest.raises(InputError, match="holds no weights; get it again"):
        open_there()
    torch.save({"features.0.weight": torch.tensor(math.nan)}, network)
    with pytest.raises(InputError, match="its weights are not finite"):
        open_there()
    with pytest.raises(InputError, match=r"its SHA-256 is \w{8}, and the protocol says 7be5be79; get it again"):
        open_there(Protocol(metrics=("lpips_alex",), weights=(f"7be5be79 {ALEX_FILE}",)))


class _Code:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('ran')",)


def test_checksums_and_folders_that_guard_nothing_are_refused(tmp_path: Path) -> None:
    protocol = Protocol(metrics=("niqe",), weights=("df73285e alexx.pth",))
    with pytest.raises(InputError, match=r"weights=alexx\.pth is no file of weights; did you mean 'alex\.pth'\?"):
        open_metrics(protocol, available=set())
    with pytest.raises(InputError, match="nowhere: no such folder"):
        open_metrics(ALONE, available={"hr"}, weights=tmp_path / "nowhere")


def test_code_in_a_file_of_weights_does_not_run(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "alex.pth").write_bytes((folder / "alex.pth").read_bytes())
    torch.save({"features.0.weight": _Code()}, tmp_path / ALEX_FILE)
    with pytest.raises(InputError, match="holds no weights that can be read"):
        open_metrics(ALONE, available={"hr"}, weights=tmp_path)


def test_enet_dist_is_one_minus_the_cosine_at_four_strides() -> None:
    hr, restored = photo((96, 64)), photo((96, 64), noise=0.1)
    network = EfficientNetFeatures((3, 5, 11, 16))
    stages = zip(network(restored[None]), network(hr[None]), strict=True)
    distances = [1 - torch.cosine_similarity(one, other).mean().item() for one, other in stages]
    found = METRICS["enet_dist"].compute(Subject(restored=restored, hr=hr), LEARNED)
    assert found == pytest.approx(sum(distances) / 4, abs=1e-5)
