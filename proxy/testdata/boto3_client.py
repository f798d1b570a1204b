"""Uses AWS's SDK for Python with keys that mean nothing. Prints what came of each call as one JSON object."""

import json
import os
import sys
import urllib.request

import boto3
from botocore.config import Config

endpoint, root = sys.argv[1], os.environ["SSL_CERT_FILE"]
common = dict(endpoint_url=endpoint, region_name="eu-central-1", aws_access_key_id="AKIAPLACEHOLDER", aws_secret_access_key="placeholder",
              aws_session_token="placeholder", verify=root)
s3 = boto3.client("s3", config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}), **common)
ddb = boto3.client("dynamodb", **common)

KEY = "a b/ü+=~'()!*;/c"
out = {}
out["put"] = s3.put_object(Bucket="bucket", Key=KEY, Body=b"x" * 300_000, Metadata={"note": "a  b"})["ResponseMetadata"]["HTTPStatusCode"]
out["get"] = len(s3.get_object(Bucket="bucket", Key=KEY, Range="bytes=0-9")["Body"].read())
out["list"] = s3.list_objects_v2(Bucket="bucket", Prefix="a b/ü+", Delimiter="/")["KeyCount"]
out["delete"] = s3.delete_object(Bucket="bucket", Key=KEY)["ResponseMetadata"]["HTTPStatusCode"]
out["tables"] = ddb.list_tables(Limit=10)["TableNames"]
for method in ("get_object", "put_object"):
    url = s3.generate_presigned_url(method, Params={"Bucket": "bucket", "Key": KEY}, ExpiresIn=120)
    data = b"y" * 1000 if method == "put_object" else None
    with urllib.request.urlopen(urllib.request.Request(url, data=data, method=method[:3].upper())) as answer:
        out["presigned " + method] = answer.status
print(json.dumps(out))
