"""Print the code hash of each module named, one a line, and the names of its libraries."""

import sys

from slimline.tasks.runtime.code_hash import code_hash, step_libraries

for module in sys.argv[1:]:
    print(code_hash(module), *step_libraries(module))
