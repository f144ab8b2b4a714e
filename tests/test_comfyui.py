"""The node pack for ComfyUI: as ComfyUI loads it and calls its nodes, and, where a ComfyUI is at hand, in that."""

import contextlib
import importlib.util
import inspect
import json
import os
import socket
import subprocess
import sys
import time
import tomllib
import types
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import httpx
import pytest
import torch
from PIL import Image

import xpsr

ROOT = Path(__file__).parents[1]
PACK = ROOT / "integrations" / "comfyui"
MOOSE = ROOT / "examples" / "moose.png"


@pytest.fixture(scope="module")
def pack() -> Iterator[ModuleType]:
    name = str(PACK).replace(".", "_x_")  # ComfyUI names the module by its path
    spec = importlib.util.spec_from_file_location(name, PACK / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for loaded in [loaded for loaded in sys.modules if loaded.startswith(name)]:
        del sys.modules[loaded]


@pytest.fixture(scope="module")
def restorer(tiny_model: Path) -> xpsr.Restorer:
    return xpsr.Restorer(tiny_model, device="cpu", dtype="fp32")


@pytest.fixture(autouse=True)
def as_in_comfyui() -> Iterator[None]:
    with torch.inference_mode():
        yield


def images(count: int = 1, height: int = 12, width: int = 16) -> torch.Tensor:
    """A batch as ComfyUI has it: (B, H, W, C)."""
    return torch.rand(count, height, width, 3, generator=torch.Generator().manual_seed(0))


def call(pack: ModuleType, name: str, **given: Any) -> Any:
    """Calls a node with its defaults, but for those that are given."""
    node = pack.NODE_CLASS_MAPPINGS[name]
    sockets = node.INPUT_TYPES()
    inputs = {}
    for socket_name, (kind, *options) in sockets["required"].items():
        default = kind[0] if isinstance(kind, list) else options[0].get("default") if options else None
        inputs[socket_name] = given.get(socket_name, default)
    inputs |= {socket_name: given[socket_name] for socket_name in sockets.get("optional", {}) if socket_name in given}
    assert given.keys() <= inputs.keys()
    return getattr(node(), node.FUNCTION)(**inputs)


def restore(pack: ModuleType, model: xpsr.Restorer, image: torch.Tensor, **given: Any) -> Any:
    said = {"describer": "none"} if "describer" not in given else {}
    return call(pack, "XPSRRestore", model=model, image=image, **said, **given)


# The protocol


def test_every_node_is_called_with_the_inputs_that_it_names(pack: ModuleType) -> None:
    assert pack.NODE_CLASS_MAPPINGS.keys() == pack.NODE_DISPLAY_NAME_MAPPINGS.keys()
    for node in pack.NODE_CLASS_MAPPINGS.values():
        sockets = node.INPUT_TYPES()
        named = [*sockets["required"], *sockets.get("optional", {})]
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(parameters) == ["self", *named]
        assert {name for name, one in parameters.items() if one.default is None} == {*sockets.get("optional", {})}
        assert len(node.RETURN_TYPES) == len(node.RETURN_NAMES)
        for kind, *options in (*sockets["required"].values(), *sockets.get("optional", {}).values()):
            assert isinstance(kind, str | list)
            assert all(isinstance(option, dict) for option in options)
            json.dumps([kind, *options])  # ComfyUI hands it to the browser


def test_the_pack_is_thin_and_loads_no_networks_before_they_are_needed() -> None:
    assert len((PACK / "nodes.py").read_text(encoding="utf-8").splitlines()) < 250
    code = (
        "import sys; from unittest.mock import MagicMock; sys.modules['torch'] = MagicMock()"  # ComfyUI has it already
    )
    code += "; import integrations.comfyui; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    loaded = set(done.stdout.split())
    assert "integrations.comfyui.nodes" in loaded
    assert not loaded & {"xpsr.image", "xpsr.models", "xpsr.restore", "diffusers", "transformers"}


def test_the_packs_metadata_are_those_of_xpsr() -> None:
    metadata = tomllib.loads((PACK / "pyproject.toml").read_text(encoding="utf-8"))
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    for key in ("description", "license", "requires-python"):
        assert metadata["project"][key] == whole["project"][key]
    assert metadata["project"]["version"] == xpsr.__version__
    assert metadata["tool"]["comfy"]["DisplayName"] == "XPSR"


# The nodes


def test_a_picture_is_restored_as_by_the_restorer(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images()
    made, invented, record = restore(pack, restorer, image, content="a dog", quality="noisy", seed=7, scale=2.5)
    expected = restorer.restore(image[0].movedim(-1, 0), xpsr.Prior("a dog", "noisy"), seed=7, scale=2.5)
    assert torch.equal(made, expected.picture.pixels.movedim(0, -1)[None])
    assert torch.equal(invented, expected.map)
    assert (made.shape, made.dtype, invented.shape) == ((1, 30, 40, 3), torch.float32, (1, 30, 40))
    told = json.loads(record)
    assert {name: told[name] for name in ("prior", "seed", "settings")} == {
        name: json.loads(json.dumps(expected.record[name])) for name in ("prior", "seed", "settings")
    }


def test_pictures_of_a_batch_are_made_as_each_alone_with_a_line_each(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images(3)
    contents, qualities = "a dog\n\na cat", "noisy"
    made, invented, records = restore(pack, restorer, image, content=contents, quality=qualities)
    assert (len(made), len(invented)) == (3, 3)
    for index, (content, record) in enumerate(zip(contents.split("\n"), records.split("\n"), strict=True)):
        alone, _, _ = restore(pack, restorer, image[index : index + 1], content=content, quality=qualities)
        assert torch.equal(made[index], alone[0])
        assert json.loads(record)["prior"] == {"content": content, "quality": "noisy"}
    assert not torch.equal(made[0], made[2])


def test_an_empty_text_is_what_the_describer_says(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images(2)
    contents, qualities = call(pack, "XPSRDescribe", image=image)
    said = xpsr.describe(image.movedim(-1, 1))
    assert (contents.split("\n"), qualities.split("\n")) == (
        [prior.content for prior in said],
        [prior.quality for prior in said],
    )
    for given in ({}, {"content": "a dog"}, {"quality": "\nnoisy"}, {"content": contents, "quality": qualities}):
        _, _, records = restore(pack, restorer, image, describer="mini", **given)
        for index, record in enumerate(records.split("\n")):
            told = json.loads(record)["prior"]
            assert told["content"] == ("a dog" if given.get("content") == "a dog" else said[index].content)
            is_noisy = given.get("quality") == "\nnoisy" and index == 1
            assert told["quality"] == ("noisy" if is_noisy else said[index].quality)


def test_nobody_is_asked_where_both_texts_are_given(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    nobody = "http://127.0.0.1:9/v1#nobody"
    _, _, record = restore(pack, restorer, images(), content="a\ndog", quality="noisy", describer=nobody)
    assert json.loads(record)["prior"] == {"content": "a dog", "quality": "noisy"}


def test_settings_are_handed_on_and_zero_is_what_is_usual(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    def settings(**given: Any) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(restore(pack, restorer, images(), **given)[2])["settings"]
        return told

    usual = restorer.pipe.settings()
    assert settings()["num_inference_steps"] == usual.num_inference_steps
    changed = settings(num_inference_steps=2, guidance_scale=1.5)
    assert (changed["num_inference_steps"], changed["guidance_scale"]) == (2, 1.5)


def test_values_that_other_nodes_overshoot_are_clipped(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images() * 3 - 1
    assert torch.equal(restore(pack, restorer, image)[0], restore(pack, restorer, image.clamp(0, 1))[0])


def test_a_transparent_picture_gets_alpha(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images(2)
    hidden = torch.zeros(2, 12, 16)
    hidden[1, :, :8] = 1
    made, _, _ = restore(pack, restorer, image, transparency=hidden, scale=2)
    assert made.shape == (2, 24, 32, 4)
    assert made[0, ..., 3].min() == 1
    assert made[1, :, :12, 3].max() < 0.1
    assert made[1, :, 20:, 3].min() > 0.9
    assert torch.equal(made[0, ..., :3], restore(pack, restorer, image[:1], scale=2)[0][0])
    joined = torch.cat([image, 1 - hidden[..., None]], -1)  # as Join Image with Alpha does
    assert torch.equal(restore(pack, restorer, joined, scale=2)[0], made)


def test_the_black_mask_of_an_opaque_picture_is_none(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    black = torch.zeros(1, 64, 64)  # of Load Image, whatever the picture's size
    made = restore(pack, restorer, images(), transparency=black, protect_mask=black)[0]
    assert torch.equal(made, restore(pack, restorer, images())[0])


def test_grain_below_zero_is_the_models(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    usual, asked, given = (restore(pack, restorer, images(), **one) for one in ({}, {"grain": -1.0}, {"grain": 0.3}))
    assert torch.equal(usual[0], asked[0]) and not torch.equal(usual[0], given[0])
    grains = [json.loads(made[2].splitlines()[0])["settings"]["grain"] for made in (usual, asked, given)]
    assert grains == [restorer.pipe.settings().grain] * 2 + [0.3]


def test_protection_goes_back_to_the_enlargement(pack: ModuleType, restorer: xpsr.Restorer) -> None:
    image = images()
    white = torch.ones(1, 12, 16)
    plain, masked, automatic = (
        restore(pack, restorer, image, **given)
        for given in ({}, {"protect_mask": white, "protect": True}, {"protect": True})
    )
    assert json.loads(masked[2])["fidelity"]["protected"] == 1
    assert masked[1].mean() < 0.01
    assert "protected" in json.loads(automatic[2])["fidelity"]
    assert "protected" not in json.loads(plain[2])["fidelity"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"content": "a\nb\nc"}, "content has 3 lines for 2 pictures; use one for all."),
        ({"protect_mask": torch.ones(3, 12, 16)}, "protect_mask has 3 masks for 2 pictures; use one for all."),
        ({"transparency": torch.ones(1, 12, 17)}, "transparency is of another size than the picture; resize the mask."),
        ({"scale": 17}, "scale=17 is not in [0.0625, 16]; use 4, for example."),
        ({"num_inference_steps": 2000}, "num_inference_steps=2000 is more than the 1000 timesteps; use 1 to 50."),
        (
            {"describer": "nobody.jsonl"},
            "nobody.jsonl: no such file or folder; name a JSONL of priors, a sidecar or a folder of them.",
        ),
    ],
)
def test_what_cannot_be_is_told_in_the_inputs_words(
    pack: ModuleType, restorer: xpsr.Restorer, given: dict[str, Any], message: str
) -> None:
    with pytest.raises(xpsr.XPSRError) as caught:
        restore(pack, restorer, images(2), **given)
    assert str(caught.value) == message


def test_a_model_that_is_none_is_told(pack: ModuleType) -> None:
    with pytest.raises(xpsr.InputError, match="model=minni is no model; did you mean 'mini'"):
        call(pack, "XPSRLoadModel", model="minni")


def test_a_model_is_loaded_anew_where_its_folder_has_another(pack: ModuleType, tmp_path: Path) -> None:
    node = pack.NODE_CLASS_MAPPINGS["XPSRLoadModel"]
    index = tmp_path / "model_index.json"
    index.touch()
    first = node.IS_CHANGED(model=str(tmp_path), device="auto", dtype="auto")
    assert node.IS_CHANGED(model=str(tmp_path), device="auto", dtype="auto") == first
    os.utime(index, (0, 0))
    assert node.IS_CHANGED(model=str(tmp_path), device="auto", dtype="auto") != first
    assert node.IS_CHANGED(model="mini") == node.IS_CHANGED() == 0


# ComfyUI's own modules


class Interrupted(Exception):
    """What ComfyUI raises in a node that somebody interrupts."""


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """The part of ComfyUI that the pack calls; `told` is what its progress bar heard, `interrupt_at` ends a run."""
    heard = SimpleNamespace(told=[], freed=[], interrupt_at=None, device=torch.device("cpu"))

    class ProgressBar:
        def __init__(self, total: int) -> None:
            pass

        def update_absolute(self, value: int, total: int) -> None:
            heard.told.append((value, total))

    def throw_exception_if_processing_interrupted() -> None:
        if heard.interrupt_at == len(heard.told):
            raise Interrupted

    package, management, utils = (types.ModuleType(f"comfy{end}") for end in ("", ".model_management", ".utils"))
    management.get_torch_device = lambda: heard.device  # type: ignore[attr-defined]
    management.free_memory = lambda size, device: heard.freed.append((size, device))  # type: ignore[attr-defined]
    management.throw_exception_if_processing_interrupted = throw_exception_if_processing_interrupted  # type: ignore[attr-defined]
    utils.ProgressBar = ProgressBar  # type: ignore[attr-defined]
    package.model_management, package.utils = management, utils  # type: ignore[attr-defined]
    for module in (package, management, utils):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    return heard


def test_progress_goes_through_all_pictures(pack: ModuleType, restorer: xpsr.Restorer, comfy: SimpleNamespace) -> None:
    restore(pack, restorer, images(2, 24, 24))  # of several tiles
    values, totals = zip(*comfy.told[1:], strict=True)  # the first is the describer's
    assert len(set(totals)) == 1
    assert list(values) == list(range(1, totals[0] + 1))
    assert totals[0] > 4
    assert comfy.freed == []  # it is on the CPU


def test_an_interruption_ends_the_node_and_the_next_run_is_whole(
    pack: ModuleType, restorer: xpsr.Restorer, comfy: SimpleNamespace
) -> None:
    expected = restore(pack, restorer, images(2))
    comfy.told.clear()
    comfy.interrupt_at = 1
    with pytest.raises(Interrupted):
        restore(pack, restorer, images(2))
    with pytest.raises(Interrupted):
        call(pack, "XPSRDescribe", image=images(3))
    comfy.interrupt_at = None
    assert torch.equal(restore(pack, restorer, images(2))[0], expected[0])


def test_a_model_is_loaded_on_the_cpu_where_comfyui_computes_there(
    pack: ModuleType, tiny_model: Path, comfy: SimpleNamespace
) -> None:
    (model,) = call(pack, "XPSRLoadModel", model=str(tiny_model), dtype="fp32")
    assert model.pipe.device.type == "cpu"


# The example


def prompt_of(workflow: dict[str, Any], sockets: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """What ComfyUI's page sends of a workflow: inputs by name, of the nodes whose inputs it has in `sockets`."""
    links = {link: (str(source), slot) for link, source, slot, *_ in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        values = iter(node.get("widgets_values") or [])
        linked = {one["name"]: list(links[one["link"]]) for one in node["inputs"] if one["link"] is not None}
        inputs: dict[str, Any] = {}
        kinds = sockets[node["type"]]
        for name, (kind, *options) in {**kinds.get("required", {}), **kinds.get("optional", {})}.items():
            if isinstance(kind, list) or kind in ("STRING", "INT", "FLOAT", "BOOLEAN", "COMBO"):
                inputs[name] = next(values)
                if options and options[0].get("control_after_generate"):
                    assert next(values) == "fixed"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs | linked}
    return prompt


def example() -> dict[str, Any]:
    workflow: dict[str, Any] = json.loads((PACK / "example_workflows" / "restore.json").read_text(encoding="utf-8"))
    return workflow


OF_COMFYUI = {  # of which the example takes these
    "LoadImage": {"required": {"image": (["example.png"], {"image_upload": True})}},
    "SaveImage": {"required": {"images": ("IMAGE",), "filename_prefix": ("STRING", {})}},
    "PreviewImage": {"required": {"images": ("IMAGE",)}},
    "PreviewAny": {"required": {"source": ("*", {})}},
    "MaskToImage": {"required": {"mask": ("MASK",)}},
}


def test_the_example_fits_the_nodes_and_restores(pack: ModuleType) -> None:
    workflow = example()
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, place, kind in workflow["links"]:
        output, socket_ = nodes[source]["outputs"][slot], nodes[target]["inputs"][place]
        assert link in output["links"]
        assert socket_["link"] == link
        assert output["type"] == kind
        assert socket_["type"] in (kind, "*")
    mine = pack.NODE_CLASS_MAPPINGS
    for node in workflow["nodes"]:
        if node["type"] in mine:
            kinds = mine[node["type"]]
            shown = list(zip(kinds.RETURN_NAMES, kinds.RETURN_TYPES, strict=True))
            assert [(one["name"], one["type"]) for one in node["outputs"]] == shown
    prompt = prompt_of(workflow, OF_COMFYUI | {name: node.INPUT_TYPES() for name, node in mine.items()})
    results: dict[str, Any] = {"1": (images(), torch.zeros(1, 64, 64))}
    for node in sorted(workflow["nodes"], key=lambda node: node["order"]):
        given = prompt[str(node["id"])]
        if given["class_type"] in mine:
            inputs = {k: results[v[0]][v[1]] if isinstance(v, list) else v for k, v in given["inputs"].items()}
            results[str(node["id"])] = call(pack, given["class_type"], **inputs)
    made, invented, record = results["6"]
    assert (made.shape, invented.shape) == ((1, 48, 64, 3), (1, 48, 64))
    contents, qualities = results["3"]
    told = json.loads(record)
    assert (told["prior"]["content"], told["prior"]["quality"]) == (contents, qualities)
    assert told["model"]["name"] == "mini"


@contextlib.contextmanager
def running(folder: Path) -> Iterator[httpx.Client]:
    """Runs ComfyUI with this pack alone, on the CPU, and yields what talks to it."""
    python = os.environ.get("XPSR_TEST_COMFYUI_PYTHON", sys.executable)
    for name in ("custom_nodes", "input", "output", "models", "user"):
        (folder / name).mkdir()
    (folder / "custom_nodes" / "xpsr").symlink_to(PACK)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [python, "main.py", "--cpu", "--disable-api-nodes", "--base-directory", str(folder)]
    command += ["--port", str(port), "--database-url", "sqlite:///:memory:"]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "src")}
    with (
        (folder / "log").open("wb") as log,
        subprocess.Popen(
            command, cwd=os.environ["XPSR_TEST_COMFYUI"], env=environment, stdout=log, stderr=subprocess.STDOUT
        ) as process,
        httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client,
    ):
        try:
            for _ in range(120):
                assert process.poll() is None, (folder / "log").read_text()
                with contextlib.suppress(httpx.TransportError):
                    client.get("/system_stats")
                    break
                time.sleep(1)
            yield client
        finally:
            process.terminate()


@pytest.mark.slow
@pytest.mark.skipif("XPSR_TEST_COMFYUI" not in os.environ, reason="XPSR_TEST_COMFYUI names no folder of a ComfyUI")
def test_a_real_comfyui_runs_the_example(tmp_path: Path) -> None:
    def run(prompt: dict[str, Any], *, interrupt: bool = False) -> dict[str, Any]:
        answer = client.post("/prompt", json={"prompt": prompt}).raise_for_status().json()
        for _ in range(3000):
            history: dict[str, Any] = client.get(f"/history/{answer['prompt_id']}").json()
            if history:
                return history[answer["prompt_id"]]
            if interrupt and client.get("/queue").json()["queue_running"]:
                client.post("/interrupt")
            time.sleep(0.1)
        raise AssertionError("it does not end")

    with running(tmp_path) as client:
        with Image.open(MOOSE) as moose:
            moose.save(tmp_path / "input" / "example.png")
            moose.resize((1024, 1024)).save(tmp_path / "input" / "large.png")
        prompt = prompt_of(example(), {name: info["input"] for name, info in client.get("/object_info").json().items()})
        done = run(prompt)
        assert done["status"]["status_str"] == "success", done["status"]
        (record,) = done["outputs"]["10"]["text"]
        (saved,) = done["outputs"]["7"]["images"]
        assert json.loads(record)["device"] == "cpu"
        with Image.open(tmp_path / "output" / saved["subfolder"] / saved["filename"]) as made:
            assert (made.size, made.mode) == ((512, 512), "RGB")

        prompt["6"]["inputs"]["content"] = "a moose"  # and nothing else is done again
        (_, cached), *_ = (one for one in run(prompt)["status"]["messages"] if one[0] == "execution_cached")
        assert sorted(cached["nodes"]) == ["1", "2", "3", "4", "5"]

        prompt["6"]["inputs"]["num_inference_steps"] = 4
        failed = run(prompt)["status"]
        assert failed["status_str"] == "error"
        assert "use 1" in failed["messages"][-1][1]["exception_message"]

        prompt["1"]["inputs"]["image"] = "large.png"
        prompt["6"]["inputs"]["num_inference_steps"] = 0
        assert run(prompt, interrupt=True)["status"]["messages"][-1][0] == "execution_interrupted"
