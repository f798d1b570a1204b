"""Verifies tokens with PyJWT, as a server does. One JSON object per line in, the claims and the header out."""
import json
import sys

import jwt

for line in sys.stdin:
    sent = json.loads(line)
    try:
        verdict = {
            "claims": jwt.decode(sent["token"], sent["key"], algorithms=[sent["algorithm"]], audience=sent.get("audience", "api") or None,
                                 options={"require": sent.get("require", ["iat", "exp", "nbf", "jti"])}),
            "header": jwt.get_unverified_header(sent["token"]),
        }
    except jwt.PyJWTError as err:
        verdict = {"error": repr(err)}
    print(json.dumps(verdict), flush=True)
