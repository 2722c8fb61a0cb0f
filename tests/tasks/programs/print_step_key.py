"""Print the cache key of the first step of a study's variant, for an input that is always the same."""

import sys

from slimline.flows.config.study import load_study
from slimline.storage.artifacts.store import ArtifactRef
from slimline.tasks.build import step_key

study, variant = sys.argv[1:]
print(step_key(load_study(study).variants[variant].steps[0], [ArtifactRef(kind="model", digest="0" * 64)]))
