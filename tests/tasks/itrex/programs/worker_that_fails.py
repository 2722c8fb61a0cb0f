"""In the worker's place: says its process id, then fails, or says nothing any more, or waits to be killed."""

import json
import os
import sys
import time
from pathlib import Path

request = json.loads(Path(sys.argv[1]).read_text("utf8"))
Path(request["output"], "model.safetensors").write_bytes(b"half of it")
print(json.dumps({"description": str(os.getpid()), "share": 0.5}), flush=True)
if Path(__file__).with_name("fail").exists():
    print("a line before the last", file=sys.stderr)
    sys.exit("ValueError: no such thing")
time.sleep(600)
