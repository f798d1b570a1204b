"""An aiohttp server and a client of it. The client knows its proxy from the environment, and prints what it saw as JSON.

    aiohttp_echo.py server CERT KEY     prints its port, and serves until its input ends
    aiohttp_echo.py client URL
"""
import asyncio
import base64
import json
import ssl
import sys

import aiohttp
from aiohttp import web


async def echo(request):
    body = await request.read()
    return web.json_response([request.headers.get("Authorization")[::-1], request.method, len(body)])


async def stream(request):
    """Sends the next line when the client has asked for it."""
    response = web.StreamResponse()
    await response.prepare(request)
    for i in range(3):
        await request.app["next"].get()
        await response.write(b"%d\n" % i)
    return response


async def more(request):
    request.app["next"].put_nowait(None)
    return web.Response()


async def websocket(request):
    ws = web.WebSocketResponse()
    await ws.prepare(request)
    await ws.send_str(request.headers.get("Authorization", "")[::-1])
    async for message in ws:
        if message.type == aiohttp.WSMsgType.BINARY:
            await ws.send_bytes(b"echo " + message.data)
        elif message.data == "bye":
            await ws.close(code=4321)
        else:
            await ws.send_str("echo " + message.data)
    return ws


async def serve(cert, key):
    app = web.Application()
    app["next"] = asyncio.Queue()
    app.add_routes([web.get("/stream", stream), web.get("/more", more), web.get("/ws", websocket), web.route("*", "/", echo)])
    runner = web.AppRunner(app)
    await runner.setup()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(cert, key)
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    print(site._server.sockets[0].getsockname()[1], flush=True)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await runner.cleanup()


async def pieces():
    for _ in range(3):
        yield b"0123456789"


async def talk(url):
    out = {}
    async with aiohttp.ClientSession(trust_env=True) as session:
        async with session.get(url + "/") as r:
            out["get"] = [r.status, *await r.json()]
        async with session.post(url + "/", data=b"x" * 100000) as r:
            out["post"] = [r.status, *await r.json()]
        async with session.post(url + "/", data=pieces()) as r:
            out["chunked"] = [r.status, *await r.json()]
        async with session.get(url + "/", headers={"Authorization": "Bearer mine"}) as r:
            out["refused"] = [r.status, r.headers.get("Credproxy-Error")]
        async with session.get(url + "/stream") as r:
            out["stream"] = []
            for _ in range(3):
                async with session.get(url + "/more"):
                    pass
                out["stream"].append((await r.content.readline()).decode().strip())
        async with session.ws_connect(url.replace("https", "wss") + "/ws", max_msg_size=0) as ws:
            out["websocket"] = [await ws.receive_str()]
            await ws.send_str("hello")
            out["websocket"].append(await ws.receive_str())
            await ws.send_bytes(b"\x00\xff")
            out["websocket"].append(base64.b64encode(await ws.receive_bytes()).decode())
            await ws.send_str("x" * 200000)
            out["websocket"].append(await ws.receive_str())
            await ws.send_str("bye")
            out["close code"] = (await ws.receive()).data
    print(json.dumps(out))


if sys.argv[1] == "server":
    asyncio.run(serve(*sys.argv[2:]))
else:
    asyncio.run(talk(*sys.argv[2:]))
