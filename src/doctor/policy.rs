//! The smallest policy for a role, in each service's own words.
//!
//! AWS: actions and condition keys of the service authorization references of S3 and KMS. What no server of the tests enforces is
//! labelled so in the text.

use serde_json::{Value, json};

use super::Role;
use crate::crypto::kms::{APPLICATION, KeyOperation};
use crate::store::{BucketUrl, RootId, Service};

/// A policy, and where it belongs.
#[derive(Debug, Clone, PartialEq)]
pub struct Policy {
    /// For a person.
    pub title: String,
    /// JSON, or a command line.
    pub body: Value,
}

/// The policies that give `role` what it needs on a store, and on a key where there is one.
#[must_use]
pub fn policies(role: Role, store: &BucketUrl, root: &RootId, key: Option<&str>, application: &str) -> Vec<Policy> {
    let mut policies = match store.service {
        Service::S3 => s3(role, store, root),
        Service::Gcs => gcs(role, store),
        Service::Azure => azure(role, store),
    };
    let actions: Vec<String> = KeyOperation::ALL
        .into_iter()
        .filter(|operation| role.needs_key(*operation))
        .map(|operation| format!("kms:{}", operation.name()))
        .collect();
    if let Some(key) = key.filter(|_| !actions.is_empty()) {
        let mut statement = json!({ "Effect": "Allow", "Action": actions, "Resource": resource(key) });
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

/// A policy names keys by their ARN, and an alias by a condition.
fn resource(key: &str) -> String {
    match key {
        arn if arn.starts_with("arn:") => arn.to_owned(),
        alias if alias.starts_with("alias/") => "*".to_owned(),
        id => format!("arn:aws:kms:*:*:key/{id}"),
    }
}

fn document(statements: &[Value]) -> Value {
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn s3(role: Role, store: &BucketUrl, root: &RootId) -> Vec<Policy> {
    let bucket = format!("arn:aws:s3:::{}", store.bucket);
    let under = |path: &str| format!("{bucket}/{}", store.key(path));
    let (chunks, manifests) = (under(&format!("{root}/*")), under(&format!("manifests/{root}/*")));
    let allow =
        |actions: &[&str], resources: Value| json!({ "Effect": "Allow", "Action": actions, "Resource": resources });
    let statements = match role {
        Role::Converter => vec![allow(&["s3:PutObject"], json!([chunks, manifests]))],
        Role::Worker => vec![allow(&["s3:GetObject"], json!([chunks]))],
        Role::Verifier => {
            return vec![Policy {
                title: "a verifier needs the salt and the image, and no right on the store".to_owned(),
                body: Value::Null,
            }];
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
        // Only a put that keeps what is there has the header.
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
    let role_of = match role {
        // objectCreator cannot overwrite: that takes storage.objects.delete.
        Role::Converter => "roles/storage.objectCreator",
        Role::Worker => "a custom role with storage.objects.get alone",
        Role::Verifier => "none",
        Role::Collector => "a custom role with storage.objects.get, storage.objects.list and storage.objects.delete",
    };
    let body = json!({ "bucket": store.bucket, "role": role_of });
    vec![Policy { title: format!("role of the {role} on the bucket (not proven here)"), body }]
}

fn azure(role: Role, store: &BucketUrl) -> Vec<Policy> {
    // The letters of a shared access signature; `c` creates and cannot overwrite.
    let permissions = match role {
        Role::Converter => "c",
        Role::Worker => "r",
        Role::Verifier => "",
        Role::Collector => "rdl",
    };
    let body = json!({ "container": store.bucket, "sp": permissions, "sr": "c" });
    vec![Policy { title: format!("shared access signature of the {role} on the container"), body }]
}
