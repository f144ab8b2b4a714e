"""Describers that ask models of transformers, which are tiny and random here."""

import importlib.util
import json
import logging
import random
import shutil
import weakref
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import GotOcr2ImageProcessorPil
from transformers.models.idefics3.image_processing_pil_idefics3 import Idefics3ImageProcessorPil
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil

from xpsr.errors import InputError, MissingDependencyError, ModelError
from xpsr.image import to_picture
from xpsr.prior import Prior, Questions
from xpsr.prior.mllm import MLLMDescriber
from xpsr.prior.views import crops_view

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
            with torch.random.fork_rng():  # the same model whichever tests ran before
                torch.manual_seed(0)
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


# --- models of transformers ------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize(
    ("option", "value"),
    [("batch_size", 0), ("max_new_tokens", 0), ("dtype", "int8"), ("quantization", "int3")],
)
def test_options_of_a_model_are_checked(option: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"{option}={value} .*; use"):
        MLLMDescriber("owner/name", **{option: value})


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
    assert "nobody/nothing: is not in the hub's cache; fetch it first" in refusal(
        open_model("nobody/nothing", local_files_only=True)
    )
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
        pytest.skip("torchvision is installed here, so no processor lacks it")
    pictures = {"image_processor_type": "Sam2ImageProcessor"}  # there is none without it
    change_json(llava / "processor_config.json", image_processor=pictures)
    message = refusal(open_model(llava))
    assert "needs torchvision" in message and "LLaVA-1.5" in message and "server" in message


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "xpu"])
def test_devices_that_are_not_there_are_refused_before_any_picture(device: str) -> None:
    with pytest.raises(InputError, match=f"device={device} is not there"):
        open_model("owner/name", device=device)


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
