//! Where a store is: a directory, or a bucket and a prefix in it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

/// A store's place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreUrl {
    /// A directory of this machine.
    Directory(PathBuf),
    /// A bucket of a service.
    Bucket(BucketUrl),
}

/// `SCHEME://BUCKET/PREFIX`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BucketUrl {
    /// Which kind of service.
    pub service: Service,
    /// The bucket; with Azure, the container.
    pub bucket: String,
    /// Stands before every object's name; no slash at its ends, may be empty.
    pub prefix: String,
}

/// A kind of object store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Service {
    /// S3, and what speaks like it.
    S3,
    /// Google Cloud Storage.
    Gcs,
    /// Azure Blob Storage.
    Azure,
}

/// A text that names no store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a store: {1}")]
pub struct ParseStoreError(String, &'static str);

impl Service {
    const ALL: [Self; 3] = [Self::S3, Self::Gcs, Self::Azure];

    /// How its URLs start.
    #[must_use]
    pub fn scheme(self) -> &'static str {
        match self {
            Self::S3 => "s3",
            Self::Gcs => "gs",
            Self::Azure => "az",
        }
    }
}

impl StoreUrl {
    /// From what stands on a command line: a URL, else a directory's path.
    ///
    /// # Errors
    /// [`ParseStoreError`], saying what is wrong.
    pub fn parse(text: &OsStr) -> Result<Self, ParseStoreError> {
        let Some((scheme, rest)) = text.to_str().and_then(|text| text.split_once("://")) else {
            return match text.is_empty() {
                true => Err(ParseStoreError(String::new(), "it is empty")),
                false => Ok(Self::Directory(text.into())),
            };
        };
        let refuse = |reason| Err(ParseStoreError(text.to_string_lossy().into_owned(), reason));
        if scheme == "file" {
            return match rest.starts_with('/') {
                true => Ok(Self::Directory(rest.into())),
                false => refuse("file:// takes an absolute path, as in file:///srv/store"),
            };
        }
        let Some(service) = Service::ALL.into_iter().find(|service| service.scheme() == scheme) else {
            return refuse(
                "use a directory, file:///DIR, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX",
            );
        };
        let (bucket, prefix) = split_bucket(rest);
        let prefix = prefix.trim_end_matches('/');
        let letter = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        if bucket.starts_with("arn:") {
            if service != Service::S3 || !is_access_point(bucket) {
                return refuse(
                    "of ARNs, only those of access points in one region name a store: \
                     s3://arn:aws:s3:REGION:ACCOUNT:accesspoint/NAME/PREFIX",
                );
            }
        } else if bucket.is_empty() || !bucket.chars().all(letter) {
            return refuse("its bucket is empty or has characters that buckets' names have not");
        }
        let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.chars().all(letter);
        if !prefix.is_empty() && !prefix.split('/').all(part) {
            return refuse(
                "its prefix has an empty part, or characters besides letters, digits, `.`, `_`, `-` and `/`",
            );
        }
        Ok(Self::Bucket(BucketUrl { service, bucket: bucket.to_owned(), prefix: prefix.to_owned() }))
    }

    /// The directory, where it is one.
    #[must_use]
    pub fn directory(&self) -> Option<&Path> {
        match self {
            Self::Directory(path) => Some(path),
            Self::Bucket(_) => None,
        }
    }
}

/// Whether a block manifest may have `text` as its store hint: nothing, a directory's absolute path, or a bucket's URL.
#[must_use]
pub fn is_store_hint(text: &str) -> bool {
    let is_bucket = || match StoreUrl::parse(text.as_ref()) {
        Ok(url @ StoreUrl::Bucket(_)) => url.to_string() == text,
        _ => false,
    };
    text.is_empty() || text.starts_with('/') || is_bucket()
}

/// The bucket and the prefix of `BUCKET/PREFIX`; an access point's ARN has a slash of its own.
fn split_bucket(text: &str) -> (&str, &str) {
    let before = if text.starts_with("arn:") { text.find('/').map_or(0, |at| at + 1) } else { 0 };
    match text[before..].find('/') {
        Some(at) => (&text[..before + at], &text[before + at + 1..]),
        None => (text, ""),
    }
}

/// Whether a text is `arn:PARTITION:s3:REGION:ACCOUNT:accesspoint/NAME`.
fn is_access_point(text: &str) -> bool {
    let word = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    match text.split(':').collect::<Vec<_>>()[..] {
        ["arn", partition, "s3", region, account, name] => {
            [partition, region, account].into_iter().all(word) && name.strip_prefix("accesspoint/").is_some_and(word)
        }
        _ => false,
    }
}

impl BucketUrl {
    /// The region that an access point's ARN names.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        self.bucket.strip_prefix("arn:")?.split(':').nth(2)
    }

    /// The key of the object `name` in the bucket.
    #[must_use]
    pub fn key(&self, name: &str) -> String {
        if self.prefix.is_empty() { name.to_owned() } else { format!("{}/{name}", self.prefix) }
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => path.display().fmt(f),
            Self::Bucket(url) => url.fmt(f),
        }
    }
}

impl fmt::Display for BucketUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let separator = if self.prefix.is_empty() { "" } else { "/" };
        write!(f, "{}://{}{separator}{}", self.service.scheme(), self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_names_a_store_and_what_does_not() {
        let parse = |text: &str| StoreUrl::parse(text.as_ref());
        for (text, shown) in [
            ("store", "store"),
            ("./a:b", "./a:b"),
            ("file:///srv/store", "/srv/store"),
            ("s3://bucket", "s3://bucket"),
            ("s3://bucket/", "s3://bucket"),
            ("s3://bucket/a/b/", "s3://bucket/a/b"),
            ("gs://b/p", "gs://b/p"),
            ("az://c/p", "az://c/p"),
            ("s3://fast--use1-az4--x-s3/p", "s3://fast--use1-az4--x-s3/p"),
            (
                "s3://arn:aws-cn:s3:cn-north-1:1:accesspoint/ap/a/b",
                "s3://arn:aws-cn:s3:cn-north-1:1:accesspoint/ap/a/b",
            ),
            ("s3://arn:aws:s3:eu-west-1:1:accesspoint/ap", "s3://arn:aws:s3:eu-west-1:1:accesspoint/ap"),
        ] {
            assert_eq!(parse(text).map(|url| url.to_string()).as_deref(), Ok(shown), "{text}");
        }
        for text in [
            "",
            "s3://arn:aws:s3::1:accesspoint/x.mrap/p",
            "s3://arn:aws:s3:::b/p",
            "gs://arn:aws:s3:r:1:accesspoint/x",
            "s3://",
            "s3:///p",
            "s3://b//p",
            "s3://b/../p",
            "s3://b/p?q",
            "s3://k:s@b/p",
            "ftp://b",
            "file://p",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        for hint in ["", "/srv/store", "s3://bucket", "gs://b/p", "az://c/p/q"] {
            assert!(is_store_hint(hint), "{hint}");
        }
        for hint in ["relative/x", ".", "http://attacker/evil", "file:///srv/store", "s3://bucket/", "s3://b/../p"] {
            assert!(!is_store_hint(hint), "{hint}");
        }
        let StoreUrl::Bucket(url) = parse("s3://bucket/a").unwrap() else { panic!("a bucket") };
        assert_eq!(url.key("main/x"), "a/main/x");
        assert_eq!(url.region(), None);
        let StoreUrl::Bucket(url) = parse("s3://arn:aws:s3:eu-west-1:1:accesspoint/ap/a").unwrap() else {
            panic!("a bucket")
        };
        assert_eq!((url.region(), url.prefix.as_str()), (Some("eu-west-1"), "a"));
    }
}
