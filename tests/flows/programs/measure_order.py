"""Measure an order, and print how often the stores were listed meanwhile, by what was listed.

python measure_order.py ORDER.json
"""

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from aiobotocore.client import AioBaseClient

from slimline.flows.measure import measure
from slimline.flows.run import Order


def count_listings() -> Counter[str]:
    """Every request that lists from now on, page by page, by the prefix it asks for."""
    counts: Counter[str] = Counter()
    send = AioBaseClient._make_api_call

    async def counted(client: AioBaseClient, operation: str, parameters: dict[str, Any]) -> Any:
        if operation.startswith("ListObject"):
            counts[parameters.get("Prefix", "")] += 1
        return await send(client, operation, parameters)

    AioBaseClient._make_api_call = counted
    return counts


if __name__ == "__main__":
    listings = count_listings()
    measure(Order.model_validate_json(Path(sys.argv[1]).read_text("utf8")))
    print(json.dumps(listings))
