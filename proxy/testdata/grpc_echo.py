"""A gRPC server and a client of it, without generated code. Both write what they saw to standard output, as JSON.

    grpc_echo.py server CERT KEY        prints its port, and serves until its input ends
    grpc_echo.py client TARGET CA AUTHORITY
"""
import json
import sys
import threading
from concurrent import futures

import grpc

cancelled = threading.Event()


def unary(request, context):
    seen = dict(context.invocation_metadata())
    context.send_initial_metadata([("x-first", "1")])
    context.set_trailing_metadata([("x-last", "2"), ("x-last-bin", b"\x00\xff")])
    return json.dumps({"authorization": seen.get("authorization")[::-1], "length": len(request)}).encode()


def many(request, context):
    for i in range(5):
        yield request + str(i).encode()


def collect(requests, context):
    return b",".join(requests)


def chat(requests, context):
    for request in requests:
        yield b"re: " + request


def nothing(request, context):
    context.set_trailing_metadata([("x-reason", "gone")])
    context.abort(grpc.StatusCode.NOT_FOUND, "no such thing: caf\u00e9")


def half(request, context):
    yield b"one"
    context.abort(grpc.StatusCode.DATA_LOSS, "broken off")


def never(request, context):
    context.add_callback(cancelled.set)
    yield b"begun"
    cancelled.wait()


def was_cancelled(request, context):
    seen = cancelled.wait(15)
    cancelled.clear()
    return b"yes" if seen else b"no"


def serve(cert, key):
    server = grpc.server(futures.ThreadPoolExecutor(8))
    server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler("test.Echo", {
        "Unary": grpc.unary_unary_rpc_method_handler(unary),
        "Many": grpc.unary_stream_rpc_method_handler(many),
        "Collect": grpc.stream_unary_rpc_method_handler(collect),
        "Chat": grpc.stream_stream_rpc_method_handler(chat),
        "Nothing": grpc.unary_unary_rpc_method_handler(nothing),
        "Half": grpc.unary_stream_rpc_method_handler(half),
        "Never": grpc.unary_stream_rpc_method_handler(never),
        "WasCancelled": grpc.unary_unary_rpc_method_handler(was_cancelled),
    })])
    with open(cert, "rb") as c, open(key, "rb") as k:
        credentials = grpc.ssl_server_credentials([(k.read(), c.read())])
    print(server.add_secure_port("127.0.0.1:0", credentials), flush=True)
    server.start()
    sys.stdin.read()
    server.stop(0)


def failure(call):
    """The status with which call() fails."""
    try:
        call()
        return "no failure"
    except grpc.RpcError as e:
        trailing = dict(e.trailing_metadata() or ())
        return [e.code().name, e.details(), trailing.get("x-reason")]


def talk(target, ca, authority):
    with open(ca, "rb") as f:
        credentials = grpc.ssl_channel_credentials(f.read())
    options = [("grpc.max_receive_message_length", -1)]
    if authority:
        options.append(("grpc.default_authority", authority))
    out = {}
    with grpc.secure_channel(target, credentials, options) as channel:
        method = lambda kind, name: getattr(channel, kind)("/test.Echo/" + name)
        reply, call = method("unary_unary", "Unary").with_call(b"x" * 3000000, timeout=15)
        out["unary"] = json.loads(reply)
        out["first"] = dict(call.initial_metadata()).get("x-first")
        last = dict(call.trailing_metadata())
        out["last"] = [last.get("x-last"), list(last.get("x-last-bin", b""))]
        out["many"] = [m.decode() for m in method("unary_stream", "Many")(b"m", timeout=15)]
        out["collect"] = method("stream_unary", "Collect")(iter([b"a", b"b", b"c"]), timeout=15).decode()

        # Each message goes out only after the answer to the one before has come.
        answered = threading.Semaphore(1)

        def questions():
            for i in range(4):
                answered.acquire()
                yield str(i).encode()

        out["chat"] = []
        for answer in method("stream_stream", "Chat")(questions(), timeout=15):
            out["chat"].append(answer.decode())
            answered.release()

        out["nothing"] = failure(lambda: method("unary_unary", "Nothing")(b"", timeout=15))
        out["half"] = failure(lambda: list(method("unary_stream", "Half")(b"", timeout=15)))
        out["unknown"] = failure(lambda: method("unary_unary", "NoSuchMethod")(b"", timeout=15))[0]
        out["deadline"] = failure(lambda: list(method("unary_stream", "Never")(b"", timeout=0.3)))[0]
        out["deadline seen"] = method("unary_unary", "WasCancelled")(b"", timeout=20).decode()
        call = method("unary_stream", "Never")(b"", timeout=20)
        out["begun"] = next(call).decode()
        call.cancel()
        out["cancel seen"] = method("unary_unary", "WasCancelled")(b"", timeout=20).decode()
        out["refused"] = failure(lambda: channel.unary_unary("/test.Secret/Get")(b"", timeout=15))[0]
    print(json.dumps(out))


if sys.argv[1] == "server":
    serve(*sys.argv[2:])
else:
    talk(*sys.argv[2:])
