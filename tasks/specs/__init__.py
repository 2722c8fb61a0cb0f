"""What a study can say: one frozen model for each kind of step, data, base and measurement, with units and bounds.

A recipe is a list of these, in the order they are applied to the base model, ending in an engine. A study's YAML is
validated against them before anything is computed, and Prefect draws its parameter forms from them.
"""

from __future__ import annotations

from slimline.tasks.specs.base import (
    USER_STEP,
    EngineName,
    ForeignFormat,
    LocalPath,
    Spec,
    StepSpec,
    UserStep,
)
from slimline.tasks.specs.conversion import (
    ExportCtranslate2,
    ExportOnnx,
    ExportOpenvino,
    External,
    PrebuiltModel,
)
from slimline.tasks.specs.data import (
    Base,
    BundledBase,
    CodeXGlue,
    Data,
    DataSource,
    HubBase,
    HubData,
    PathBase,
    PythonTrees,
    RandomBase,
)
from slimline.tasks.specs.itrex import (
    ItrexPrune,
    ItrexQuantize,
)
from slimline.tasks.specs.measurement import (
    Decoding,
    Engine,
    ScoreStep,
)
from slimline.tasks.specs.pruning import (
    ReduceLayers,
    Slim,
    TrimVocabulary,
)
from slimline.tasks.specs.quantization import (
    DynamicInt8,
    MpPtq,
    OnnxInt8,
    OnnxLowBit,
    OnnxStaticInt8,
    OpenvinoInt8,
    PegPtq,
    WeightBits,
    WeightOnly,
)
from slimline.tasks.specs.training import (
    Distill,
    Distillation,
    EpochTraining,
    FineTune,
    GroupLasso,
    Pretrain,
    TimedTraining,
    Training,
    Xtc,
)

__all__ = [
    "USER_STEP",
    "Base",
    "BundledBase",
    "CodeXGlue",
    "Data",
    "DataSource",
    "Decoding",
    "Distill",
    "Distillation",
    "DynamicInt8",
    "Engine",
    "EngineName",
    "EpochTraining",
    "ExportCtranslate2",
    "ExportOnnx",
    "ExportOpenvino",
    "External",
    "FineTune",
    "ForeignFormat",
    "GroupLasso",
    "HubBase",
    "HubData",
    "ItrexPrune",
    "ItrexQuantize",
    "LocalPath",
    "MpPtq",
    "OnnxInt8",
    "OnnxLowBit",
    "OnnxStaticInt8",
    "OpenvinoInt8",
    "PathBase",
    "PegPtq",
    "PrebuiltModel",
    "Pretrain",
    "PythonTrees",
    "RandomBase",
    "ReduceLayers",
    "ScoreStep",
    "Slim",
    "Spec",
    "StepSpec",
    "TimedTraining",
    "Training",
    "TrimVocabulary",
    "UserStep",
    "WeightBits",
    "WeightOnly",
    "Xtc",
]
