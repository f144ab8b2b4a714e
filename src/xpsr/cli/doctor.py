"""`xpsr doctor`."""

import contextlib
import dataclasses
import json
import platform
import re
from collections.abc import Sequence
from typing import Any

from xpsr.cli.terminal import Parser, complain, explain, parse, quiet_libraries
from xpsr.errors import XPSRError, one_line

__all__ = ["run"]


def run(arguments: Sequence[str]) -> int:
    """Says what is there and returns the exit code."""
    parser = Parser(
        prog="xpsr doctor",
        usage="xpsr doctor [--json]",
        description="Says what is installed, which number types are fast on which device, and whether the bundled\n"
        "models are whole. Exit code 1: something is broken.",
    )
    parser.add_argument("--json", action="store_true", default=False, help="as JSON")
    parser.add_argument("--debug", action="store_true", default=False, help="show where errors come from")
    args = parse(parser, arguments)
    facts = _examine()
    if args.json:
        print(json.dumps(facts, indent=2))
    else:
        rows = {
            "versions": {name: version or "missing" for name, version in facts["versions"].items()},
            f"devices ({facts['threads']} threads)": {
                name: "; ".join(
                    [
                        f"fast: {', '.join(device['fast_dtypes'])}",
                        f"auto: {device['auto_dtype']}",
                        *(
                            _checked(dtype, check, device["fast_dtypes"])
                            for dtype, check in device["self_checks"].items()
                        ),
                    ]
                )
                for name, device in facts["devices"].items()
            },
            "models": {
                name: "\n    ".join(
                    [model["state"], *(f"{sha256}  {file}" for file, sha256 in model["sha256"].items())]
                )
                for name, model in facts["models"].items()
            },
            "extras": {
                name: f"not installed (optional): {extra['install']}" if extra["missing"] else "installed"
                for name, extra in facts["extras"].items()
            },
        }
        print(_verdict(facts))
        for title, entries in rows.items():
            print(title, *(f"  {name:24} {entry}" for name, entry in entries.items()), sep="\n")
        for problem in facts["problems"]:
            complain(problem)
    return 1 if facts["problems"] else 0


def _verdict(facts: dict[str, Any]) -> str:
    """What of all that matters most, in a line."""
    problems = len(facts["problems"])
    if problems:
        return f"not ok: {problems} problem{'s' * (problems > 1)}, told at the end"
    name, device = next(iter(facts["devices"].items()))  # the fastest, which "auto" means
    return f"ok: pictures are restored on {'the CPU' if name == 'cpu' else name} in {device['auto_dtype']}"


def _checked(dtype: str, check: dict[str, Any], fast: Sequence[str]) -> str:
    """What a device does in a number type."""
    kind, ratio = "right" if check["is_right"] else "wrong", check["ratio"]
    speed = f"{ratio:.2g} times as fast as fp32" if ratio >= 1 else f"{1 / ratio:.3g} times slower than fp32"
    use = "" if dtype in fast or (check["is_right"] and check["is_fast"]) else ", so it is not used"
    return f"{dtype} is {kind} (error {check['error']:.1%}) and {speed}{use}"


def _examine() -> dict[str, Any]:
    """Everything that `doctor` says. Nothing found broken may stop it."""
    core: dict[str, str] = {}  # as pip is asked for it, by name
    extras: dict[str, list[str]] = {}
    for line in _requirements():
        requirement, _, condition = (part.strip() for part in line.partition(";"))
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        extra = re.search(r"extra\s*==\s*['\"](\w+)['\"]", condition)
        if extra:
            extras.setdefault(extra[1], []).append(name)
        else:
            core[name] = f"'{requirement}'"
    versions = _versions("xpsr", *core)
    problems = [f"{name} is missing; run: pip install {core[name]}" for name in core if versions[name] is None]
    facts: dict[str, Any] = {
        "versions": {"python": platform.python_version(), "platform": platform.platform(), **versions},
        "threads": 0,
        "devices": {},
        "models": {},
        "extras": {
            name: {
                "missing": [package for package, version in _versions(*packages).items() if version is None],
                "install": f"pip install {' '.join(packages)}",
            }
            for name, packages in extras.items()
            if name != "dev"
        },
        "problems": problems,
    }
    try:
        import torch

        quiet_libraries()
        from xpsr.devices import devices, fast_dtypes, resolve_dtype, self_check
        from xpsr.model_files import CHECKSUMS, bundled_models, checksums, read_json
        from xpsr.pipeline import XPSRPipeline  # with all that a picture needs
    except Exception as error:  # whatever a library that does not fit raises
        # Beside a CPU-only torch the usual torchvision breaks transformers
        remedy = "pip uninstall torchvision"
        if not _versions("torchvision")["torchvision"]:
            needed = (core.get(name, name) for name in ("torch", "diffusers", "transformers"))
            remedy = f"pip install {' '.join(needed)}"
        problems.append(f"the libraries cannot be imported ({type(error).__name__}: {one_line(error)}); run: {remedy}")
        return facts
    facts["threads"] = torch.get_num_threads()
    for name in devices():
        device = torch.device(name)
        checks = {}
        for dtype in ("bf16",) if name == "cpu" else ("bf16", "fp16"):
            try:
                checks[dtype] = self_check(device, dtype)
            except Exception as error:  # of a device that does not know it, or has no memory left
                problems.append(f"{name}: {dtype} cannot be tried ({type(error).__name__}: {one_line(error)}).")
        facts["devices"][name] = {
            "fast_dtypes": fast_dtypes(device),
            "auto_dtype": resolve_dtype("auto", device),
            "self_checks": {
                dtype: {**dataclasses.asdict(check), "is_right": check.is_right, "is_fast": check.is_fast}
                for dtype, check in checks.items()
            },
        }
    for name, folder in bundled_models().items():
        state, found = f"no {CHECKSUMS}", dict[str, str]()
        try:
            found = checksums(folder)
            if (folder / CHECKSUMS).exists():
                state = "ok" if read_json(folder / CHECKSUMS) == found else "differs"
            XPSRPipeline.from_pretrained(folder)
            if state == "differs":
                problems.append(f"{folder}: the weights are not those of {CHECKSUMS}; install xpsr again.")
        except Exception as error:  # of a library, or the system, too
            state = "damaged"
            is_foreseen = isinstance(error, XPSRError | OSError | MemoryError)
            fault = f"{folder}: cannot be loaded ({type(error).__name__}: {one_line(error)}); install xpsr again."
            problems.append(explain(error, "doctor") if is_foreseen else fault)
        facts["models"][name] = {"state": state, "sha256": found}
    if "mini" not in facts["models"]:
        problems.append("the bundled model mini is missing; install xpsr again, or give upscale another --model.")
    return facts


def _requirements() -> list[str]:
    import importlib.metadata

    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # run from a source tree
        return importlib.metadata.requires("xpsr") or []
    return []


def _versions(*packages: str) -> dict[str, str | None]:
    import importlib.metadata

    versions: dict[str, str | None] = dict.fromkeys(packages)
    for package in packages:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return versions
