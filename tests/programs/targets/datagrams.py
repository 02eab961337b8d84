# SPDX-License-Identifier: Apache-2.0
"""datagrams.py PORT: an asyncio server on UDP that counts what it is asked, in memory only."""

import asyncio
import sys


class Counter(asyncio.DatagramProtocol):
    def __init__(self):
        self.count = 0

    def connection_made(self, transport):
        self.transport = transport

    def datagram_received(self, data, sender):
        self.count += 1
        self.transport.sendto(b"%d %s" % (self.count, data), sender)


async def main():
    loop = asyncio.get_running_loop()
    await loop.create_datagram_endpoint(Counter, local_addr=("127.0.0.1", int(sys.argv[1])))
    await asyncio.Event().wait()


asyncio.run(main())
