"""The least that calls the API through the SDK that syncer uses: a bare aioboto3 client, one call.

python bare.py CONNECTION_ID
"""

import asyncio
import sys

import aioboto3


async def main(identifier: str) -> None:
    async with aioboto3.Session().client("partnercentral-account", region_name="us-east-1") as client:
        await client.get_connection(Catalog="AWS", Identifier=identifier)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
