//! The smallest policy for a role, in the policy language of each service.
//!
//! The actions and condition keys for AWS are those of the service authorization references of S3 and KMS. The title of a policy
//! says so where no server in the tests enforces it.

use serde_json::{Value, json};

use super::Role;
use crate::keys::kms::{APPLICATION, KeyOperation};
use crate::store::{BucketUrl, RootId, Service};

/// A policy, and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// Names the policy and the place where it belongs, for a person.
    pub title: String,
    /// JSON, or a command line.
    pub body: Value,
}

/// Returns the AWS partition of a Region, which is the second part of every ARN in it; without a Region, `aws`.
#[must_use]
pub fn partition(region: Option<&str>) -> &'static str {
    let starts = [
        ("cn-", "aws-cn"),
        ("us-gov-", "aws-us-gov"),
        ("us-isob-", "aws-iso-b"),
        ("us-isof-", "aws-iso-f"),
        ("eu-isoe-", "aws-iso-e"),
        ("us-iso-", "aws-iso"),
        ("eusc-", "aws-eusc"),
    ];
    let region = region.unwrap_or_default();
    starts.iter().find(|(start, _)| region.starts_with(start)).map_or("aws", |(_, partition)| partition)
}

/// Returns the Region that the environment or the profile names.
#[must_use]
pub fn configured_region() -> Option<String> {
    crate::net::aws::configured_region()
}

/// Returns the policies that give `role` the permissions it needs on a store in the Region `region`, and on the key if one is
/// given.
#[must_use]
pub fn policies(
    role: Role,
    (store, root): (&BucketUrl, &RootId),
    (key, application): (Option<&str>, &str),
    region: Option<&str>,
) -> Vec<Policy> {
    let partition = partition(region);
    let mut policies = match store.service {
        Service::S3 if store.bucket.ends_with("--x-s3") => express(role, store, partition),
        Service::S3 => s3(role, store, root, partition),
        Service::Gcs => gcs(role, store),
        Service::Azure => azure(role, store),
    };
    let actions: Vec<String> = KeyOperation::ALL
        .into_iter()
        .filter(|operation| role.needs_key(*operation))
        .map(|operation| format!("kms:{}", operation.name()))
        .collect();
    if let Some(key) = key.filter(|_| !actions.is_empty()) {
        let mut statement = json!({ "Effect": "Allow", "Action": actions, "Resource": resource(key, partition) });
        let mut conditions = serde_json::Map::new();
        if key.starts_with("alias/") {
            conditions.insert("kms:RequestAlias".to_owned(), json!(key));
        }
        if !application.is_empty() {
            conditions.insert(format!("kms:EncryptionContext:{APPLICATION}"), json!(application));
        }
        if !conditions.is_empty() {
            statement["Condition"] = json!({ "StringEquals": conditions });
        }
        policies.push(Policy {
            title: format!("identity policy of the {role}, for the key"),
            body: document(&[statement]),
        });
    }
    policies
}

/// Returns the resource of a policy for `key`. A policy names keys by their ARN, and an alias by a condition; a multi-Region key
/// has an ARN in each of its Regions.
fn resource(key: &str, partition: &str) -> String {
    match key {
        arn if arn.starts_with("arn:") => match arn.split(':').collect::<Vec<_>>()[..] {
            [arn, partition, kms, _, account, key] if key.starts_with("key/mrk-") => {
                [arn, partition, kms, "*", account, key].join(":")
            }
            _ => arn.to_owned(),
        },
        alias if alias.starts_with("alias/") => "*".to_owned(),
        id => format!("arn:{partition}:kms:*:*:key/{id}"),
    }
}

fn document(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

/// Returns the policy for S3 Express One Zone, which has permissions for sessions alone: a session that can write can also read,
/// list and delete.
fn express(role: Role, store: &BucketUrl, partition: &str) -> Vec<Policy> {
    let mode = match role {
        Role::Verifier => return vec![Policy { title: NOTHING.to_owned(), body: Value::Null }],
        Role::Worker => "ReadOnly",
        Role::Converter | Role::Collector => "ReadWrite",
    };
    let session = json!({
        "Effect": "Allow", "Action": ["s3express:CreateSession"],
        "Resource": format!("arn:{partition}:s3express:*:*:bucket/{}", store.bucket),
        "Condition": { "StringEquals": { "s3express:SessionMode": mode } },
    });
    let title = format!(
        "identity policy of the {role}: a session, which can do more than the role where it writes (not proven here)"
    );
    vec![Policy { title, body: document(&[session]) }]
}

fn s3(role: Role, store: &BucketUrl, root: &RootId, partition: &str) -> Vec<Policy> {
    // Of an access point, the store's URL has the ARN; its objects stand behind `object`.
    let (bucket, objects) = if store.bucket.starts_with("arn:") {
        (store.bucket.clone(), format!("{}/object", store.bucket))
    } else {
        let bucket = format!("arn:{partition}:s3:::{}", store.bucket);
        (bucket.clone(), bucket)
    };
    let under = |path: &str| format!("{objects}/{}", store.key(path));
    let (chunks, manifests) = (under(&format!("{root}/*")), under(&format!("manifests/{root}/*")));
    let allow =
        |actions: &[&str], resources: Value| json!({ "Effect": "Allow", "Action": actions, "Resource": resources });
    let statements = match role {
        Role::Converter => vec![allow(&["s3:PutObject"], json!([chunks, manifests]))],
        Role::Worker => vec![allow(&["s3:GetObject"], json!([chunks]))],
        Role::Verifier => {
            return vec![Policy { title: NOTHING.to_owned(), body: Value::Null }];
        }
        Role::Collector => {
            let mut list = allow(&["s3:ListBucket"], json!(bucket));
            let prefixes = json!([store.key(&format!("{root}/*")), store.key(&format!("manifests/{root}/*"))]);
            list["Condition"] = json!({ "StringLike": { "s3:prefix": prefixes } });
            vec![allow(&["s3:GetObject", "s3:DeleteObject"], json!([chunks, manifests])), list]
        }
    };
    let mut policies = vec![Policy { title: format!("identity policy of the {role}"), body: document(&statements) }];
    if role == Role::Converter {
        // Only an upload that does not overwrite has the header.
        let keep = json!({
            "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": [chunks, manifests],
            "Condition": { "Null": { "s3:if-none-match": "true" } },
        });
        let title =
            "bucket policy that refuses to overwrite (not proven here: the servers of the tests ignore its condition)";
        policies.push(Policy { title: title.to_owned(), body: document(&[keep]) });
    }
    policies
}

fn gcs(role: Role, store: &BucketUrl) -> Vec<Policy> {
    if role == Role::Verifier {
        return vec![Policy { title: NOTHING.to_owned(), body: Value::Null }];
    }
    // Without `delete`, nothing can be overwritten.
    let (permissions, predefined): (&[&str], Option<&str>) = match role {
        Role::Converter => (&["storage.objects.create"], Some("roles/storage.objectCreator")),
        Role::Worker => (&["storage.objects.get"], None),
        Role::Verifier => (&[], None),
        Role::Collector => (&["storage.objects.get", "storage.objects.list", "storage.objects.delete"], None),
    };
    let mut body = json!({ "bucket": store.bucket, "includedPermissions": permissions });
    if let Some(predefined) = predefined {
        body["predefinedRole"] = json!(predefined);
    }
    let title = format!("custom role of the {role} on the bucket (tried against an imitation of Google only)");
    vec![Policy { title, body }]
}

fn azure(role: Role, store: &BucketUrl) -> Vec<Policy> {
    // The permission letters of a shared access signature; `c` creates and cannot overwrite.
    let permissions = match role {
        Role::Converter => "c",
        Role::Worker => "r",
        Role::Verifier => "",
        Role::Collector => "rdl",
    };
    if role == Role::Verifier {
        return vec![Policy { title: NOTHING.to_owned(), body: Value::Null }];
    }
    let body = json!({ "container": store.bucket, "sp": permissions, "sr": "c" });
    let signature = Policy { title: format!("shared access signature of the {role} on the container"), body };
    // `add` creates and cannot overwrite; listing needs only the permission to read.
    let blobs = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs";
    let actions: &[&str] = match role {
        Role::Converter => &["add/action"],
        Role::Worker => &["read"],
        Role::Verifier => &[],
        Role::Collector => &["read", "delete"],
    };
    let actions: Vec<String> = actions.iter().map(|action| format!("{blobs}/{action}")).collect();
    let title = format!(
        "or, for a workload identity of the {role}, a custom role with these data actions on the container (not proven here)"
    );
    vec![signature, Policy { title, body: json!({ "dataActions": actions }) }]
}

const NOTHING: &str = "a verifier needs the salt and the image, and no permission on the store";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::StoreUrl;

    /// The resources and the letters of all policies of a role.
    fn text(role: Role, store: &str, key: &str, region: Option<&str>) -> String {
        let Ok(StoreUrl::Bucket(url)) = StoreUrl::parse(store.as_ref()) else { panic!("a bucket") };
        let policies = policies(role, (&url, &"main".parse().unwrap()), (Some(key), ""), region);
        policies.iter().map(|policy| policy.body.to_string()).collect()
    }

    #[test]
    fn arns_are_of_the_regions_partition() {
        for (region, partition) in [
            (None, "aws"),
            (Some("eu-central-1"), "aws"),
            (Some("cn-northwest-1"), "aws-cn"),
            (Some("us-gov-west-1"), "aws-us-gov"),
            (Some("us-iso-east-1"), "aws-iso"),
            (Some("us-isob-east-1"), "aws-iso-b"),
            (Some("eusc-de-east-1"), "aws-eusc"),
        ] {
            let text = text(Role::Converter, "s3://chunks/p", "1234", region);
            for arn in
                [format!("\"arn:{partition}:s3:::chunks/p/main/*\""), format!("\"arn:{partition}:kms:*:*:key/1234\"")]
            {
                assert!(text.contains(&arn), "{region:?}: {text}");
            }
        }
    }

    #[test]
    fn access_points_and_express_buckets_have_their_own_resources() {
        let point = "arn:aws-cn:s3:cn-north-1:111122223333:accesspoint/ap";
        let collector = text(Role::Collector, &format!("s3://{point}/p"), "k", None);
        for resource in [format!("\"{point}/object/p/main/*\""), format!("\"Resource\":\"{point}\"")] {
            assert!(collector.contains(&resource), "{collector}");
        }
        let express = |role| text(role, "s3://fast--use1-az4--x-s3/p", "k", Some("us-east-1"));
        let worker = express(Role::Worker);
        assert!(
            worker.contains("\"arn:aws:s3express:*:*:bucket/fast--use1-az4--x-s3\"") && worker.contains("\"ReadOnly\"")
        );
        assert!(express(Role::Converter).contains("\"ReadWrite\"") && !worker.contains("s3:GetObject"));
    }

    #[test]
    fn a_multi_region_key_is_allowed_in_all_its_regions() {
        let key = "arn:aws:kms:us-east-1:111122223333:key/mrk-12";
        assert!(text(Role::Worker, "s3://b", key, None).contains("\"arn:aws:kms:*:111122223333:key/mrk-12\""));
        let single = "arn:aws:kms:us-east-1:111122223333:key/12";
        assert!(text(Role::Worker, "s3://b", single, None).contains(single));
    }
}
