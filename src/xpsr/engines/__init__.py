"""Other engines than torch for a model's networks: a folder's networks exported, opened and called.

`export` writes the networks as ONNX, which every engine reads; `manifest` says what was written; `running` opens it and
puts it into torch's place in a pipeline.
"""

from xpsr.engines.export import export_engine_model
from xpsr.engines.opening import Engine
from xpsr.engines.running import check_engine, resolve_place, use_engine

__all__ = ["Engine", "check_engine", "export_engine_model", "resolve_place", "use_engine"]
