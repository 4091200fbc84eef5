//! Names of images in registries: `[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`, short ones being Docker Hub's.

use std::fmt;
use std::str::FromStr;

use crate::digest::{ContentDigest, Sha256};

/// The host that short names mean.
const DOCKER_HUB: &str = "docker.io";
/// Where its registry answers.
const DOCKER_HUB_API: &str = "registry-1.docker.io";
const MAX_NAME: usize = 255;
const MAX_TAG: usize = 128;

/// A repository of a registry, and what of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RegistryRef {
    /// `HOST[:PORT]`.
    pub host: String,
    /// `library/debian`.
    pub repository: String,
    /// The tag, where one is given.
    pub tag: Option<String>,
    /// The digest, which is what counts where it is given.
    pub digest: Option<ContentDigest>,
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an image name; use docker://[HOST[:PORT]/]REPOSITORY[:TAG][@sha256:HEX]")]
pub struct ParseRegistryRefError(String);

impl RegistryRef {
    /// The host that is asked.
    #[must_use]
    pub fn api_host(&self) -> &str {
        if self.host == DOCKER_HUB { DOCKER_HUB_API } else { &self.host }
    }

    /// What a client asks for: the digest, else the tag, else `latest`.
    #[must_use]
    pub fn what(&self) -> String {
        match (&self.digest, &self.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => "latest".to_owned(),
        }
    }

    /// The same repository, and the manifest `digest`.
    #[must_use]
    pub fn at(&self, digest: Sha256) -> Self {
        Self { tag: None, digest: Some(digest.into()), ..self.clone() }
    }

    /// The names under which its credentials may be kept, the most precise first.
    #[must_use]
    pub fn credential_names(&self) -> Vec<String> {
        if self.host == DOCKER_HUB {
            return vec!["https://index.docker.io/v1/".to_owned(), DOCKER_HUB.to_owned()];
        }
        let mut path = format!("{}/{}", self.host, self.repository);
        let mut names = vec![path.clone()];
        while let Some((above, _)) = path.rsplit_once('/') {
            path = above.to_owned();
            names.push(path.clone());
        }
        names
    }
}

fn is_host(text: &str) -> bool {
    let (host, port) = match text.rsplit_once(':') {
        // An IPv6 address has its own colons.
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => (host, Some(port)),
        _ => (text, None),
    };
    let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
    let plain = |host: &str| host.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-'));
    let hex = |host: &str| host.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b':');
    let host = address.map_or_else(
        || host.starts_with(|c: char| c.is_ascii_alphanumeric()) && plain(host),
        |host| !host.is_empty() && hex(host),
    );
    // An address that no client takes is none, such as 1.2.3.4.5.
    host && port.is_none_or(|port| port.parse::<u16>().is_ok())
        && reqwest::Url::parse(&format!("https://{text}/")).is_ok()
}

fn is_repository(text: &str) -> bool {
    let lower = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let part = |part: &str| {
        part.bytes().all(|byte| lower(byte) || matches!(byte, b'.' | b'_' | b'-'))
            && part.bytes().next().is_some_and(lower)
            && part.bytes().last().is_some_and(lower)
            && !part.contains("..")
    };
    text.len() <= MAX_NAME && text.split('/').all(part)
}

fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    text.len() <= MAX_TAG
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

impl FromStr for RegistryRef {
    type Err = ParseRegistryRefError;

    fn from_str(text: &str) -> Result<Self, ParseRegistryRefError> {
        let error = || ParseRegistryRefError(text.to_owned());
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest.parse().map_err(|_| error())?)),
            None => (text, None),
        };
        let (rest, tag) = match rest.rsplit_once(':') {
            Some((rest, tag)) if !tag.contains('/') => (rest, Some(tag.to_owned())),
            _ => (rest, None),
        };
        let is_named = |host: &str| host.contains(['.', ':']) || host == "localhost";
        let (host, repository) = match rest.split_once('/') {
            Some((host, repository)) if is_named(host) => (host, repository.to_owned()),
            Some(_) => (DOCKER_HUB, rest.to_owned()),
            None => (DOCKER_HUB, rest.to_owned()),
        };
        let host = if host == "index.docker.io" { DOCKER_HUB } else { host };
        let short = host == DOCKER_HUB && !repository.contains('/');
        let repository = if short { format!("library/{repository}") } else { repository };
        let good = is_host(host) && is_repository(&repository) && tag.as_deref().is_none_or(is_tag);
        if good { Ok(Self { host: host.to_owned(), repository, tag, digest }) } else { Err(error()) }
    }
}

impl fmt::Display for RegistryRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "docker://{}/{}", self.host, self.repository)?;
        self.tag.as_ref().map_or(Ok(()), |tag| write!(f, ":{tag}"))?;
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let digest = Sha256::of(b"x");
        for (text, shown) in [
            ("debian", "docker://docker.io/library/debian".to_owned()),
            ("debian:12", "docker://docker.io/library/debian:12".to_owned()),
            ("team/app", "docker://docker.io/team/app".to_owned()),
            ("docker.io/debian:12", "docker://docker.io/library/debian:12".to_owned()),
            ("index.docker.io/team/app", "docker://docker.io/team/app".to_owned()),
            ("localhost/app", "docker://localhost/app".to_owned()),
            ("localhost:5000/app", "docker://localhost:5000/app".to_owned()),
            ("127.0.0.1:5000/a/b-c/d_e:v1.2", "docker://127.0.0.1:5000/a/b-c/d_e:v1.2".to_owned()),
            ("[::1]:5000/app", "docker://[::1]:5000/app".to_owned()),
            (&format!("r.example/app:v1@{digest}"), format!("docker://r.example/app:v1@{digest}")),
        ] {
            assert_eq!(text.parse::<RegistryRef>().unwrap().to_string(), shown);
        }
        for text in [
            "",
            "App",
            "a//b",
            "a:b:c",
            "r.example/",
            "x@sha256:1",
            "-a",
            "a:",
            "h.x:99999999/a",
            "a b",
            "a..b",
            "../x",
            "256.256.256.256/a",
            "1.2.3.4.5/a",
            "[::::]:5000/a",
        ] {
            assert!(text.parse::<RegistryRef>().is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_asked_for_and_whose_credentials_are_used() {
        let of = |text: &str| text.parse::<RegistryRef>().unwrap();
        assert_eq!(of("debian").what(), "latest");
        assert_eq!(of("debian").api_host(), "registry-1.docker.io");
        assert_eq!(of("r.x/a/b").credential_names(), ["r.x/a/b", "r.x/a", "r.x"]);
        assert_eq!(of("debian").credential_names()[0], "https://index.docker.io/v1/");
    }
}
