//! Image references in skopeo's transport names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::digest::ContentDigest;
use crate::registry::{ParseRegistryRefError, RegistryRef};

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// `oci:DIR[:TAG][@DIGEST]`: an OCI image layout.
    OciLayout {
        /// The layout's directory.
        directory: PathBuf,
        /// The `org.opencontainers.image.ref.name` of the image.
        tag: Option<String>,
        /// The digest of a manifest or an index in it; wins over the tag.
        digest: Option<ContentDigest>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI image layout.
    OciArchive {
        /// The archive; `-` is standard input.
        file: PathBuf,
        /// As above.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`: what `docker save` writes.
    DockerArchive {
        /// The archive; `-` is standard input.
        file: PathBuf,
        /// One of the image's names in it.
        reference: Option<String>,
    },
    /// `dir:DIR`: a manifest and its blobs in one directory, as skopeo writes them.
    Directory {
        /// The directory.
        directory: PathBuf,
    },
    /// `docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`: an image in a registry.
    Registry(RegistryRef),
    /// `docker-daemon:REF`: in docker's engine, or one that answers as it does.
    DockerDaemon {
        /// A name with or without a tag, a name with a digest, or an image id.
        reference: String,
    },
    /// `containers-storage:REF`: in the storage of podman and buildah, read by one of their programs.
    ContainersStorage {
        /// A name with or without a tag, a name with a digest, or an image id.
        reference: String,
    },
    /// `tar:FILE`: the tar of a root file system, plain or compressed.
    Tar {
        /// The tar; `-` is standard input.
        file: PathBuf,
    },
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{text}` is not an image reference: {reason}")]
pub struct ParseImageRefError {
    text: String,
    reason: String,
}

/// Every transport.
const TRANSPORTS: [&str; 8] =
    ["docker", "oci", "oci-archive", "docker-archive", "dir", "docker-daemon", "containers-storage", "tar"];

/// How similar a word must be to a transport to be a mistyped one, from 0 to 1. Measured with 473 words that have one letter too few, too
/// many, swapped or replaced by its neighbour on the keyboard: 92 of 100 are corrected at 0.8, and 97 at 0.75, where common names of
/// images (`trace`, `disk`) count as mistyped, too.
const SIMILAR: f64 = 0.8;

/// Every form, for messages.
const FORMS: &str = "use docker://REF, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF], dir:DIR, docker-daemon:REF, \
                     containers-storage:REF or tar:FILE";

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(text: &str) -> Result<Self, ParseImageRefError> {
        let error = |reason: String| ParseImageRefError { text: text.to_owned(), reason };
        if let Some(name) = text.strip_prefix("docker://") {
            return name.parse().map(Self::Registry).map_err(|refused| error(why_no_name(name, &refused)));
        }
        let (transport, rest) = text.split_once(':').filter(|(_, rest)| !rest.is_empty()).unwrap_or((text, ""));
        let engine = |of: fn(String) -> Self| match names_an_image(rest) {
            true => Ok(of(rest.to_owned())),
            false => Err(error(format!("`{rest}` is not an image name"))),
        };
        match transport {
            _ if rest.is_empty() => return Err(error(without_transport(text))),
            "docker-daemon" => return engine(|reference| Self::DockerDaemon { reference }),
            "containers-storage" => return engine(|reference| Self::ContainersStorage { reference }),
            "tar" => return Ok(Self::Tar { file: rest.into() }),
            "dir" => return Ok(Self::Directory { directory: rest.into() }),
            _ => {}
        }
        // A path with a colon or an at sign in it is taken whole where it exists.
        let exists = Path::new(rest).exists();
        let (named, digest) = match rest.rsplit_once('@') {
            Some((named, digest)) if transport == "oci" && !exists => {
                let digest = digest.parse().map_err(|refused| error(format!("{refused}")))?;
                (named, Some(digest))
            }
            _ => (rest, None),
        };
        let (path, name) = match named.split_once(':') {
            Some((path, name)) if !exists => (path, Some(name.to_owned())),
            _ => (named, None),
        };
        let path = PathBuf::from(path);
        match transport {
            "oci" => Ok(Self::OciLayout { directory: path, tag: name, digest }),
            "oci-archive" => Ok(Self::OciArchive { file: path, tag: name }),
            "docker-archive" => Ok(Self::DockerArchive { file: path, reference: name }),
            _ => Err(error(without_transport(text))),
        }
    }
}

/// What to write instead of `text`, which names a file, a directory or an image, but not of which kind.
fn without_transport(text: &str) -> String {
    let path = Path::new(text);
    if path.is_dir() {
        return match [("oci-layout", "oci"), ("manifest.json", "dir")]
            .iter()
            .find(|(file, _)| path.join(file).is_file())
        {
            Some((_, transport)) => format!("to convert this image layout, write {transport}:{text}"),
            None => format!("the directory holds no image layout; {FORMS}"),
        };
    }
    if path.exists() {
        return format!(
            "write what the file is: docker-archive:{text} (written by docker save), oci-archive:{text}, or tar:{text} (a root file \
             system, written by docker export)"
        );
    }
    let meant = similar(text).map(|meant| format!("did you mean `{meant}`?"));
    match (text.parse::<RegistryRef>().is_ok(), meant) {
        (true, None) => {
            format!(
                "write where the image is: docker://{text} (a registry) or docker-daemon:{text} (docker on this machine)"
            )
        }
        (true, Some(meant)) => format!("{meant} An image of this name in a registry is docker://{text}"),
        (false, Some(meant)) => meant,
        (false, None) => FORMS.to_owned(),
    }
}

/// Returns `text` with the transport that its own is most similar to, if it is similar enough to be a mistyped one.
fn similar(text: &str) -> Option<String> {
    let (word, rest) = text.split_once(':').filter(|(_, rest)| !rest.trim_matches('/').is_empty())?;
    let similarity = |transport: &str| strsim::jaro_winkler(transport, word);
    let transport = TRANSPORTS.into_iter().max_by(|a, b| similarity(a).total_cmp(&similarity(b)))?;
    if similarity(transport) <= SIMILAR {
        return None;
    }
    Some(match transport {
        "docker" => format!("docker://{}", rest.trim_start_matches('/')),
        _ => format!("{transport}:{rest}"),
    })
}

/// Why `name` is none of an image in a registry.
fn why_no_name(name: &str, refused: &ParseRegistryRefError) -> String {
    let lower = name.to_ascii_lowercase();
    if lower != name && lower.parse::<RegistryRef>().is_ok() {
        return format!("repository names are in lower case, as in docker://{lower}");
    }
    refused.to_string()
}

/// Whether it can stand in a request's path as it is.
fn names_an_image(reference: &str) -> bool {
    let plain = |part: &str| {
        !part.starts_with('.') && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-:@+".contains(&byte))
    };
    reference.split('/').all(|part| !part.is_empty() && plain(part))
}

impl fmt::Display for ImageRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (transport, path, name) = match self {
            Self::Registry(name) => return name.fmt(f),
            Self::OciLayout { directory, tag, .. } => ("oci", directory, tag.as_ref()),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag.as_ref()),
            Self::DockerArchive { file, reference } => ("docker-archive", file, reference.as_ref()),
            Self::Directory { directory } => ("dir", directory, None),
            Self::DockerDaemon { reference } => return write!(f, "docker-daemon:{reference}"),
            Self::ContainersStorage { reference } => return write!(f, "containers-storage:{reference}"),
            Self::Tar { file } => ("tar", file, None),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))?;
        match self {
            Self::OciLayout { digest: Some(digest), .. } => write!(f, "@{digest}"),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_read_and_shown() {
        for text in [
            "docker://docker.io/library/debian:12",
            "oci:dir",
            "oci:dir:v1",
            "oci:dir@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "dir:d",
            "containers-storage:localhost/app:v1",
            "tar:-",
            "oci-archive:a.tar:v1",
            "docker-archive:a.tar",
            "tar:root.tar",
            "docker-daemon:app",
            "docker-daemon:localhost:5000/team/app:v1",
            "docker-daemon:sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            "docker-daemon:a@sha256:b",
        ] {
            assert_eq!(text.parse::<ImageRef>().unwrap().to_string(), text);
        }
        let parsed = "docker-archive:a.tar:corpus/app:latest".parse();
        assert_eq!(
            parsed,
            Ok(ImageRef::DockerArchive { file: "a.tar".into(), reference: Some("corpus/app:latest".into()) })
        );
    }

    #[test]
    fn anything_else_is_refused() {
        let engines =
            ["docker-daemon:", "docker-daemon:../x", "docker-daemon:a?b", "docker-daemon:a//b", "docker-daemon:a b"];
        for text in ["", "app", "oci:", "docker://App", "rpm:x", "oci:d@sha256:1"].into_iter().chain(engines) {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
        for (text, advice) in [
            ("python:3.12", "docker://python:3.12"),
            ("dockr-archive:app.tar", "did you mean `docker-archive:app.tar`?"),
            ("dcoker://host/app", "did you mean `docker://host/app`?"),
            ("docker:host/app", "did you mean `docker://host/app`?"),
            ("oci_archive:a.tar", "did you mean `oci-archive:a.tar`?"),
            ("podman:app", "docker://podman:app"),
            ("docker://App/Web:V1", "docker://app/web:v1"),
            ("src", "no image layout"),
            ("Cargo.toml", "docker-archive:Cargo.toml"),
        ] {
            let error = text.parse::<ImageRef>().unwrap_err().to_string();
            assert!(error.contains(advice), "{error}");
        }
    }
}
