"""Verifies requests signed with AWS Signature Version 4 as a server would, with botocore's own code for the signature.

Reads one JSON object for each request from standard input and writes one verdict for each.
"""

import base64
import datetime
import hashlib
import hmac
import json
import sys
import urllib.parse

from botocore import auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

STREAMING = "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"


def parse(request):
    """The parts of a signature, wherever it stands."""
    query = urllib.parse.urlsplit(request["uri"]).query
    pairs = [item.partition("=")[::2] for item in query.split("&") if item]
    params = {name: urllib.parse.unquote(value) for name, value in pairs}
    headers = {name.lower(): value for name, value in request["headers"].items()}
    if "X-Amz-Signature" in params:
        assert "authorization" not in headers, "two signatures"
        assert params["X-Amz-Algorithm"] == "AWS4-HMAC-SHA256"
        assert 0 < int(params["X-Amz-Expires"]) <= 604800
        rest = "&".join(item for item in query.split("&") if not item.startswith("X-Amz-Signature="))
        return dict(presigned=True, credential=params["X-Amz-Credential"], signed=params["X-Amz-SignedHeaders"], signature=params["X-Amz-Signature"],
                    date=params["X-Amz-Date"], token=params.get("X-Amz-Security-Token"), hash=params.get("X-Amz-Content-Sha256"), query=rest), headers
    assert "X-Amz-" not in query, "a presigned query beside the header"
    algorithm, _, rest = headers["authorization"].partition(" ")
    assert algorithm == "AWS4-HMAC-SHA256"
    parts = dict(item.strip().split("=", 1) for item in rest.split(","))
    return dict(presigned=False, credential=parts["Credential"], signed=parts["SignedHeaders"], signature=parts["Signature"],
                date=headers["x-amz-date"], token=headers.get("x-amz-security-token"), hash=headers.get("x-amz-content-sha256"), query=query), headers


def signer(keys, service, region, presigned):
    s3 = service.startswith("s3")
    kind = auth.S3SigV4Auth if s3 else auth.SigV4Auth
    return kind(Credentials(keys["id"], keys["secret"], keys["token"] or None), service, region)


def chunks(body, key, date, scope, seed, trailer):
    """The decoded body, if every signature in it is right."""
    def sign(algorithm, last, *rest):
        text = "\n".join([algorithm, date, scope, last, *rest])
        return hmac.new(key, text.encode(), hashlib.sha256).hexdigest()

    out, last = b"", seed
    while True:
        line, _, body = body.partition(b"\r\n")
        size, _, signature = line.decode().partition(";chunk-signature=")
        data, body = body[:int(size, 16)], body[int(size, 16):]
        last = sign("AWS4-HMAC-SHA256-PAYLOAD", last, hashlib.sha256(b"").hexdigest(), hashlib.sha256(data).hexdigest())
        assert hmac.compare_digest(last, signature), "a chunk's signature"
        out += data
        if data:
            assert body[:2] == b"\r\n"
            body = body[2:]
            continue
        if trailer:
            fields, _, end = body.partition(b"x-amz-trailer-signature:")
            lines = [f.strip() for f in fields.decode().split("\n") if f.strip()]
            text = "".join(f + "\n" for f in lines)
            assert end[64:] == b"\r\n\r\n", end
            assert end[:64].decode() == sign("AWS4-HMAC-SHA256-TRAILER", last, hashlib.sha256(text.encode()).hexdigest()), "the trailers' signature"
        else:
            assert body == b"\r\n", body
        return out


def verify(request):
    keys, body = request["keys"], base64.b64decode(request["body"] or "")
    said, headers = parse(request)
    key_id, day, region, service, end = said["credential"].split("/")
    assert key_id == keys["id"], "another key"
    assert end == "aws4_request" and said["date"].startswith(day)
    assert (said["token"] or "") == keys["token"], "another token"
    names = said["signed"].split(";")
    assert names == sorted(names) and "host" in names
    for name in headers:
        assert not name.startswith("x-amz-") or name in names, "not signed: " + name
    url = urllib.parse.urlsplit(request["uri"])._replace(query=said["query"])
    asked = AWSRequest(method=request["method"], url=url.geturl(), data=body)
    for name in names:
        if name != "host":
            asked.headers[name] = headers[name]
    payload = said["hash"]
    if payload is None:
        payload = "UNSIGNED-PAYLOAD" if service.startswith("s3") else hashlib.sha256(body).hexdigest()
    elif len(payload) == 64:
        assert payload == hashlib.sha256(body).hexdigest(), "the body's hash"
    asked.headers.replace_header("X-Amz-Content-SHA256", payload) if "X-Amz-Content-SHA256" in asked.headers else None
    asked.context["timestamp"] = said["date"]
    by = signer(keys, service, region, said["presigned"])
    canonical = "\n".join([
        request["method"].upper(), by._normalize_url_path(url.path or "/"), by.canonical_query_string(asked),
        by.canonical_headers(by.headers_to_sign(asked)) + "\n", said["signed"], payload])
    assert by.signed_headers(by.headers_to_sign(asked)) == said["signed"], by.signed_headers(by.headers_to_sign(asked))
    assert hmac.compare_digest(by.signature(by.string_to_sign(asked, canonical), asked), said["signature"]), canonical
    if payload.startswith(STREAMING):
        key = ("AWS4" + keys["secret"]).encode()
        for part in (day, region, service, end):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        body = chunks(body, key, said["date"], "/".join((day, region, service, end)), said["signature"], payload.endswith("-TRAILER"))
        assert len(body) == int(headers["x-amz-decoded-content-length"])
    if request.get("now"):
        sent = datetime.datetime.strptime(said["date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
        assert abs(sent.timestamp() - request["now"]) < 300, "the time"
    return {"valid": True, "presigned": said["presigned"], "payload": payload, "sha256": hashlib.sha256(body).hexdigest(), "size": len(body)}


for line in sys.stdin:
    try:
        verdict = verify(json.loads(line))
    except Exception as e:  # of whatever kind: it is no valid request
        verdict = {"valid": False, "error": repr(e)}
    print(json.dumps(verdict))
