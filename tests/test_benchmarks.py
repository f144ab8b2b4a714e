"""What the benchmarks are made of; how long things take is theirs to say."""

from pathlib import Path

import torch
from rehearse_full import restore, write_system
from reporting import markdown_table

from xpsr.convert import convert_reference
from xpsr.training.planning import STABLE_DIFFUSION_1_5

TINY = {
    "attention_head_dim": 2,
    "block_out_channels": [16, 16],
    "cross_attention_dim": 16,
    "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"],
    "layers_per_block": 1,
    "norm_num_groups": 8,
}
SIZES = {
    "unet": {**STABLE_DIFFUSION_1_5["unet"], **TINY, "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
    "controlnet": {
        **STABLE_DIFFUSION_1_5["controlnet"],
        **TINY,
        "conditioning_embedding_out_channels": [4, 4, 8, 8],
    },
    "vae": {
        **STABLE_DIFFUSION_1_5["vae"],
        "block_out_channels": [4, 4, 4, 4],
        "layers_per_block": 1,
        "norm_num_groups": 4,
    },
    "text_encoder": {
        **STABLE_DIFFUSION_1_5["text_encoder"],
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 600,
    },
    "scheduler": STABLE_DIFFUSION_1_5["scheduler"],
}


def test_rehearsal_writes_a_system_in_shards_that_converts_and_restores(tmp_path: Path) -> None:
    reference, model = tmp_path / "reference", tmp_path / "model"
    write_system(reference, SIZES, max_shard_size="100KB")
    assert len(list((reference / "unet").glob("*.safetensors"))) > 1
    convert_reference(reference, model, base=reference)
    seconds = restore(model, torch.float32)
    assert list(seconds) == ["load_seconds", "step_1_seconds", "step_2_seconds"]


def test_table_has_the_columns_of_all_rows_in_their_order() -> None:
    table = markdown_table({"one": {"wall": "1.0"}, "other": {"wall": "2.0", "CPU": "3.0"}}, "seconds")
    assert table.splitlines() == [
        "| seconds | wall | CPU |",
        "| --- | --- | --- |",
        "| one | 1.0 |  |",
        "| other | 2.0 | 3.0 |",
    ]
