"""Verifies OAuth 1.0 requests with oauthlib, as a server does. One JSON request per line in, one JSON verdict out."""
import base64
import hashlib
import json
import sys

from oauthlib.oauth1 import RequestValidator, SignatureOnlyEndpoint

METHODS = ("HMAC-SHA1", "HMAC-SHA256", "RSA-SHA1", "PLAINTEXT")


class Validator(RequestValidator):
    allowed_signature_methods = METHODS
    enforce_ssl = False
    dummy_client = "dummy"

    def __init__(self, sent):
        super().__init__()
        self.sent = sent

    def check_client_key(self, key):
        return key == self.sent["consumer_key"]

    def check_nonce(self, nonce):
        return len(nonce) > 15

    def validate_timestamp_and_nonce(self, key, timestamp, nonce, request, **_):
        return (request.resource_owner_key or "") == self.sent["token"]

    def validate_client_key(self, key, request):
        return key == self.sent["consumer_key"]

    def get_client_secret(self, key, request):
        return self.sent["consumer_secret"]

    def get_access_token_secret(self, key, token, request):
        return self.sent["token_secret"]

    def get_rsa_key(self, key, request):
        return self.sent["public_key"]


def body_hash(method, body):
    digest = hashlib.sha256 if method == "HMAC-SHA256" else hashlib.sha1
    return base64.b64encode(digest(body).digest()).decode()


for line in sys.stdin:
    sent = json.loads(line)
    body = base64.b64decode(sent["body"])
    try:
        valid, request = SignatureOnlyEndpoint(Validator(sent)).validate_request(
            sent["uri"], sent["method"], body.decode("latin-1"), sent["headers"])
        hashed = request.oauth_params.get("oauth_body_hash") if request else None
        verdict = {
            "valid": bool(valid),
            "nonce": request.nonce if request else "",
            "hash": "absent" if hashed is None else "right" if hashed == body_hash(request.signature_method, body) else "wrong",
        }
    except ValueError as err:
        verdict = {"valid": False, "error": str(err)}
    print(json.dumps(verdict), flush=True)
