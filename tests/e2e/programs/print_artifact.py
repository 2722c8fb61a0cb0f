"""Print the newest artifact of the Prefect server that has a key."""

import sys

from prefect.artifacts import Artifact

print(Artifact.get(sys.argv[1]).data)
