//! Image references in skopeo's transport names.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::registry::RegistryRef;

/// Where an image is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageRef {
    /// `oci:DIR[:TAG]`: an OCI image layout.
    OciLayout {
        /// The layout's directory.
        directory: PathBuf,
        /// The `org.opencontainers.image.ref.name` of the image.
        tag: Option<String>,
    },
    /// `oci-archive:FILE[:TAG]`: a tar of an OCI image layout.
    OciArchive {
        /// The archive.
        file: PathBuf,
        /// As above.
        tag: Option<String>,
    },
    /// `docker-archive:FILE[:REF]`: what `docker save` writes.
    DockerArchive {
        /// The archive.
        file: PathBuf,
        /// One of the image's names in it.
        reference: Option<String>,
    },
    /// `docker://[HOST[:PORT]/]REPOSITORY[:TAG][@DIGEST]`: an image in a registry.
    Registry(RegistryRef),
    /// `docker-daemon:REF`: in docker's engine, or one that answers as it does.
    DockerDaemon {
        /// A name with or without a tag, a name with a digest, or an image id.
        reference: String,
    },
    /// `tar:FILE`: the tar of a root file system, plain, gzip or zstd.
    Tar {
        /// The tar.
        file: PathBuf,
    },
}

/// A text that names no image.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{text}` is not an image reference; use docker://REF, oci:DIR[:TAG], oci-archive:FILE[:TAG], docker-archive:FILE[:REF], \
     docker-daemon:REF or tar:FILE"
)]
pub struct ParseImageRefError {
    text: String,
}

impl FromStr for ImageRef {
    type Err = ParseImageRefError;

    fn from_str(text: &str) -> Result<Self, ParseImageRefError> {
        let error = || ParseImageRefError { text: text.to_owned() };
        if let Some(name) = text.strip_prefix("docker://") {
            return name.parse().map(Self::Registry).map_err(|_| error());
        }
        let (transport, rest) = text.split_once(':').filter(|(_, rest)| !rest.is_empty()).ok_or_else(error)?;
        if transport == "docker-daemon" {
            let reference = rest.to_owned();
            return if names_an_image(rest) { Ok(Self::DockerDaemon { reference }) } else { Err(error()) };
        }
        // A path with a colon in it is taken whole where it exists.
        let (path, name) = match rest.split_once(':') {
            Some((path, name)) if !Path::new(rest).exists() => (path, Some(name.to_owned())),
            _ => (rest, None),
        };
        let path = PathBuf::from(path);
        match (transport, name) {
            ("oci", tag) => Ok(Self::OciLayout { directory: path, tag }),
            ("oci-archive", tag) => Ok(Self::OciArchive { file: path, tag }),
            ("docker-archive", reference) => Ok(Self::DockerArchive { file: path, reference }),
            ("tar", _) => Ok(Self::Tar { file: PathBuf::from(rest) }),
            _ => Err(error()),
        }
    }
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
            Self::OciLayout { directory, tag } => ("oci", directory, tag.as_ref()),
            Self::OciArchive { file, tag } => ("oci-archive", file, tag.as_ref()),
            Self::DockerArchive { file, reference } => ("docker-archive", file, reference.as_ref()),
            Self::DockerDaemon { reference } => return write!(f, "docker-daemon:{reference}"),
            Self::Tar { file } => ("tar", file, None),
        };
        write!(f, "{transport}:{}", path.display())?;
        name.map_or(Ok(()), |name| write!(f, ":{name}"))
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
        for text in ["", "app", "oci:", "docker://App", "rpm:x"].into_iter().chain(engines) {
            assert!(text.parse::<ImageRef>().is_err(), "{text}");
        }
    }
}
