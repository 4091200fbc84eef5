//! Where the block manifest is, and how registries are reached.

use std::fmt;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use coldpress::Error;
use coldpress::digest::Sha256;
use coldpress::keys::KeyWrap;
use coldpress::manifest::v1::{HEAD_BYTES, MAX_BYTES};
use coldpress::manifest::{BlockManifest, OpenManifest};
use coldpress::registry::{Credentials, Login, RegistryRef, Settings};
use coldpress::source::{self, Platform};

use super::failure::Failure;
use super::keys::{KeyArgs, StoreArgs, environment};

/// How registries are reached.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Registry")]
pub struct RegistryArgs {
    /// Registry login: [HOST=]USER:PASSWORD [default: docker or podman login]
    ///
    /// Without this option: $COLDPRESS_CREDS, else the login of `docker login` or `podman login`. With HOST=, the login is used for that registry only; needed if a command uses several. Other users of this host can see the
    /// command line: prefer $COLDPRESS_CREDS or a login file ($REGISTRY_AUTH_FILE, $DOCKER_CONFIG/config.json, ~/.docker/config.json,
    /// $XDG_RUNTIME_DIR/containers/auth.json). Credential helpers are supported.
    #[arg(long, value_name = "LOGIN", hide_short_help = true)]
    creds: Vec<String>,

    /// PEM file of additional trusted CA certificates
    #[arg(long, value_name = "FILE", hide_short_help = true)]
    tls_ca: Option<PathBuf>,

    /// Allow plain HTTP for registries on loopback addresses
    ///
    /// Other registries always use TLS.
    #[arg(long, hide_short_help = true)]
    plain_http: bool,
}

impl RegistryArgs {
    /// The same for the library.
    pub fn settings(&self) -> Result<Settings, Failure> {
        let credentials = Credentials { given: self.given()?, files: login_files()? };
        Ok(Settings { credentials, tls_ca: self.tls_ca.clone(), plain_http: self.plain_http })
    }

    fn given(&self) -> Result<Vec<(Option<String>, Login)>, Failure> {
        let parsed = self.creds.iter().map(|text| {
            let (host, login) = match text.split_once('=') {
                // A password may have anything in it, a user no host's form.
                Some((host, login)) if !host.contains(':') || is_host_and_port(host) => (Some(host.to_owned()), login),
                _ => (None, text.as_str()),
            };
            match login.split_once(':') {
                Some((user, password)) if !user.is_empty() => {
                    Ok((host, Login::Password { user: user.to_owned(), password: password.to_owned() }))
                }
                // What was given is not repeated: it may be a password.
                _ => Err(Failure::Usage("--creds (COLDPRESS_CREDS): expected [HOST=]USER:PASSWORD".to_owned())),
            }
        });
        parsed.collect()
    }
}

/// `HOST:PORT`.
fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok())
}

/// Returns the files in which `docker login` and `podman login` store logins.
fn login_files() -> Result<Vec<PathBuf>, Failure> {
    if let Some(path) = environment("REGISTRY_AUTH_FILE")? {
        return Ok(vec![path.into()]);
    }
    let docker = match environment("DOCKER_CONFIG")? {
        Some(directory) => Some(PathBuf::from(directory)),
        None => environment("HOME")?.map(|home| PathBuf::from(home).join(".docker")),
    };
    let podman = environment("XDG_RUNTIME_DIR")?.map(|directory| PathBuf::from(directory).join("containers/auth.json"));
    Ok(docker.map(|directory| directory.join("config.json")).into_iter().chain(podman).collect())
}

/// A file, or beside an image in a registry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ManifestRef {
    File(PathBuf),
    Registry(RegistryRef),
}

impl FromStr for ManifestRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("docker://") {
            Some(name) => name.parse().map(Self::Registry).map_err(|error| format!("{error}")),
            None => Ok(Self::File(text.into())),
        }
    }
}

impl fmt::Display for ManifestRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            Self::Registry(name) => name.fmt(f),
        }
    }
}

impl ManifestRef {
    /// Reads it, still sealed; a registry can have it for several keys. Never none.
    pub fn read(&self, registry: &RegistryArgs, expect: Option<Sha256>) -> Result<Vec<BlockManifest>, Failure> {
        self.read_for(None, registry, expect)
    }

    /// The same; of an image for several platforms, that of `platform`, else of this machine's.
    pub fn read_for(
        &self,
        platform: Option<&Platform>,
        registry: &RegistryArgs,
        expect: Option<Sha256>,
    ) -> Result<Vec<BlockManifest>, Failure> {
        match self {
            Self::File(path) => Ok(vec![read_file(path, expect)?]),
            Self::Registry(name) => {
                let all = source::block_manifest(name, platform, &registry.settings()?, expect)?;
                let decode =
                    |bytes: Vec<u8>| BlockManifest::decode(&bytes).and_then(|manifest| manifest.expect(expect));
                let all: Result<Vec<_>, Error> = all.into_iter().map(decode).collect();
                Ok(all.map_err(|error| error.within(name))?)
            }
        }
    }
}

/// Which block manifest.
#[derive(Debug, Clone, Args)]
pub struct ManifestArgs {
    /// Block manifest: a file, or docker://IMAGE if it was pushed beside the image
    #[arg(value_name = "MANIFEST")]
    pub manifest: ManifestRef,

    /// Required root digest of the manifest
    ///
    /// Pins the image: without it, anyone who can replace the manifest can substitute an older image.
    #[arg(long, value_name = "sha256:HEX", help_heading = "Image")]
    pub expect: Option<Sha256>,

    #[command(flatten)]
    pub registry: RegistryArgs,
}

impl ManifestArgs {
    /// Refuses to take a manifest's word for who made it, where anyone can have.
    pub fn check_pinned(&self, key: &dyn KeyWrap) -> Result<(), Failure> {
        if key.is_public() && self.expect.is_none() {
            let message = "--expect sha256:… is needed with an age key: anyone who knows the recipient can make a manifest for it";
            return Err(Failure::Usage(message.to_owned()));
        }
        Ok(())
    }

    /// Reads and opens it.
    pub fn open(&self, key: &dyn KeyWrap) -> Result<OpenManifest, Failure> {
        self.check_pinned(key)?;
        let mut opened = None;
        for manifest in self.manifest.read(&self.registry, self.expect)? {
            opened = Some(manifest.open(key));
            if matches!(opened, Some(Ok(_))) {
                break;
            }
        }
        let opened = opened.expect("there is one");
        Ok(opened.map_err(|error| error.within(&self.manifest))?)
    }
}

/// An image to read: its manifest, its chunks, and what opens them.
#[derive(Debug, Clone, Args)]
pub struct Source {
    #[command(flatten)]
    pub manifest: ManifestArgs,

    #[command(flatten)]
    pub store: StoreArgs,

    #[command(flatten)]
    pub key: KeyArgs,
}

/// Reads the block manifest `path`.
pub fn read_file(path: &Path, expect: Option<Sha256>) -> Result<BlockManifest, Error> {
    let fail = |error| Error::file(path, error);
    let mut file = File::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    file.by_ref().take(HEAD_BYTES).read_to_end(&mut bytes).map_err(fail)?;
    // No more than it says that it has, and one byte that must not be there.
    let length = BlockManifest::length(&bytes).map_err(|error| error.within(path.display()))?;
    file.take((length - HEAD_BYTES).min(MAX_BYTES) + 1).read_to_end(&mut bytes).map_err(fail)?;
    BlockManifest::decode(&bytes)
        .and_then(|manifest| manifest.expect(expect))
        .map_err(|error| error.within(path.display()))
}
