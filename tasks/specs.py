"""What a study can say: one frozen model for each kind of step, data, base and measurement, with units and bounds.

A recipe is a list of these, in the order they are applied to the base model, ending in an engine. A study's YAML is
validated against them before anything is computed, and Prefect draws its parameter forms from them.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_validator,
)

EngineName = Literal["torch", "onnxruntime", "openvino", "ctranslate2"]
ForeignFormat = Literal["huggingface", "onnx", "openvino", "ctranslate2"]


class Spec(BaseModel):
    """Base of every spec: immutable, and an unknown field is an error rather than silently ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _fields_are_known(cls, content: Any) -> Any:
        # Pydantic's own message does not say which fields there are.
        is_open = cls.model_config.get("extra") == "allow"
        for name in content if isinstance(content, dict) and not is_open else ():
            if name not in cls.model_fields:
                raise ValueError(f"{name!r} is not a field; allowed: {', '.join(cls.model_fields)}")
        return content


# ---------------------------------------------------------------------------------------------------------------- data


LocalPath = Annotated[Path, AfterValidator(Path.expanduser)]
"""A path on this machine; `~` is the home directory."""


class PythonTrees(Spec):
    """Python source below directories: by default the standard library and the environment's installed packages."""

    source: Literal["python-trees"] = "python-trees"
    roots: tuple[LocalPath, ...] = Field((), description="Directories; empty: standard library and site-packages.")


class CodeXGlue(Spec):
    """A directory in CodeXGLUE's own layout: train.txt, dev.txt and test.txt, one lexed file a line."""

    source: Literal["codexglue"] = "codexglue"
    directory: LocalPath


class HubData(Spec):
    """CodeXGLUE's token-level code completion through `datasets.load_dataset`: a hub id, or a local directory."""

    source: Literal["hub"] = "hub"
    id: str = "google/code_x_glue_cc_code_completion_token"
    config: str | None = "python"
    revision: str = "main"


DataSource = Annotated[PythonTrees | CodeXGlue | HubData, Field(discriminator="source")]


class Data(Spec):
    """Which files to learn from and which lines to complete."""

    origin: DataSource = PythonTrees()
    train_files: PositiveInt = Field(600, description="Files to train on; the first of a seeded shuffle.")
    dev_files: PositiveInt = Field(100, description="Files to watch the loss on.")
    samples: PositiveInt = Field(200, le=100_000, description="Line-completion samples of the test split.")
    seed: NonNegativeInt = 0


# -------------------------------------------------------------------------------------------------------- base models


class HubBase(Spec):
    """A GPT-2-type model of the Hugging Face hub."""

    source: Literal["hub"] = "hub"
    id: str = "microsoft/CodeGPT-small-py"
    revision: str = "main"


class PathBase(Spec):
    """A local GPT-2 checkpoint directory (config.json, model.safetensors, tokenizer files)."""

    source: Literal["path"] = "path"
    directory: LocalPath


class BundledBase(Spec):
    """The small code model that ships with slimline."""

    source: Literal["bundled"] = "bundled"


class RandomBase(Spec):
    """A named architecture with random weights: for size, memory and speed only; its EM and ES mean nothing."""

    source: Literal["random"] = "random"
    architecture: Literal["codegpt-small", "bundled", "tiny"] = "codegpt-small"
    tokenizer: Literal["bundled", "train"] = Field(
        "bundled", description="`train`: learn a byte-pair vocabulary from the study's training files."
    )
    seed: NonNegativeInt = 0


Base = Annotated[HubBase | PathBase | BundledBase | RandomBase, Field(discriminator="source")]


# --------------------------------------------------------------------------------------------------------------- steps


USER_STEP = r"^\w+(\.\w+)*:\w+$"


class StepSpec(Spec):
    """Base of what a recipe step's spec is, in slimline and in a user's own module."""

    step: str = Field("", description="Its name: one of slimline's, or `module:function` of a user's own.")


class UserStep(StepSpec):
    """A step of a user's own: the fields that its own spec has checked, as plain data.

    A host that only measures, and whoever reads the study in the store, has no need of the user's module.
    """

    model_config = ConfigDict(extra="allow")

    step: str = Field(pattern=USER_STEP)


class Training(StepSpec):
    """What every step that trains shares."""

    window: PositiveInt = Field(512, le=1024, description="Tokens per packed training window.")
    batch_size: PositiveInt = Field(16, description="Windows per optimizer step.")
    learning_rate: PositiveFloat = Field(5e-5, lt=1.0)
    seed: NonNegativeInt = 0


class TimedTraining(Training):
    """Training for a fixed time, or number of steps: Muon for the blocks' matrices, AdamW for everything else."""

    minutes: PositiveFloat = Field(60.0, description="Training time; the rate decays linearly over its second half.")
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps at most; null: as the time allows.")
    learning_rate: PositiveFloat = Field(3e-3, lt=1.0, description="AdamW's rate (embeddings, norms, biases).")
    muon_learning_rate: PositiveFloat = Field(0.02, lt=1.0, description="Muon's rate (the blocks' matrices).")
    checkpoint_minutes: PositiveFloat = 5.0


class Pretrain(TimedTraining):
    """Train from random weights (the bundled model was made so)."""

    step: Literal["pretrain"] = "pretrain"


class EpochTraining(Training):
    """Training measured in passes over the data."""

    epochs: PositiveFloat = Field(1.0, le=100)
    max_steps: PositiveInt | None = Field(None, description="Optimizer steps at most; null: whole epochs.")


class FineTune(EpochTraining):
    """Fine-tune on code completion with the Hugging Face Trainer."""

    step: Literal["fine-tune"] = "fine-tune"


class GroupLasso(EpochTraining):
    """Group-lasso pruning after the published recipe: blocks of every matrix go to zero, and the zeros stay there."""

    step: Literal["group-lasso"] = "group-lasso"
    sparsity: float = Field(0.6, gt=0.0, lt=1.0, description="Share of every matrix set to zero.")
    block: tuple[PositiveInt, PositiveInt] = Field((4, 1), description="Outputs x inputs of one block.")
    learning_rate: PositiveFloat = Field(5e-4, lt=1.0)
    penalty: Literal["proximal", "gradient-scaled"] = Field(
        "proximal",
        description="The textbook's proximal step, the same length for all; or Neural Compressor's, by the gradient.",
    )
    strength: float = Field(
        0.5, gt=0.0, lt=1.0, description="Share of a median block's size that the penalty takes until the ramp ends."
    )
    warmup_share: float = Field(0.1, ge=0.0, lt=1.0, description="Share of the steps before blocks are set to zero.")
    ramp_share: float = Field(0.6, gt=0.0, le=1.0, description="Share of the steps over which sparsity rises.")

    @model_validator(mode="after")
    def _schedule_fits(self) -> Self:
        if (end := self.warmup_share + self.ramp_share) > 1:
            raise ValueError(f"warmup_share + ramp_share is {end:g}; allowed: at most 1")
        return self


class TrimVocabulary(StepSpec):
    """Keep the first entries of the byte-pair vocabulary: merges are dropped from the last one backwards."""

    step: Literal["trim-vocabulary"] = "trim-vocabulary"
    tokens: int = Field(4096, ge=512, description="Entries to keep, single bytes and placeholders included.")


class Slim(StepSpec):
    """Structured pruning: neurons, heads, channels and layers are taken out, and what remains is repaired.

    The result is a smaller dense GPT-2. Exactly one target is given: `sparsity`, `params_m` or `speedup`.
    """

    step: Literal["slim"] = "slim"
    sparsity: float | None = Field(None, gt=0.0, lt=1.0, description="Share of the parameters to take out.")
    params_m: PositiveFloat | None = Field(None, description="Millions of parameters to keep at most.")
    speedup: float | None = Field(None, gt=1.0, le=100.0, description="How much faster, by this host's latency table.")
    timed_on: Literal["torch", "onnxruntime", "onnxruntime-int8"] = Field(
        "onnxruntime-int8", description="What `speedup` is timed with."
    )
    importance: Literal["brain-surgeon", "magnitude"] = Field(
        "brain-surgeon",
        description="What is least needed, by the error that its removal causes on calibration windows; or, without "
        "any, what is smallest: for random weights only.",
    )
    calibration_windows: PositiveInt = Field(32, le=4096, description="Windows of the training split to decide on.")
    window: PositiveInt = Field(512, le=1024, description="Tokens of a window.")
    trial_steps: NonNegativeInt = Field(
        24, le=10_000, description="Optimizer steps after which the best shapes are compared; 0: as they are cut."
    )

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        given = [name for name in ("sparsity", "params_m", "speedup") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"targets given: {', '.join(given) or 'none'}; one of sparsity, params_m, speedup is needed"
            )
        return self


class Distill(TimedTraining):
    """Knowledge distillation from the study's prepared base (Hinton et al. 2015); with no share, training as before."""

    step: Literal["distill"] = "distill"
    learning_rate: PositiveFloat = Field(2e-3, lt=1.0, description="AdamW's rate (embeddings, norms, biases).")
    muon_learning_rate: PositiveFloat = Field(0.01, lt=1.0, description="Muon's rate (the blocks' matrices).")
    teacher_share: float = Field(0.5, ge=0.0, le=1.0, description="Weight of the teacher against that of the text.")
    temperature: PositiveFloat = Field(1.0, le=20.0, description="Softens both distributions.")
    hidden_weight: float = Field(0.0, ge=0.0, le=100.0, description="Weight of matching the last hidden states.")


class PrebuiltModel(StepSpec):
    """A compressed form of the bundled model that ships with slimline, made by the study of the same name."""

    step: Literal["prebuilt"] = "prebuilt"
    name: Literal["slim", "slim-75", "slim-90", "original-longer"] = "slim"


class External(StepSpec):
    """A model that others made, measured as it is: the first step of a recipe, in place of the study's base."""

    step: Literal["external"] = "external"
    directory: LocalPath = Field(
        description="Of a Hugging Face checkpoint, or a model of optimum, ONNX Runtime GenAI, optimum-intel or "
        "CTranslate2; with its tokenizer.json."
    )
    format: ForeignFormat | None = Field(None, description="Null: told by the files.")
    file: str | None = Field(None, min_length=1, description="The graph's file, if the directory has several.")
    n_positions: PositiveInt | None = Field(None, description="Most tokens of a text; null: as the directory says.")


class DynamicInt8(StepSpec):
    """Post-training dynamic int8 as published: torch's, which swaps nn.Linear only and so skips GPT-2's Conv1D."""

    step: Literal["dynamic-int8"] = "dynamic-int8"


class ExportOnnx(StepSpec):
    """One ONNX graph with key/value cache in and out."""

    step: Literal["export-onnx"] = "export-onnx"


WeightBits = Annotated[
    Literal[7, 8] | None,
    Field(description="Bits of a weight: 7 for hosts without VNNI, where 8 saturate. Empty: as this host needs."),
]


class OnnxInt8(StepSpec):
    """Dynamic int8 of every projection of an ONNX graph, the tied head included."""

    step: Literal["onnx-int8"] = "onnx-int8"
    per_channel: bool = True
    weight_bits: WeightBits = None


class OnnxStaticInt8(StepSpec):
    """Static int8 of every projection of an ONNX graph: activation scales are calibrated, not computed at run time."""

    step: Literal["onnx-static-int8"] = "onnx-static-int8"
    calibration_samples: PositiveInt = Field(64, description="Windows of the training split the ranges are taken from.")
    weight_bits: WeightBits = None


class ExportOpenvino(StepSpec):
    """One OpenVINO model whose key/value cache is its own state."""

    step: Literal["export-openvino"] = "export-openvino"


class OpenvinoInt8(StepSpec):
    """Post-training int8 of an OpenVINO model by nncf, calibrated."""

    step: Literal["openvino-int8"] = "openvino-int8"
    calibration_samples: PositiveInt = Field(64, description="Windows of the training split the ranges are taken from.")
    weight_bits: WeightBits = None


class ExportCtranslate2(StepSpec):
    """A CTranslate2 model directory, weights as they are or in int8."""

    step: Literal["export-ctranslate2"] = "export-ctranslate2"
    precision: Literal["float32", "int8"] = "float32"
    weight_bits: WeightBits = None

    @model_validator(mode="after")
    def _bits_are_of_int8(self) -> Self:
        if self.weight_bits is not None and self.precision != "int8":
            raise ValueError(f"weight_bits: {self.weight_bits}; allowed: none, or precision int8")
        return self


class WeightOnly(StepSpec):
    """Weights in int8 or int4, activations in floating point, by neural-compressor; stored packed."""

    step: Literal["weight-only"] = "weight-only"
    method: Literal["rtn", "gptq"] = Field("rtn", description="Round to nearest, or GPTQ (arXiv:2210.17323).")
    bits: Literal[4, 8] = 8
    group_size: int = Field(32, ge=8, description="Weights that share a scale.")
    calibration_samples: PositiveInt = Field(32, description="Windows of the training split (gptq only).")


class Engine(StepSpec):
    """What runs the artifact: the last step of every recipe."""

    step: Literal["engine"] = "engine"
    name: EngineName
    dtype: Literal["float32", "bfloat16"] = Field(
        "float32", description="What floating-point operators compute in; bfloat16: torch and openvino only."
    )
    draft_tokens: NonNegativeInt = Field(
        0,
        le=32,
        description="Prompt-lookup speculation: tokens drafted from an n-gram seen before and checked in one pass; the "
        "result is exactly greedy. 0: off; not for ctranslate2.",
    )

    @model_validator(mode="after")
    def _engine_can_do_it(self) -> Self:
        if self.dtype == "bfloat16" and self.name not in ("torch", "openvino"):
            raise ValueError(f"dtype: bfloat16 is not for {self.name}; allowed: float32")
        if self.draft_tokens and self.name == "ctranslate2":
            raise ValueError("draft_tokens: ctranslate2 takes no drafts; allowed: 0")
        if self.draft_tokens and (self.name, self.dtype) == ("torch", "bfloat16"):
            raise ValueError("draft_tokens: torch rounds bfloat16 differently for several tokens at once; allowed: 0")
        return self


# ----------------------------------------------------------------------------------------------------------- measuring


class Decoding(Spec):
    """How a completion is produced; part of what EM and ES mean."""

    beams: PositiveInt = Field(1, le=16, description="1: greedy; 5: as CodeXGLUE.")
    max_new_tokens: PositiveInt = Field(100, le=512)
    fixed_new_tokens: PositiveInt | None = Field(
        None, description="Generate exactly this many tokens: for random weights, which never end a line."
    )


class ScoreStep(Spec):
    """Everything the completions of a model depend on besides the model and the samples."""

    step: Literal["score"] = "score"
    engine: Engine
    decoding: Decoding
    batch_size: PositiveInt
    threads: PositiveInt
