"""Runs as values: frozen, keyword-only dataclasses, filled from defaults, then YAML, then dotted flags.

Nothing here imports torch, so that `xpsr --help` answers at once. Configs stop at `cli`, `recipe`, `training`,
`data`, `records`, `batch`, `sequence`, `web` and `benchmark`; everything else takes named arguments, or `Settings`.

`settings` says how a picture is restored, `sizes` how large it becomes, `upscale` what is asked for, `batch` how that
is done to many and `serve` for others; `degradation` and `data` say what training reads, `model` and `training` what
it does, `benchmark` what is compared. `checks` refuses values, `names` knows what is meant by others, `loading` reads
files and flags.
"""

from xpsr.config.batch import BatchConfig
from xpsr.config.benchmark import BenchmarkConfig, MatrixConfig, MethodConfig, SetConfig, TextsConfig, TextSource
from xpsr.config.data import DataConfig, PairsConfig
from xpsr.config.degradation import DEGRADATIONS, DegradationConfig, DegradationName, DegradationStage
from xpsr.config.loading import as_dict, load_config, override, shipped_configs
from xpsr.config.model import ModelConfig
from xpsr.config.names import RenamedWarning, nearest, renamed, suggest
from xpsr.config.serve import ServeConfig
from xpsr.config.settings import (
    PRESETS,
    ModelFacts,
    PresetName,
    Settings,
    given_settings,
    preset_settings,
    resolve_settings,
)
from xpsr.config.sizes import MAX_SCALE, SIZE_SUFFIX, Size, as_size, usual_size
from xpsr.config.training import (
    AblateConfig,
    LossConfig,
    OptimizerConfig,
    PartName,
    PartsConfig,
    TrainConfig,
    TrainRunConfig,
    ValidationConfig,
)
from xpsr.config.upscale import UpscaleConfig

__all__ = [
    "AblateConfig",
    "BatchConfig",
    "BenchmarkConfig",
    "DEGRADATIONS",
    "DataConfig",
    "DegradationConfig",
    "DegradationName",
    "DegradationStage",
    "LossConfig",
    "MAX_SCALE",
    "MatrixConfig",
    "MethodConfig",
    "ModelConfig",
    "ModelFacts",
    "OptimizerConfig",
    "PRESETS",
    "PairsConfig",
    "PartName",
    "PartsConfig",
    "PresetName",
    "RenamedWarning",
    "SIZE_SUFFIX",
    "ServeConfig",
    "SetConfig",
    "Settings",
    "Size",
    "TextSource",
    "TextsConfig",
    "TrainConfig",
    "TrainRunConfig",
    "UpscaleConfig",
    "ValidationConfig",
    "as_dict",
    "as_size",
    "given_settings",
    "load_config",
    "nearest",
    "override",
    "preset_settings",
    "renamed",
    "resolve_settings",
    "shipped_configs",
    "suggest",
    "usual_size",
]
