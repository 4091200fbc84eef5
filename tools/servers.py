"""servers.py URL OUT: buckets, keys and users in a moto server at URL, each user with a role's rights and no more; OUT gets their
credentials as JSON. Enforcement is on afterwards."""

import json
import sys
import urllib.request

import boto3

URL, OUT = sys.argv[1:]
AT = {"endpoint_url": URL, "region_name": "us-east-1", "aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
S3, IAM, KMS = (boto3.client(name, **AT) for name in ("s3", "iam", "kms"))


def allow(actions, resource="*"):
    # moto's KMS asks for rights on everything, whatever key is named.
    return {"Effect": "Allow", "Action": actions, "Resource": resource}


def user(name, *statements):
    IAM.create_user(UserName=name)
    policy = json.dumps({"Version": "2012-10-17", "Statement": list(statements)})
    IAM.put_user_policy(UserName=name, PolicyName="rights", PolicyDocument=policy)
    key = IAM.create_access_key(UserName=name)["AccessKey"]
    return {"AWS_ACCESS_KEY_ID": key["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"]}


S3.create_bucket(Bucket="chunks")
KEYS = [KMS.create_key()["KeyMetadata"]["Arn"] for _ in range(2)]
KMS.create_alias(AliasName="alias/shop", TargetKeyId=KEYS[0])
HMAC = KMS.create_key(KeyUsage="GENERATE_VERIFY_MAC", KeySpec="HMAC_256")["KeyMetadata"]["Arn"]
OBJECTS, BUCKET = "arn:aws:s3:::chunks/*", "arn:aws:s3:::chunks"
USERS = {
    "converter": user("converter", allow("s3:PutObject", OBJECTS), allow("kms:GenerateDataKey"), allow("kms:GenerateMac")),
    "worker": user("worker", allow("s3:GetObject", OBJECTS), allow("kms:Decrypt")),
    "reader": user("reader", allow("s3:GetObject", OBJECTS)),
    "rewrapper": user("rewrapper", allow("kms:Decrypt"), allow("kms:Encrypt")),
    "collector": user("collector", allow(["s3:GetObject", "s3:DeleteObject"], OBJECTS), allow("s3:ListBucket", BUCKET)),
    "nobody": user("nobody", allow("s3:PutObject", "arn:aws:s3:::another/*")),
    "admin": user("admin", allow("*")),
}
HEADERS = {"content-type": "text/plain"}
urllib.request.urlopen(urllib.request.Request(f"{URL}/moto-api/reset-auth", b"0", HEADERS, method="POST")).read()
with open(OUT, "w") as out:
    json.dump({"users": USERS, "keys": KEYS, "hmac": HMAC}, out, indent=1)
