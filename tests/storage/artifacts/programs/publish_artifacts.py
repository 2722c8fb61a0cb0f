"""Publish one artifact after another until this process is killed, and print the digest of each."""

import sys
from datetime import UTC, datetime
from itertools import count

from slimline.storage.artifacts.store import ArtifactStore, Provenance

store = ArtifactStore(sys.argv[1])
made = Provenance(step={}, inputs=[], versions={}, host="h", created=datetime.now(UTC), seconds=0)
print("ready", flush=True)
for number in count():
    with store.stage() as directory:
        for name in "abcdef":
            (directory / name).write_bytes(str(number).encode() * 50_000)
        print(store.publish(directory, "slice", made).digest, flush=True)
