"""Signs requests as their APIs' pages say, with Python's hmac. One JSON object per line in, the fields that must be sent out."""
import base64
import datetime
import email.utils
import hashlib
import hmac
import json
import sys


def sign(key, message, algorithm):
    return hmac.new(key, message, algorithm).digest()


def stripe(r, key):
    seconds = str(r["ms"] // 1000)
    return {"Stripe-Signature": f"t={seconds},v1=" + sign(key, f"{seconds}.{r['body']}".encode(), "sha256").hex()}


def coinbase(r, key):
    seconds = str(r["ms"] // 1000)
    target = r["path"] + ("?" + r["query"] if r["query"] else "")
    signature = sign(base64.b64decode(key), (seconds + r["method"] + target + r["body"]).encode(), "sha256")
    return {"CB-ACCESS-TIMESTAMP": seconds, "CB-ACCESS-SIGN": base64.b64encode(signature).decode()}


def bybit(r, key):
    message = str(r["ms"]) + r["id"] + "5000" + r["query"] + r["body"]
    return {"X-BAPI-TIMESTAMP": str(r["ms"]), "X-BAPI-RECV-WINDOW": "5000", "X-BAPI-SIGN": sign(key, message.encode(), "sha256").hex()}


def everything(r, key):
    body = r["body"].encode()
    seconds = r["ms"] // 1000
    at = datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    lines = [r["method"], r["host"], r["path"], r["query"], r["path"] + "?" + r["query"], r["header"], "", r["body"]]
    for name in ("md5", "sha1", "sha256", "sha512"):
        digest = hashlib.new(name, body).digest()
        lines += [digest.hex(), base64.b64encode(digest).decode()]
    plain = at.strftime("%Y-%m-%dT%H:%M:%S")
    lines += [str(seconds), str(r["ms"]), plain + "Z", f"{plain}.{r['ms'] % 1000:03}Z", email.utils.formatdate(seconds, usegmt=True), r["nonce"], "{é}"]
    decode = {"text": lambda k: k, "base64": base64.b64decode, "hex": lambda k: bytes.fromhex(k.decode())}[r["key_encoding"]]
    signature = sign(decode(key), "\n".join(lines).encode(), r["algorithm"].replace("-", "").lower())
    shown = signature.hex() if r["encoding"] == "hex" else base64.b64encode(signature).decode()
    return {"X-Signature": f"<{r['nonce']}|{shown}|{r['method']}>"}


for line in sys.stdin:
    sent = json.loads(line)
    print(json.dumps(globals()[sent["scheme"]](sent, sent["key"].encode())), flush=True)
