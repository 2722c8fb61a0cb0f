"""Run a training step, given by its spec and its paths, with a checkpoint after every optimizer step."""

import json
import sys
from pathlib import Path

from slimline.tasks.pruning.group_lasso import group_lasso
from slimline.tasks.specs import Distill, FineTune, GroupLasso
from slimline.tasks.training import finetune
from slimline.tasks.training.distill import distill

STEPS = {
    "fine-tune": (FineTune, finetune.fine_tune),
    "group-lasso": (GroupLasso, group_lasso),
    "distill": (Distill, distill),
}

finetune._CHECKPOINT_MINUTES = 0.0  # distillation's are in its spec
text, *paths = sys.argv[1:]
spec, step = STEPS[json.loads(text)["step"]]
step(spec.model_validate_json(text), *map(Path, paths))
