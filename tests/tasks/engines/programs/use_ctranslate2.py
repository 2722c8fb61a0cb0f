"""Print what a model that CTranslate2 alone has loaded completes."""

import json
import sys

import ctranslate2

generator = ctranslate2.Generator(sys.argv[1])
options = {"end_token": ["t0", "t1"], "max_length": 12, "include_prompt_in_result": False}
results = [generator.generate_batch([prompt], **options)[0] for prompt in (["t3", "t4", "t5"], ["t9"])]
print(json.dumps([result.sequences_ids[0] for result in results]))
assert not {"torch", "slimline"} & set(sys.modules)
