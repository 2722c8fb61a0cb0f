"""Run the Python of a guide that computes `logits` of a `prompt` with the model in a `directory`, and print them.

The guide says that it needs nothing of slimline.
"""

import json
import sys
from pathlib import Path

guide, directory, prompt = sys.argv[1:]
names = {"directory": directory, "prompt": json.loads(prompt)}
exec(compile(Path(guide).read_text("utf8"), guide, "exec"), names)
assert not {"slimline", "prefect"} & set(sys.modules)
print(json.dumps(names["logits"].tolist()))
