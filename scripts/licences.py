"""Under which licences a release's dependencies are: the table of `make release`, which refuses others.

What packages say of themselves is read from the SBOM.
"""

import re
from collections.abc import Mapping
from typing import Any

__all__ = ["UnknownLicenceError", "licence_table"]

ALLOWED = {
    "0BSD",
    "Apache-2.0",
    "BSD",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CNRI-Python",
    "ISC",
    "LLVM-exception",
    "MIT",
    "MIT-CMU",
    "MPL-2.0",
    "PSF-2.0",
    "Zlib",
}
"""Parts of SPDX expressions, and one of older metadata: software under Apache-2.0 may use packages under these."""

_CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}

STATED = {"transformers": "Apache-2.0"}
"""What the licence file of a package says whose metadata do not, in words that are known."""

OF_EXTRAS = {
    "adlfs": "BSD-3-Clause",
    "bitsandbytes": "MIT",
    "c2pa-python": "Apache-2.0 OR MIT",
    "fastapi": "MIT",
    "gcsfs": "BSD-3-Clause",
    "h5py": "BSD-3-Clause",
    "matplotlib": "PSF-2.0",
    "onnx": "Apache-2.0",
    "onnxruntime": "MIT",
    "onnxscript": "MIT",
    "openvino": "Apache-2.0",
    "peft": "Apache-2.0",
    "pillow-heif": "BSD-3-Clause, its wheels GPL-2.0",
    "prometheus-client": "Apache-2.0 AND BSD-2-Clause",
    "pyarrow": "Apache-2.0",
    "python-multipart": "Apache-2.0",
    "ray": "Apache-2.0",
    "s3fs": "BSD-3-Clause",
    "tensorboard": "Apache-2.0",
    "torchao": "BSD-3-Clause",
    "uvicorn": "BSD-3-Clause",
}
"""Of packages that no installation has unasked."""

_HEAD = """# Licences of what xpsr stands on

xpsr {version} is under Apache-2.0; its [NOTICE](NOTICE) tells what its model was made of.

The table has what packages state. Their wheels bring libraries of others, whose licences are in files beside them: that
of opencv-python-headless, for example, FFmpeg (LGPL-2.1), and those of numpy and scipy the runtime of GCC (GPL-3.0 with
its exception). A torch for graphics cards needs packages of NVIDIA under NVIDIA's own terms; this table was made with
one for CPUs.

## What is installed with it

| package | version | licence |
|---|---|---|
"""

_EXTRAS = """
## What is installed only where somebody asks for it

What these depend on in turn is not here.

| package | extra | licence |
|---|---|---|
"""


class UnknownLicenceError(Exception):
    """A package whose licence is not known, or is none of those that are allowed."""


def licence_table(sbom: Mapping[str, Any], extras: Mapping[str, list[str]], version: str) -> str:
    """Returns the licences of a release's dependencies, as Markdown.

    Args:
        sbom: CycloneDX, of an environment with xpsr and what it needs.
        extras: requirements by the name of an extra, as pyproject.toml has them.
        version: of xpsr.

    Raises:
        UnknownLicenceError: of a package, which it names with what to do.
    """
    installed = sorted(sbom["components"], key=lambda component: str(component["name"]).lower())
    rows = [f"| {one['name']} | {one['version']} | {_licence(one)} |\n" for one in installed]
    asked = sorted((_name(line), extra) for extra, lines in extras.items() if extra != "dev" for line in lines)
    for name, extra in asked:
        if name not in OF_EXTRAS:
            raise UnknownLicenceError(
                f"{name} of the extra {extra} is not in OF_EXTRAS; look at its licence, and add it"
            )
    more = [f"| {name} | {extra} | {OF_EXTRAS[name]} |\n" for name, extra in asked]
    return "".join((_HEAD.format(version=version), *rows, _EXTRAS, *more))


def _licence(component: Mapping[str, Any]) -> str:
    """What a component of an SBOM is under, as an SPDX expression."""
    name = str(component["name"]).lower()
    if name in STATED:
        return STATED[name]
    found: list[str] = []
    for entry in component.get("licenses", ()):
        one = entry.get("license", {})
        text = str(entry.get("expression") or one.get("id") or one.get("name")).rpartition(" :: ")[2]
        found.append(_CLASSIFIERS.get(text, text))
    for part in {part for text in found for part in re.split(r"\s*(?:[()]|\b(?:AND|OR|WITH)\b)\s*", text)} - {""}:
        if part not in ALLOWED:
            raise UnknownLicenceError(
                f"{name} is under {part!r}; do without it, or, if it may be used, add that to ALLOWED"
            )
    if not found:
        raise UnknownLicenceError(f"{name} does not say its licence; look at its licence file, and add it to STATED")
    return found[0]  # a classifier, which comes last, says it less exactly


def _name(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
