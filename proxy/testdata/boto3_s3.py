"""Uses an S3 server through AWS's SDK for Python with keys that mean nothing. Prints what is not as it should be."""

import io
import os
import sys
import urllib.error
import urllib.request

import boto3
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import ClientError

s3 = boto3.client("s3", endpoint_url=sys.argv[1], region_name="us-east-1", aws_access_key_id="AKIAPLACEHOLDER", aws_secret_access_key="placeholder",
                  verify=os.environ["SSL_CERT_FILE"], config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, retries={"max_attempts": 1}))


def want(what, got, expected):
    if got != expected:
        print(f"{what}: got {got!r}, want {expected!r}")


KEYS = ["plain", "a b/c+d=e~'()!*;,:@&$", "ü/€", "dir//double", "percent%20 and %2F", "-._~"]
s3.create_bucket(Bucket="bucket")
for i, key in enumerate(KEYS):
    body = key.encode() * (i * 1000)
    s3.put_object(Bucket="bucket", Key=key, Body=body, Metadata={"note": "a  b"}, ContentType="text/x-test")
    got = s3.get_object(Bucket="bucket", Key=key)
    want(key, (got["Body"].read(), [note.split() for note in got["Metadata"].values()], got["ContentType"]), (body, [["a", "b"]], "text/x-test"))
    want(key + " presigned", urllib.request.urlopen(s3.generate_presigned_url("get_object", Params={"Bucket": "bucket", "Key": key})).read(), body)
big = os.urandom(11 << 20)
s3.upload_fileobj(io.BytesIO(big), "bucket", "big", Config=TransferConfig(multipart_threshold=5 << 20, multipart_chunksize=5 << 20, max_concurrency=3))
want("multipart", s3.get_object(Bucket="bucket", Key="big")["Body"].read() == big, True)
want("range", s3.get_object(Bucket="bucket", Key="big", Range="bytes=5-9")["Body"].read(), big[5:10])
want("list", [item["Key"] for item in s3.list_objects_v2(Bucket="bucket", Prefix="a b/c+d=e~'()!*;,:@&$")["Contents"]], [KEYS[1]])
put = urllib.request.Request(s3.generate_presigned_url("put_object", Params={"Bucket": "bucket", "Key": "put"}), data=b"presigned", method="PUT")
urllib.request.urlopen(put).read()
want("presigned put", s3.get_object(Bucket="bucket", Key="put")["Body"].read(), b"presigned")
s3.copy_object(Bucket="bucket", Key="copy", CopySource={"Bucket": "bucket", "Key": "ü/€"})
want("copy", s3.head_object(Bucket="bucket", Key="copy")["ContentLength"], len("ü/€".encode() * 2000))
s3.delete_objects(Bucket="bucket", Delete={"Objects": [{"Key": key} for key in ("copy", "put")]})
try:
    s3.get_object(Bucket="bucket", Key="put")
    print("still there after delete")
except ClientError as e:
    want("gone", e.response["Error"]["Code"], "NoSuchKey")
print("done")
