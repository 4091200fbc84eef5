//! Where the key, the store and the block manifest are: options first, then the environment, then what is at hand.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use clap::Args;
use coldpress::crypto::KeyFile;
use coldpress::digest::Sha256;
use coldpress::manifest::v1::{HEAD_BYTES, MAX_BYTES};
use coldpress::manifest::{BlockManifest, OpenManifest};
use coldpress::store::LocalGet;
use coldpress::{Error, ErrorKind};

use super::failure::Failure;

/// The key file that is taken where none is named, from the current directory.
const DEFAULT_KEY: &str = "coldpress.key";

/// `file:PATH`.
#[derive(Debug, Clone)]
pub struct KeyRef(PathBuf);

impl FromStr for KeyRef {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("file:") {
            Some(path) if !path.is_empty() => Ok(Self(path.into())),
            _ => Err(format!("`{text}` is not a key; use file:PATH, as `coldpress keygen` makes it")),
        }
    }
}

/// Which key, for all commands that need one.
#[derive(Debug, Clone, Args)]
pub struct KeyArgs {
    /// The key file, made by `coldpress keygen`
    ///
    /// Without this option: $COLDPRESS_KEY, else `coldpress.key` in the current directory.
    #[arg(long, value_name = "file:PATH")]
    key: Option<KeyRef>,
}

impl KeyArgs {
    /// The key file that was named, or is at hand; `None` where there is none.
    pub fn find(&self) -> Result<Option<KeyFile>, Failure> {
        let named = match (&self.key, environment("COLDPRESS_KEY")?) {
            (Some(key), _) => Some(key.clone()),
            (None, Some(text)) => {
                Some(text.parse().map_err(|error| Failure::Usage(format!("COLDPRESS_KEY: {error}")))?)
            }
            (None, None) => None,
        };
        match named {
            Some(key) => Ok(Some(KeyFile::read(&key.0)?)),
            None if Path::new(DEFAULT_KEY).exists() => Ok(Some(KeyFile::read(Path::new(DEFAULT_KEY))?)),
            None => Ok(None),
        }
    }

    /// The same where a key is needed.
    pub fn require(&self) -> Result<KeyFile, Failure> {
        let message =
            "no key: give --key file:PATH or set COLDPRESS_KEY; `coldpress keygen -o coldpress.key` makes one";
        self.find()?.ok_or_else(|| Failure::Usage(message.to_owned()))
    }
}

/// Which store, for all commands that read chunks.
#[derive(Debug, Clone, Args)]
pub struct StoreArgs {
    /// The directory where the chunks are
    ///
    /// Without this option: $COLDPRESS_STORE, else where the manifest says they were put.
    #[arg(long, value_name = "DIR")]
    pub store: Option<PathBuf>,
}

impl StoreArgs {
    /// The store of an open manifest.
    pub fn open(&self, manifest: &OpenManifest) -> Result<LocalGet, Failure> {
        let directory = match named_store(self.store.as_deref())? {
            Some(directory) => directory,
            None if manifest.sealed.store.is_empty() => {
                return Err(Failure::Usage(
                    "no store: give --store DIR or set COLDPRESS_STORE; the manifest names none".to_owned(),
                ));
            }
            None => PathBuf::from(&manifest.sealed.store),
        };
        Ok(LocalGet::open(&directory)?)
    }
}

/// The directory that an option or the environment names.
pub fn named_store(option: Option<&Path>) -> Result<Option<PathBuf>, Failure> {
    Ok(option.map(Path::to_owned).or(environment("COLDPRESS_STORE")?.map(PathBuf::from)))
}

/// Which block manifest.
#[derive(Debug, Clone, Args)]
pub struct ManifestArgs {
    /// The block manifest, as `coldpress convert -o` wrote it
    #[arg(value_name = "MANIFEST")]
    pub manifest: PathBuf,

    /// Refuse any manifest of another root digest
    ///
    /// Pins the image: without it, whoever can replace the file can put an older image in its place.
    #[arg(long, value_name = "sha256:HEX")]
    pub expect: Option<Sha256>,
}

impl ManifestArgs {
    /// Reads it, still sealed.
    pub fn read(&self) -> Result<BlockManifest, Failure> {
        Ok(read_manifest(&self.manifest, self.expect)?)
    }

    /// Reads and opens it.
    pub fn open(&self, key: &KeyFile) -> Result<OpenManifest, Failure> {
        let manifest = self.read()?;
        Ok(manifest.open(&key.wrapping_key).map_err(|error| error.within(self.manifest.display()))?)
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
pub fn read_manifest(path: &Path, expect: Option<Sha256>) -> Result<BlockManifest, Error> {
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

/// A variable of the environment.
pub fn environment(name: &str) -> Result<Option<String>, Failure> {
    #[expect(clippy::disallowed_methods, reason = "bin reads the environment, and only here")]
    let value = std::env::var_os(name).filter(|value| !value.is_empty());
    let not_text = || Error::new(ErrorKind::Input, format!("{name}: not UTF-8"));
    value.map(|value| value.into_string().map_err(|_| not_text().into())).transpose()
}
