"""Complete with an engine in a process of its own, and print its logits and every module that was imported for it."""

import json
import sys
from pathlib import Path

from slimline.tasks.engines.base import load_engine
from slimline.tasks.specs import Decoding, Engine

name, directory, beams = sys.argv[1:]
engine = load_engine(Engine.model_validate({"name": name}), Path(directory), 1)  # alive until Python shuts down
engine.complete([[3, 4, 5], [6]], {0}, Decoding(max_new_tokens=3, beams=int(beams)))
print(json.dumps({"logits": engine.logits([3, 4, 5]).tolist(), "modules": sorted(sys.modules)}))
