//! How a conversion seals and puts, as the command line says it: the dedup scope, and what may be under way.

use std::path::PathBuf;

use clap::Args;
use coldpress::crypto::{KeyFile, KeyWrap, Salt};
use coldpress::store::{KnownPuts, PutIfAbsent, RootId, StoreUrl, open_put};
use coldpress::{Error, ErrorKind};

use crate::shared::failure::Failure;
use crate::shared::keys::{KeyRef, KmsArgs, StoreArgs, environment};

/// Which dedup scope, for commands that seal.
#[derive(Debug, Clone, Args)]
pub struct SaltArgs {
    /// Take the salt of this file, made by `coldpress keygen` [default: the key file's]
    #[arg(long, value_name = "FILE", conflicts_with = "salt_key")]
    salt_file: Option<PathBuf>,

    /// Take the salt that this HMAC key of the key service makes: aws-kms://KEY
    #[arg(long, value_name = "KEY")]
    salt_key: Option<KeyRef>,

    /// A dedup scope of its own within the salt's: images share chunks with those of the same name only
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    scope: String,
}

impl SaltArgs {
    /// The salt; that of `key` where no option names another.
    pub fn salt(&self, key: &dyn KeyWrap, kms: &KmsArgs) -> Result<Salt, Failure> {
        let salt = match (&self.salt_file, &self.salt_key) {
            (Some(path), _) => KeyFile::read_salt(path)?,
            (None, Some(KeyRef::AwsKms(id))) => kms.open(id)?.salt()?,
            (None, Some(KeyRef::File(_) | KeyRef::Age(_))) => {
                return Err(Failure::Usage("--salt-key: use aws-kms://KEY; a file's is taken with --salt-file".to_owned()));
            }
            (None, None) => key.salt().cloned().ok_or_else(|| {
                let message = "no salt: the key has none, so it can only read; use the key file that `coldpress keygen` made, \
                               --salt-file or --salt-key";
                Error::new(ErrorKind::Denied, message)
            })?,
        };
        Ok(if self.scope.is_empty() { salt } else { salt.named(&self.scope) })
    }
}

/// How chunks are put.
#[derive(Debug, Clone, Args)]
pub struct PutArgs {
    /// How many puts to a service are under way at a time
    #[arg(long, value_name = "N", default_value_t = 32, value_parser = clap::value_parser!(u16).range(1..=256))]
    uploads: u16,

    /// Where to note which chunks a service has, so that they are not sent again; safe to delete [default: $COLDPRESS_CACHE,
    /// else coldpress in $XDG_CACHE_HOME or ~/.cache]
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,

    /// Neither read nor write such a note
    #[arg(long)]
    no_cache: bool,
}

impl PutArgs {
    /// The putting half of the store that `store` names.
    pub fn open(
        &self,
        store: &StoreArgs,
        url: &StoreUrl,
        root: &RootId,
        salt: &Salt,
        trusting: bool,
    ) -> Result<Box<dyn PutIfAbsent>, Failure> {
        let settings = store.settings(self.uploads.into())?;
        let put = open_put(url, &settings, root)?;
        // A store that lost something is not what a note says of it.
        Ok(match (url, self.directory()?.filter(|_| trusting)) {
            (StoreUrl::Bucket(url), Some(directory)) => {
                Box::new(KnownPuts::open(put, &directory, url, settings.endpoint.as_deref(), root, salt)?)
            }
            _ => put,
        })
    }

    fn directory(&self) -> Result<Option<PathBuf>, Failure> {
        if self.no_cache {
            return Ok(None);
        }
        let named = self.cache.clone().or(environment("COLDPRESS_CACHE")?.map(PathBuf::from));
        let base = || {
            Ok::<_, Failure>(match environment("XDG_CACHE_HOME")? {
                Some(base) => Some(PathBuf::from(base)),
                None => environment("HOME")?.map(|home| PathBuf::from(home).join(".cache")),
            })
        };
        Ok(match named {
            Some(directory) => Some(directory),
            None => base()?.map(|base| base.join("coldpress")),
        })
    }
}
