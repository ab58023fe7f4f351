"""The reference: a reverse proxy in ten lines of aiohttp on uvloop; it governs nothing. Argument: upstream URL."""

import asyncio
import socket
import sys

import uvloop
from aiohttp import ClientSession, TCPConnector, web


async def main() -> None:
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)
    async with ClientSession(connector=TCPConnector(limit=0), auto_decompress=False) as session:

        async def proxy(request: web.Request) -> web.Response:
            headers = [(k, v) for k, v in request.headers.items() if k not in ("Host", "Content-Length")]
            body = await request.read()
            async with session.post(sys.argv[1] + request.path_qs, headers=headers, data=body) as answer:
                kind = {"Content-Type": answer.headers["Content-Type"]}
                return web.Response(status=answer.status, body=await answer.read(), headers=kind)

        app = web.Application(client_max_size=32 << 20)
        app.router.add_post("/{path:.*}", proxy)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.SockSite(runner, listener).start()
        print(listener.getsockname()[1], flush=True)
        await asyncio.Event().wait()


uvloop.run(main())
