"""What a study is about: which files to learn from, which lines to complete, and which model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt

from slimline.tasks.specs.base import LocalPath, Spec


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
