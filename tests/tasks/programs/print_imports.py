"""Import a module, call a function of it if one is given, and print every module that was imported for it."""

import json
import sys
from importlib import import_module

module, *functions = sys.argv[1:]
for function in functions:
    getattr(import_module(module), function)()
import_module(module)
print(json.dumps(sorted(sys.modules)))
