"""Describers: what a model is shown, models of transformers (tiny, random), and priors that lie in files."""

import importlib.util
import json
import logging
import random
import shutil
import subprocess
import sys
import unicodedata
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from xpsr.errors import InputError, MissingDependencyError, ModelError
from xpsr.image import Picture, to_picture, to_pil
from xpsr.prior import QUESTIONS, Prior, Questions
from xpsr.prior.asking import crops_view, usable_text, whole_view
from xpsr.prior.describers import Describer, open_describer
from xpsr.prior.files import FileDescriber
from xpsr.prior.mllm import MLLMDescriber
from xpsr.prior.server import ServerDescriber

VOCABULARY = (
    "a an the photograph of red panda house sharp blurry noise with strong slight no compression artifacts and is in it"
    " on grass sky tree what wrong"
)
WORDS = VOCABULARY.split()
QUESTION = Questions(content="what is in the photograph", quality="what is wrong", quality_view="whole")
CHAT = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}IMAGE{% else %}"
    "{{ c['text'] }}{% endif %}{% endfor %}{% endfor %} ASSISTANT:"
)


def noise(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


PICTURES = [noise(seed, 60, 40 + 40 * seed) for seed in range(3)]


# --- tiny models, as the library saves real ones ---------------------------------------------------------------------


def tokenizer(**named: str) -> Any:
    """Words of `WORDS`; `named` are the special tokens by the name that a processor knows them by, ids from 4 on."""
    specials = [*named.values()]
    vocabulary = ["<unk>", "<pad>", "<s>", "</s>", *specials, *WORDS]
    words = Tokenizer(models.WordLevel({word: i for i, word in enumerate(vocabulary)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=words,
        unk_token="<unk>",
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=specials,
        extra_special_tokens=named,
    )


def text_config(vocab_size: int, **more: Any) -> dict[str, Any]:
    return {
        "vocab_size": vocab_size,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 2048,
        "pad_token_id": 1,
        "bos_token_id": 2,
        "eos_token_id": 3,
        **more,
    }


VISION = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
SMALL = {"height": 28, "width": 28}
CLIP = {**VISION, "image_size": 28, "patch_size": 14}


def save_model(model: Any, folder: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # stronger than the usual start, so that answers depend on picture and question
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)
    model.save_pretrained(folder)


def save_llava(folder: Path) -> None:
    words = tokenizer(image_token="<image>")
    config = transformers.LlavaConfig(
        vision_config=transformers.CLIPVisionConfig(**CLIP),
        text_config=transformers.LlamaConfig(**text_config(len(words))),
        image_token_index=4,
        vision_feature_layer=-1,
    )
    save_model(transformers.LlavaForConditionalGeneration(config), folder)
    pictures = CLIPImageProcessorPil(size={"shortest_edge": 28}, crop_size=SMALL)
    transformers.LlavaProcessor(
        pictures,
        words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=CHAT.replace("IMAGE", "<image>"),
    ).save_pretrained(folder)


def save_llava_without_chat(folder: Path) -> None:
    save_llava(folder)
    (folder / "chat_template.jinja").unlink()


def save_idefics3(folder: Path) -> None:
    words = tokenizer(
        image_token="<image>",
        fake_image_token="<fake_token_around_image>",
        global_image_token="<global-img>",
        **{f"place_{row}{column}": f"<row_{row}_col_{column}>" for row in "123" for column in "123"},
    )
    config = transformers.Idefics3Config(
        vision_config={**VISION, "image_size": 28, "patch_size": 7},
        text_config=transformers.LlamaConfig(**text_config(len(words))),
        image_token_id=4,
        scale_factor=2,
        pad_token_id=1,
    )
    save_model(transformers.Idefics3ForConditionalGeneration(config), folder)
    pictures = Idefics3ImageProcessorPil(size={"longest_edge": 56}, max_image_size={"longest_edge": 28})
    chat = CHAT.replace("IMAGE", "<image>")
    transformers.Idefics3Processor(pictures, words, image_seq_len=4, chat_template=chat).save_pretrained(folder)


def save_qwen(folder: Path) -> None:
    words = tokenizer(
        image_token="<|image_pad|>",
        video_token="<|video_pad|>",
        vision_start_token="<|vision_start|>",
        vision_end_token="<|vision_end|>",
    )
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 10000.0}
    config = transformers.Qwen2_5_VLConfig(
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "num_heads": 2,
            "intermediate_size": 64,
            "patch_size": 14,
            "spatial_merge_size": 2,
            "temporal_patch_size": 2,
            "out_hidden_size": 32,
            "fullatt_block_indexes": [1],
            "window_size": 56,
        },
        text_config=text_config(len(words), rope_parameters=rope),
        image_token_id=4,
        video_token_id=5,
        vision_start_token_id=6,
        vision_end_token_id=7,
    )
    save_model(transformers.Qwen2_5_VLForConditionalGeneration(config), folder)
    Qwen2VLImageProcessorPil(min_pixels=28 * 28, max_pixels=84 * 84).save_pretrained(folder)
    words.chat_template = CHAT.replace("IMAGE", "<|vision_start|><|image_pad|><|vision_end|>")
    words.save_pretrained(folder)


def save_internvl(folder: Path) -> None:
    words = tokenizer(
        context_image_token="<IMG_CONTEXT>", start_image_token="<img>", end_image_token="</img>", video_token="<video>"
    )
    config = transformers.InternVLConfig(
        vision_config={**VISION, "image_size": [28, 28], "patch_size": [7, 7]},
        text_config=transformers.Qwen2Config(**text_config(len(words))),
        image_token_id=4,
        image_seq_length=4,
    )
    save_model(transformers.InternVLForConditionalGeneration(config), folder)
    GotOcr2ImageProcessorPil(size=SMALL, crop_to_patches=True, max_patches=3).save_pretrained(folder)
    words.chat_template = CHAT.replace("IMAGE", "<IMG_CONTEXT>")
    words.save_pretrained(folder)
    processor = {
        "processor_class": "InternVLProcessor",
        "image_seq_length": 4,
        "video_processor": {"video_processor_type": "InternVLVideoProcessor"},
    }
    (folder / "processor_config.json").write_text(json.dumps(processor))


def save_paligemma(folder: Path) -> None:
    words = tokenizer(image_token="<image>")
    config = transformers.PaliGemmaConfig(
        vision_config=transformers.SiglipVisionConfig(**CLIP, vision_use_head=False),
        text_config=transformers.GemmaConfig(**text_config(len(words), head_dim=8)),
        image_token_index=4,
        projection_dim=32,
        hidden_size=32,
    )
    save_model(transformers.PaliGemmaForConditionalGeneration(config), folder)
    pictures = SiglipImageProcessorPil(size=SMALL)
    pictures.image_seq_length = 4
    transformers.PaliGemmaProcessor(pictures, words).save_pretrained(folder)


def save_florence2(folder: Path) -> None:
    words = tokenizer(image_token="<image>")
    config = transformers.Florence2Config(
        vision_config={
            "depths": (1, 1, 1, 1),
            "embed_dim": (8, 8, 16, 16),
            "num_heads": (2, 2, 2, 2),
            "num_groups": (2, 2, 2, 2),
            "window_size": 4,
            "projection_dim": 32,
            "max_position_embeddings": 8,
            "max_temporal_embeddings": 4,
        },
        text_config={
            "model_type": "bart",
            "vocab_size": len(words),
            "d_model": 32,
            "max_position_embeddings": 256,
            "forced_eos_token_id": 3,
            "decoder_start_token_id": 3,
            **dict.fromkeys(("encoder_layers", "decoder_layers"), 1),
            **dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2),
            **dict.fromkeys(("encoder_ffn_dim", "decoder_ffn_dim"), 32),
            "pad_token_id": 1,
            "bos_token_id": 2,
            "eos_token_id": 3,
        },
        image_token_id=4,
    )
    save_model(transformers.Florence2ForConditionalGeneration(config), folder)
    pictures = CLIPImageProcessorPil(size={"height": 64, "width": 64}, do_center_crop=False)
    pictures.image_seq_length = 5
    transformers.Florence2Processor(pictures, words).save_pretrained(folder)


SAVERS: dict[str, Callable[[Path], None]] = {
    "llava": save_llava,
    "llava without a chat template": save_llava_without_chat,
    "idefics3": save_idefics3,
    "qwen2.5-vl": save_qwen,
    "internvl": save_internvl,
    "paligemma": save_paligemma,
    "florence2": save_florence2,
}
DEPENDS_ON_QUESTION = {"llava", "llava without a chat template", "idefics3", "qwen2.5-vl", "internvl"}


@pytest.fixture(scope="session")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Folders of tiny models, made when they are first asked for; not to be changed."""
    root = tmp_path_factory.mktemp("mllm")

    def folder(kind: str) -> Path:
        path = root / kind.replace(" ", "-")
        if not path.exists():
            SAVERS[kind](path)
        return path

    return folder


@pytest.fixture
def llava(saved: Callable[[str], Path], tmp_path: Path) -> Path:
    """A copy of the tiny LLaVA that a test may change."""
    return Path(shutil.copytree(saved("llava"), tmp_path / "llava"))


def open_model(folder: Path | str, **options: Any) -> MLLMDescriber:
    return MLLMDescriber(folder, **{"questions": QUESTION, "max_new_tokens": 12, "device": "cpu", **options})


def change_weights(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    state = load_file(folder / "model.safetensors")
    change(state)
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})


def change_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


# --- views -----------------------------------------------------------------------------------------------------------


def numbered(width: int, height: int) -> Picture:
    """Every pixel has a colour of its own: its number."""
    number = np.arange(width * height, dtype=np.uint32).reshape(height, width)
    return to_picture(np.stack([number >> 16 & 255, number >> 8 & 255, number & 255], -1).astype(np.uint8))


def numbers(view: Image.Image) -> np.ndarray:
    red, green, blue = (np.asarray(plane).astype(int) for plane in view.split())
    return red << 16 | green << 8 | blue


@settings(max_examples=60, deadline=None)
@given(width=st.integers(1, 150), height=st.integers(1, 150), size=st.sampled_from([16, 48, 64]))
def test_crops_are_windows_of_the_pictures_own_pixels(width: int, height: int, size: int) -> None:
    view = numbers(crops_view(numbered(width, height), size=size))
    columns = [view.shape[1]] if width <= size else [size // 2] * 2
    rows = [view.shape[0]] if height <= size else [size // 2] * 2
    assert view.shape == (sum(rows), sum(columns)) == (min(height, size), min(width, size))
    for i, tall in enumerate(rows):
        for j, wide in enumerate(columns):
            window = view[i * tall : (i + 1) * tall, j * wide : (j + 1) * wide]
            top, left = divmod(window[0, 0], width)
            assert top % 8 == left % 8 == 0  # the grid of a JPEG goes on from window to window
            assert top + tall <= height and left + wide <= width
            whole = np.arange(width * height).reshape(height, width)
            assert (window == whole[top : top + tall, left : left + wide]).all()


def test_crops_of_a_small_picture_are_the_picture() -> None:
    picture = to_picture(noise(0, 448, 40))
    assert crops_view(picture).tobytes() == to_pil(picture.pixels).tobytes()


def test_crops_show_the_most_detailed_window_of_each_quarter() -> None:
    stripes = np.tile(np.array([0, 255], np.uint8), (32, 16))
    patches = [np.asarray(noise(seed, 32, 32)) for seed in range(2)]
    patches += [np.stack([lines] * 3, -1) for lines in (stripes, stripes.T)]
    pixels = np.full((640, 640, 3), 128, np.uint8)
    for patch, (top, left) in zip(patches, [(64, 128), (0, 512), (512, 0), (480, 352)], strict=True):
        pixels[top : top + 32, left : left + 32] = patch
    view = np.asarray(crops_view(to_picture(pixels), size=64))
    windows = [view[top : top + 32, left : left + 32] for top in (0, 32) for left in (0, 32)]
    assert all((window == patch).all() for window, patch in zip(windows, patches, strict=True))


def test_a_flat_picture_shows_the_first_window_of_each_quarter() -> None:
    view = numbers(crops_view(to_picture(np.full((1000, 1000), 7, np.uint8))))
    assert view.shape == (448, 448) and (view == 0x070707).all()


def test_size_of_crops_is_checked() -> None:
    with pytest.raises(InputError, match="size=100 is not a positive multiple of 16"):
        crops_view(numbered(8, 8), size=100)


@pytest.mark.parametrize(
    ("size", "expected"), [((60, 40), (60, 40)), ((4000, 1000), (1536, 384)), ((5000, 1), (1536, 1))]
)
def test_whole_view_is_shrunk_only_where_it_is_long(size: tuple[int, int], expected: tuple[int, int]) -> None:
    assert whole_view(Picture(pixels=torch.zeros(3, size[1], size[0]))).size == expected


def test_thoughts_are_no_part_of_the_text() -> None:
    assert usable_text("<think>Is it a dog? No.</think>\n\nA red panda.") == "A red panda."
    assert usable_text("<think>Is it a dog? No. Then it") == ""
    assert usable_text("A red panda.") == "A red panda."


# --- models of transformers ------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")  # PaliGemma's
@pytest.mark.parametrize("kind", SAVERS)
def test_model_answers_the_same_in_batches_and_alone(kind: str, saved: Callable[[str], Path]) -> None:
    finished: list[int] = []
    with open_model(saved(kind), batch_size=2) as describer:
        priors = describer.describe(PICTURES, progress=finished.append)
        describer.batch_size = 1
        assert describer.describe(PICTURES) == priors
    assert finished == [2, 1]
    assert len({prior.content for prior in priors}) > 1, "the picture makes no difference"
    if kind in DEPENDS_ON_QUESTION:
        assert any(prior.content != prior.quality for prior in priors)
    words = {word for prior in priors for word in (prior.content + " " + prior.quality).split()}
    assert words <= set(WORDS)  # no part of the prompt and no special token


def test_decoding_is_greedy_whatever_the_model_says(llava: Path) -> None:
    greedy = open_model(llava).describe(PICTURES)
    change_json(llava / "generation_config.json", do_sample=True, temperature=2.0, top_p=0.9, num_beams=3)
    assert open_model(llava).describe(PICTURES) == greedy


def test_the_model_is_shown_what_the_questions_say(saved: Callable[[str], Path]) -> None:
    large = noise(5, 600, 500)
    parts = crops_view(to_picture(large))
    with open_model(saved("qwen2.5-vl"), questions=replace(QUESTION, quality_view="crops")) as describer:
        (prior,) = describer.describe([large])
        (of_parts,) = describer.describe([parts])
        describer.questions = replace(QUESTION, quality_view="whole")
        (whole,) = describer.describe([large])
    assert prior == Prior(whole.content, of_parts.quality) and whole.quality != of_parts.quality


def test_every_kind_of_picture_is_described(saved: Callable[[str], Path], tmp_path: Path) -> None:
    PICTURES[0].save(tmp_path / "photo.png")
    array = np.asarray(PICTURES[0])
    with open_model(saved("llava")) as describer:
        priors = describer.describe([PICTURES[0], array, to_picture(array).pixels, tmp_path / "photo.png"])
        assert describer.describe([]) == []
    assert len(set(priors)) == 1


def test_nothing_is_loaded_before_the_first_picture_and_nothing_kept_after_release(
    saved: Callable[[str], Path],
) -> None:
    describer = open_model(saved("llava"))
    assert describer._loaded is None
    describer.describe([])
    assert describer._loaded is None
    first = describer.describe(PICTURES[:1])
    assert describer._loaded is not None
    model = weakref.ref(describer._loaded.model)
    describer.release()
    assert model() is None
    assert describer.describe(PICTURES[:1]) == first


def test_an_empty_question_is_not_asked(saved: Callable[[str], Path], caplog: pytest.LogCaptureFixture) -> None:
    questions = replace(QUESTION, quality="")
    described: list[int] = []
    # there is no such quality model: it is not even loaded
    priors = open_model(saved("llava"), questions=questions, quality_model="no/such").describe(
        PICTURES, progress=described.append
    )
    assert all(prior.content and not prior.quality for prior in priors)
    assert sum(described) == len(PICTURES) and not caplog.records


def test_two_models_are_never_in_memory_together(
    saved: Callable[[str], Path], llava: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change_weights(llava, lambda state: [value.mul_(-1) for key, value in state.items() if "lm_head" in key])
    expected = [
        Prior(content.content, quality.quality)
        for content, quality in zip(
            open_model(saved("llava")).describe(PICTURES), open_model(llava).describe(PICTURES), strict=True
        )
    ]
    alive: list[Any] = []
    loaded: list[str] = []
    upstream = transformers.AutoModelForImageTextToText.from_pretrained

    def load(name: str, **options: Any) -> Any:
        assert not any(model() for model in alive)
        model, info = upstream(name, **options)
        alive.append(weakref.ref(model))
        loaded.append(name)
        return model, info

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", load)
    finished: list[int] = []
    names = [str(saved("llava")), str(llava)]
    describer = open_model(saved("llava"), quality_model=llava, batch_size=2)
    assert describer.name == " + ".join(names)
    assert describer.describe(PICTURES, progress=finished.append) == expected
    assert loaded == names and finished == [2, 1]
    assert describer.describe(PICTURES) == expected
    assert loaded == [*names, names[0]]  # the one that was in memory began
    describer.release()


def test_revisions_are_told(saved: Callable[[str], Path]) -> None:
    assert MLLMDescriber("owner/name").revision is None
    assert MLLMDescriber("owner/name", revision="abc").revision == "abc"
    both = MLLMDescriber("owner/name", revision="abc", quality_model="owner/other", quality_revision="def")
    assert (both.name, both.revision) == ("owner/name + owner/other", "abc + def")


@pytest.mark.parametrize("option", ["batch_size", "max_new_tokens"])
def test_options_of_a_model_are_checked(option: str) -> None:
    with pytest.raises(InputError, match=f"{option}=0 is less than 1"):
        MLLMDescriber("owner/name", **{option: 0})


def test_an_empty_answer_is_asked_for_again_with_a_fixed_seed(llava: Path, caplog: pytest.LogCaptureFixture) -> None:
    # all words are equally likely: the greedy choice is the first, which is no word, and sampling takes any
    change_weights(llava, lambda state: state["language_model.lm_head.weight"].zero_())
    torch.manual_seed(7)
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    with open_model(llava) as describer:
        priors = describer.describe(PICTURES)
        assert torch.equal(torch.get_rng_state(), before[0])
        torch.manual_seed(8)
        assert describer.describe([PICTURES[2]]) == priors[2:]
    assert all(prior.content and prior.quality for prior in priors)
    assert random.getstate() == before[1] and (np.random.get_state()[1] == before[2]).all()
    assert not caplog.records


def test_what_stays_empty_is_told_once_and_changes_nothing_else(
    llava: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    folder = Path(shutil.copytree(llava, tmp_path / "silent"))
    change_json(folder / "generation_config.json", suppress_tokens=list(range(3)) + list(range(4, 5 + len(WORDS))))
    PICTURES[1].save(tmp_path / "second.png")
    describer = open_model(llava, quality_model=folder)
    expected = [Prior(prior.content, "") for prior in open_model(llava).describe(PICTURES)]
    caplog.clear()
    assert describer.describe([PICTURES[0], tmp_path / "second.png", PICTURES[2]]) == expected
    describer.release()
    messages = [record.getMessage() for record in caplog.records]
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 3
    assert [message.split(": ")[0] for message in messages] == ["picture 1", str(tmp_path / "second.png"), "picture 3"]
    assert all("quality text stays empty" in message and "which was empty" in message for message in messages)


def test_a_loop_is_no_answer(llava: Path, caplog: pytest.LogCaptureFixture) -> None:
    sky = 5 + WORDS.index("sky")
    only_sky = [token for token in range(5 + len(WORDS)) if token != sky]
    change_json(llava / "generation_config.json", suppress_tokens=only_sky)
    assert open_model(llava).describe(PICTURES[:1]) == [Prior()]
    assert len(caplog.records) == 2 and "'sky sky sky" in caplog.text


def test_thinking_is_switched_off_where_it_can_be(llava: Path) -> None:
    template = CHAT.replace("IMAGE", "<image>")
    thinking = "{% if enable_thinking is not defined or enable_thinking %} sky sky sky{% endif %}"
    expected = open_model(llava).describe(PICTURES)
    (llava / "chat_template.jinja").write_text(template + thinking)
    assert open_model(llava).describe(PICTURES) == expected
    (llava / "chat_template.jinja").write_text(template + " sky sky sky")
    assert open_model(llava).describe(PICTURES) != expected


@pytest.mark.parametrize(
    "error",
    [torch.OutOfMemoryError("CUDA out of memory. Tried"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_batch_that_does_not_fit_is_halved_once(
    error: Exception, saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = [*PICTURES, noise(9), noise(10)]
    describer = open_model(saved("llava"), batch_size=5, max_new_tokens=4)
    expected = describer.describe(pictures)
    assert describer._loaded is not None
    model = describer._loaded.model
    upstream, sizes, fits = model.generate, [], 3

    def generate(**inputs: Any) -> Any:
        sizes.append(len(inputs["input_ids"]))
        if sizes[-1] > fits:
            raise error
        return upstream(**inputs)

    monkeypatch.setattr(model, "generate", generate)
    assert describer.describe(pictures) == expected
    assert [size for size in sizes if size > 1] == [5, 3, 2] * 2  # 1: asked again, since the answer was empty
    fits = 0
    with pytest.raises(
        ModelError, match=r'out of memory .*quantization="int4", .*smaller .*model, or a server'
    ) as raised:
        describer.describe(pictures)
    assert "\n" not in str(raised.value)
    error_of_ours = RuntimeError("a bug")
    monkeypatch.setattr(model, "generate", lambda **inputs: (_ for _ in ()).throw(error_of_ours))
    with pytest.raises(RuntimeError, match="a bug"):
        describer.describe(pictures)


def test_too_little_memory_to_load_is_one_line(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, **options: Any) -> Any:
        raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 20.00 GiB")

    monkeypatch.setattr(transformers.AutoModelForImageTextToText, "from_pretrained", load)
    with pytest.raises(ModelError, match=r"does not fit into memory; use quantization=.* server"):
        open_model(saved("llava")).describe(PICTURES)


def test_a_view_that_the_processor_refuses_is_a_model_error(saved: Callable[[str], Path]) -> None:
    with pytest.raises(ModelError, match=r"cannot take views of 400 x 1 pixels: .*aspect ratio"):
        open_model(saved("qwen2.5-vl")).describe([noise(0, 400, 1)])


def refusal(describer: MLLMDescriber, kind: type[Exception] = ModelError) -> str:
    with pytest.raises(kind) as raised:
        describer.describe(PICTURES)
    assert "\n" not in str(raised.value) and len(str(raised.value)) < 500
    return str(raised.value)


@pytest.mark.parametrize("name", ["./no/such/folder", "", "a/b/c", "no such model", "~/model"])
def test_a_name_that_is_no_model_is_refused_without_asking_the_hub(name: str) -> None:
    assert "no such folder, and no id of a model on the hub" in refusal(open_model(name))


def test_a_model_that_is_not_there_is_told(tmp_path: Path) -> None:
    assert "nobody/nothing: cannot be loaded" in refusal(open_model("nobody/nothing", local_files_only=True))
    assert str(tmp_path) in refusal(open_model(tmp_path))


def test_damaged_models_are_told(llava: Path) -> None:
    change_weights(llava, lambda state: state.__delitem__("language_model.lm_head.weight"))
    assert "missing: lm_head.weight" in refusal(open_model(llava))
    (llava / "model.safetensors").write_bytes(b"not weights")
    assert "cannot be loaded" in refusal(open_model(llava))
    (llava / "model.safetensors").unlink()
    torch.save({}, llava / "pytorch_model.bin")  # a pickle
    assert "safetensors" in refusal(open_model(llava))


def test_a_model_for_text_alone_is_refused(tmp_path: Path) -> None:
    words = tokenizer()
    transformers.LlamaForCausalLM(transformers.LlamaConfig(**text_config(len(words)))).save_pretrained(tmp_path)
    words.save_pretrained(tmp_path)
    assert "no processor for pictures" in refusal(open_model(tmp_path))


def test_code_of_a_model_is_not_run(llava: Path, tmp_path: Path) -> None:
    (llava / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    auto = {"AutoConfig": "evil.Config", "AutoProcessor": "evil.P", "AutoModelForImageTextToText": "evil.M"}
    change_json(llava / "config.json", model_type="evil", auto_map=auto)
    change_json(llava / "processor_config.json", processor_class="Evil", auto_map=auto)
    assert "which is run only with trust_remote_code=True" in refusal(open_model(llava))
    assert not (tmp_path / "ran").exists()


def test_smolvlm_answers_or_says_which_package_is_missing(saved: Callable[[str], Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("idefics3"), tmp_path / "smolvlm"))
    for path in folder.glob("*.json"):
        path.write_text(path.read_text().replace("idefics3", "smolvlm").replace("Idefics3", "SmolVLM"))
    describer = open_model(folder)
    if importlib.util.find_spec("num2words"):
        assert all(prior.content for prior in describer.describe(PICTURES))
    else:
        assert "pip install num2words" in refusal(describer, MissingDependencyError)


def test_a_processor_that_needs_torchvision_is_told(llava: Path) -> None:
    if transformers.utils.is_torchvision_available():
        pytest.skip("torchvision is installed")
    pictures = {"image_processor_type": "Sam2ImageProcessor"}  # there is none without it
    change_json(llava / "processor_config.json", image_processor=pictures)
    message = refusal(open_model(llava))
    assert "needs torchvision" in message and "LLaVA-1.5" in message and "server" in message


@pytest.mark.parametrize(
    ("device", "message"), [("gpu", "is unknown"), ("cuda:99", "is not on this machine"), ("xpu", "not")]
)
def test_devices_that_are_not_there_are_refused(device: str, message: str, saved: Callable[[str], Path]) -> None:
    assert message in refusal(open_model(saved("llava"), device=device), InputError)


@pytest.mark.parametrize(
    ("dtype", "expected"), [("auto", torch.bfloat16), ("fp32", torch.float32), ("bf16", torch.bfloat16)]
)
def test_half_precision_is_bfloat16_on_a_cpu(dtype: Any, expected: torch.dtype, llava: Path) -> None:
    change_json(llava / "config.json", dtype="float16")
    change_weights(llava, lambda state: state.update({key: value.half() for key, value in state.items()}))
    with open_model(llava, dtype=dtype) as describer:
        assert describer.describe(PICTURES)[0].content
        assert describer._loaded is not None and describer._loaded.model.dtype == expected


def test_quantized_weights_take_less_memory(saved: Callable[[str], Path]) -> None:
    pytest.importorskip("torchao")
    sizes = []
    for quantization in ("none", "int8"):
        with open_model(saved("llava"), quantization=quantization) as describer:
            assert all(prior.content for prior in describer.describe(PICTURES))
            assert describer._loaded is not None
            sizes.append(describer._loaded.model.model.language_model.layers[0].mlp.up_proj.weight)
    assert type(sizes[0]) is torch.nn.Parameter and type(sizes[1]) is not torch.nn.Parameter


def test_missing_quantizers_are_told(saved: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    for quantization in ("int8", "int4"):
        describer = open_model(saved("llava"), quantization=quantization)
        assert refusal(describer, MissingDependencyError).endswith("pip install bitsandbytes")


# --- priors in files -------------------------------------------------------------------------------------------------


def write_lines(path: Path, *entries: dict[str, Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(entry, ensure_ascii=False) + "\n" for entry in entries), encoding="utf-8")
    return path


def test_a_line_with_path_and_texts_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    levels = {"blur": "clean", "noise": "slight", "compression": "strong"}
    path = write_lines(
        tmp_path / "priors.jsonl",
        {"image": "photos/a.png", "content": "a house", "quality": "blurry"},
        {"image": "../elsewhere/b.png", "content": "a panda", "quality": "", "levels": levels, "mine": 1},
    )
    finished: list[int] = []
    describer = FileDescriber(path)
    priors = describer.describe(
        [tmp_path / "photos/a.png", str(tmp_path.parent / "elsewhere/b.png")], progress=finished.append
    )
    assert priors == [Prior("a house", "blurry"), Prior.from_dict({"content": "a panda", "levels": levels})]
    assert finished == [1, 1]
    monkeypatch.chdir(tmp_path / "..")
    assert describer.describe([Path(tmp_path.name) / "photos" / ".." / "photos" / "a.png"]) == priors[:1]


@settings(max_examples=60, deadline=None)
@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="/\\\0", exclude_categories=["Cs"]), min_size=1, max_size=40).filter(
            lambda name: name not in (".", "..")
        ),
        min_size=1,
        max_size=5,
        unique_by=lambda name: unicodedata.normalize("NFC", name),
    ),
    texts=st.text(max_size=20),
)
def test_pictures_of_any_name_are_found(names: list[str], texts: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.getbasetemp() / "names"
    entries = [
        {"image": f"x/{name}.png", "content": f"{place} {texts}", "quality": texts} for place, name in enumerate(names)
    ]
    describer = FileDescriber(write_lines(folder / "priors.jsonl", *entries))
    for form in ("NFC", "NFD"):  # as Linux writes names, and as macOS does
        images = [folder / "x" / unicodedata.normalize(form, f"{name}.png") for name in names]
        assert describer.describe(images) == [Prior(entry["content"], entry["quality"]) for entry in entries]


def test_a_moved_picture_is_found_by_its_bytes_then_by_its_name(tmp_path: Path) -> None:
    from xpsr.checkpoint import sha256

    noise(0).save(tmp_path / "a.png")
    path = write_lines(
        tmp_path / "priors.jsonl",
        {"image": "a.png", "sha256": sha256(tmp_path / "a.png"), "content": "by bytes", "quality": ""},
        {"image": "other/renamed.png", "content": "by name", "quality": ""},
    )
    renamed = (tmp_path / "a.png").rename(tmp_path / "renamed.png")
    describer = FileDescriber(path)
    assert describer.describe([renamed])[0].content == "by bytes"
    noise(1).save(renamed)
    assert describer.describe([renamed])[0].content == "by name"
    assert describer.describe([tmp_path / "renamed.tif"])[0].content == "by name"
    assert describer.describe([tmp_path / "a.png"])[0].content == "by bytes"  # by path, though no file is there


def test_names_that_several_pictures_have_need_their_folder(tmp_path: Path) -> None:
    entries = [{"image": f"{folder}/0001.png", "content": folder, "quality": ""} for folder in ("urban", "manga")]
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", *entries))
    assert describer.describe([Path("/else/manga/0001.jpg")])[0].content == "manga"
    with pytest.raises(InputError, match=r"has 2 pictures of that name; give their full paths"):
        describer.describe([Path("/else/0001.jpg")])


def test_the_last_line_counts(tmp_path: Path) -> None:
    entries = [
        {"image": image, "content": str(place), "quality": ""} for place, image in enumerate(["a.png", "x/../a.png"])
    ]
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", *entries))
    assert describer.describe([tmp_path / "a.png", "/else/a.png"]) == [Prior("1")] * 2


def test_pictures_without_a_prior_are_refused_by_name(tmp_path: Path) -> None:
    describer = FileDescriber(write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "content": "x", "quality": ""}))
    with pytest.raises(InputError, match=r"b\.png: .*priors\.jsonl says nothing about it"):
        describer.describe([tmp_path / "a.png", tmp_path / "b.png"])
    with pytest.raises(InputError, match="looked up by path, not for a Image"):
        describer.describe([PICTURES[0]])


@pytest.mark.parametrize(
    "line", ['{"image": "a.png", "content": ', '["a.png"]', '{"content": "x"}', '{"image": "a.png", "content": 3}']
)
def test_damaged_lines_are_told_by_number(line: str, tmp_path: Path) -> None:
    path = write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "content": "x", "quality": ""})
    path.write_text(path.read_text() + "\n" + line + "\n" + path.read_text())
    with pytest.raises(InputError, match=r"priors\.jsonl, line 3"):
        FileDescriber(path)


def write_sidecar(path: Path, image: str, **prior: Any) -> Path:
    sidecar = {
        "input": image,
        "output": f"{path.stem}.png",
        "prior": {"content": "", "quality": "", **prior},
        "seed": 1,
    }
    path.write_text(json.dumps(sidecar), encoding="utf-8")
    return path


def test_sidecars_are_read_alone_and_by_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.chdir(tmp_path)
    Path("photos").mkdir()
    Path("out").mkdir()
    noise(0).save("photos/a.png")
    edited = write_sidecar(Path("out/a_x2.json"), "photos/a.png", content="a red panda", quality="sharp")
    other = write_sidecar(Path("out/a_x4.json"), "photos/a.png", content="as it was")
    os.utime(other, (1, 1))
    write_sidecar(Path("out/b_x4.json"), str(tmp_path / "photos/b.png"), content="a house")
    Path("out/report.json").write_text("[1, 2]")
    write_lines(Path("out/more.jsonl"), {"image": "../photos/c.png", "content": "a tree", "quality": ""})
    for name in (edited, "out"):
        assert open_describer(name).describe(["photos/a.png"]) == [Prior("a red panda", "sharp")]
    contents = [prior.content for prior in FileDescriber("out").describe(["photos/b.png", "photos/c.png"])]
    assert contents == ["a house", "a tree"]
    monkeypatch.chdir("out")  # the paths in sidecars are those of another folder now
    assert FileDescriber(edited.name).describe(["../photos/a.png"])[0].content == "a red panda"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "cannot be read"),
        ("{}", 'has no "prior"'),
        ('{"input": "a.png", "prior": "a panda"}', '"prior", an object'),
        ('{"prior": {}}', '"input", a path'),
        ('{"input": "a.png", "prior": {"content": 3}}', "content is 3, not a text"),
    ],
)
def test_damaged_sidecars_are_told(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a_x4.json"
    path.write_text(text)
    with pytest.raises(InputError, match=f"a_x4.json.*{message}"):
        FileDescriber(path)


def write_prompts(root: Path, **texts: str) -> None:
    for name, text in texts.items():
        path = root / name.replace("__", "/")
        path = path.with_name(path.name + ".txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


@pytest.mark.parametrize("source", ["", "DIV2K__"])
def test_the_references_prompts_are_read(source: str, tmp_path: Path) -> None:
    write_prompts(
        tmp_path,
        **{
            f"highlevel_prompt__{source}1": " a panda \nsecond line",
            f"highlevel_prompt__{source}2": "a house",
            f"highlevel_prompt_GT__{source}1": "",  # a crash of the reference's script
            f"highlevel_prompt_GT__{source}2": "a house, seen well",
            f"lowlevel_prompt_q__{source}1": "very blurry",
            f"lowlevel_prompt_q_GT__{source}1": "sharp",
        },
    )
    describer = open_describer(tmp_path)
    folder = tmp_path / "LR" / source.strip("_")
    assert describer.describe([folder / "1.png", folder / "2.png"]) == [
        Prior("a panda", "very blurry"),
        Prior("a house, seen well", ""),
    ]


def test_prompts_of_several_sources_are_told_apart(tmp_path: Path) -> None:
    write_prompts(tmp_path, highlevel_prompt__urban__1="a house", highlevel_prompt__manga__1="a drawing")
    describer = FileDescriber(tmp_path)
    contents = [
        prior.content for prior in describer.describe([tmp_path / "LR/manga/1.png", tmp_path / "LR/urban/1.png"])
    ]
    assert contents == ["a drawing", "a house"]


@pytest.mark.parametrize("name", ["missing.jsonl", "missing.json", "empty.jsonl", "."])
def test_where_there_are_no_priors_is_told(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(InputError, match=r"no such file or folder|holds no priors"):
        FileDescriber(tmp_path / name)


# --- by name ---------------------------------------------------------------------------------------------------------


def test_names_stand_for_describers(saved: Callable[[str], Path], tmp_path: Path) -> None:
    lines = write_lines(tmp_path / "priors.jsonl", {"image": "a.png", "content": "x", "quality": ""})
    questions = QUESTIONS["reference"]
    found: list[Describer] = [
        open_describer("http://localhost:11434/v1#qwen2.5vl:7b", questions=questions),
        open_describer("owner/name", questions=questions, revision="abc", quality_model="owner/other"),
        open_describer(saved("llava"), questions=questions),
        open_describer(lines),
        open_describer(str(tmp_path)),
    ]
    kinds = [ServerDescriber, MLLMDescriber, MLLMDescriber, FileDescriber, FileDescriber]
    assert [type(describer) for describer in found] == kinds
    assert [describer.questions for describer in found] == [questions] * 3 + [None] * 2
    assert [describer.name for describer in found[:2]] == [
        "http://localhost:11434/v1#qwen2.5vl:7b",
        "owner/name + owner/other",
    ]
    assert not any(describer.revision for describer in found if not isinstance(describer, MLLMDescriber))


@pytest.mark.parametrize("name", ["http://localhost/v1#m", "priors.jsonl"])
@pytest.mark.parametrize("options", [{"quality_model": "x"}, {"revision": "x"}, {"quantization": "int8"}])
def test_options_for_models_do_not_go_with_servers_and_files(name: str, options: Any, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=f"{next(iter(options))} is for models"):
        open_describer(name, **options)


def test_a_server_needs_the_name_of_a_model() -> None:
    with pytest.raises(InputError, match="name the model behind #"):
        open_describer("http://localhost:11434/v1")


def test_describers_are_imported_without_heavy_libraries() -> None:
    names = ", ".join(f"xpsr.prior.{name}" for name in ("asking", "describers", "mllm", "server"))
    code = f"import sys, {names}; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert {"torch", "transformers", "diffusers", "numpy", "PIL"}.isdisjoint(loaded)
