//! How a conversion encrypts and uploads, as the command line says it: the deduplication scope, and concurrent uploads.

use std::path::PathBuf;

use clap::Args;
use coldpress::conversion_cache::Cache;
use coldpress::crypto::Salt;
use coldpress::keys::{KeyFile, KeyWrap};
use coldpress::progress::Progress;
use coldpress::store::{Known, PutIfAbsent, RootId, Settings, StoreUrl, open_put, open_repair, place};
use coldpress::{Error, ErrorKind};

use crate::shared::failure::Failure;
use crate::shared::keys::{KeyRef, KmsArgs, StoreArgs, environment, no_key};
use crate::shared::size::Size;

/// Which deduplication scope, for commands that encrypt chunks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Keys")]
pub struct SaltArgs {
    /// Deduplication salt file from `coldpress keygen` [default: the key file]
    ///
    /// Without this option and --salt-key: $COLDPRESS_SALT_FILE or $COLDPRESS_SALT_KEY, else the key file's salt.
    #[arg(long, value_name = "FILE", conflicts_with = "salt_key")]
    salt_file: Option<PathBuf>,

    /// KMS HMAC key to derive the salt from: aws-kms://KEY
    #[arg(long, value_name = "KEY")]
    salt_key: Option<KeyRef>,

    /// Share chunks only with images of the same scope name
    ///
    /// Without this option: $COLDPRESS_SCOPE.
    #[arg(long, value_name = "NAME", default_value = "", hide_default_value = true)]
    scope: String,
}

impl SaltArgs {
    /// Returns the salt; that of `key` if no option names another.
    pub fn salt(&self, key: Option<&dyn KeyWrap>, kms: &KmsArgs) -> Result<Salt, Failure> {
        let salt = match (&self.salt_file, &self.salt_key) {
            (Some(path), _) => KeyFile::read_salt(path)?,
            (None, Some(KeyRef::AwsKms(id))) => kms.open(id)?.salt()?,
            (None, Some(KeyRef::File(_) | KeyRef::Age(_))) => {
                return Err(Failure::Usage("--salt-key: expected aws-kms://KEY; for a file, use --salt-file".to_owned()));
            }
            (None, None) => key.ok_or_else(no_key)?.salt().cloned().ok_or_else(|| {
                let message = "no salt: this key has none, so it can only read images; give --salt-file, --salt-key, or the key \
                               file that `coldpress keygen` generated";
                Error::new(ErrorKind::Denied, message)
            })?,
        };
        Ok(if self.scope.is_empty() { salt } else { salt.named(&self.scope) })
    }
}

/// Returns the store that was named, for a command that needs one.
pub fn require_store(store: &StoreArgs) -> Result<StoreUrl, Failure> {
    store.store.clone().ok_or_else(|| Failure::Usage("no store: give --store or set COLDPRESS_STORE".to_owned()))
}

/// How chunks are uploaded.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Conversion cache")]
pub struct PutArgs {
    /// Maximum number of concurrent uploads to a service
    #[arg(long, value_name = "N", default_value_t = 32, help_heading = "Store", hide_short_help = true, value_parser = clap::value_parser!(u16).range(1..=256))]
    uploads: u16,

    /// Cache directory [default: $COLDPRESS_CACHE or ~/.cache/coldpress]
    ///
    /// Remembers layers and stored chunks, so that unchanged layers are not downloaded, decompressed or uploaded again. Safe to keep
    /// between CI runs, to share between processes, and to delete. It contains no salt, key or file content, and is encrypted under the
    /// salt. `$XDG_CACHE_HOME` replaces `~/.cache`.
    #[arg(long, value_name = "DIR", conflicts_with = "no_cache")]
    cache: Option<PathBuf>,

    /// Maximum size of the cache
    ///
    /// The least recently used entries are removed first.
    #[arg(long, value_name = "SIZE", default_value = "1GiB", hide_short_help = true)]
    cache_max: Size,

    /// Do not use a conversion cache
    #[arg(long)]
    no_cache: bool,

    /// Server-side encryption to request from S3 [default: $AWS_SERVER_SIDE_ENCRYPTION or the bucket's]
    #[arg(long, value_name = "KIND", help_heading = "Store", hide_short_help = true, value_parser = ENCRYPTIONS)]
    store_sse: Option<String>,

    /// KMS key of --store-sse aws:kms, by id or ARN [default: $AWS_SSE_KMS_KEY_ID or the bucket's]
    #[arg(long, value_name = "KEY", help_heading = "Store", hide_short_help = true)]
    store_sse_key: Option<String>,

    /// Canned ACL of uploaded objects in S3, for a bucket of another account
    #[arg(long, value_name = "ACL", help_heading = "Store", hide_short_help = true, value_parser = ["bucket-owner-full-control"])]
    store_acl: Option<String>,
}

/// What S3 knows to encrypt with.
const ENCRYPTIONS: [&str; 3] = ["AES256", "aws:kms", "aws:kms:dsse"];

impl PutArgs {
    /// The putting half of the store at `url`, for chunks of `root`.
    pub fn open(&self, store: &StoreArgs, url: &StoreUrl, root: &RootId) -> Result<Box<dyn PutIfAbsent>, Failure> {
        Ok(open_put(url, &self.settings(store)?, root)?)
    }

    /// Returns the settings of a client that uploads.
    fn settings(&self, store: &StoreArgs) -> Result<Settings, Failure> {
        let mut settings = store.settings(self.uploads.into())?;
        settings.s3.encryption = match (&self.store_sse, environment("AWS_SERVER_SIDE_ENCRYPTION")?) {
            (None, Some(kind)) if !ENCRYPTIONS.contains(&kind.as_str()) => {
                let message = format!("AWS_SERVER_SIDE_ENCRYPTION: use {}", ENCRYPTIONS.join(", "));
                return Err(Failure::Usage(message));
            }
            (kind, variable) => kind.clone().or(variable),
        };
        let by_kms = settings.s3.encryption.as_deref().is_some_and(|kind| kind.starts_with("aws:kms"));
        if self.store_sse_key.is_some() && !by_kms {
            return Err(Failure::Usage("--store-sse-key: give --store-sse aws:kms, too".to_owned()));
        }
        let key = self.store_sse_key.clone().or(environment("AWS_SSE_KMS_KEY_ID")?);
        settings.s3.encryption_key = key.filter(|_| by_kms);
        settings.s3.owner_full_control = self.store_acl.is_some();
        Ok(settings)
    }

    /// The same, to repair the store: a directory compares what it has (docs/how-to/scrub-and-repair.md).
    pub fn open_repair(
        &self,
        store: &StoreArgs,
        url: &StoreUrl,
        root: &RootId,
    ) -> Result<Box<dyn PutIfAbsent>, Failure> {
        Ok(open_repair(url, &self.settings(store)?, root)?)
    }

    /// What earlier conversions learned, where there is a place for it.
    pub fn cache(&self, salt: &Salt, progress: &dyn Progress) -> Result<Option<Cache>, Failure> {
        let Some((directory, named)) = self.directory()? else { return Ok(None) };
        match Cache::open(&directory, salt, self.cache_max.0) {
            Ok(cache) => {
                if let Some(warning) = cache.warning() {
                    progress.warn(&warning);
                }
                Ok(Some(cache))
            }
            // A name that no directory can have is a mistake of the command line.
            Err(error) if named && error.kind() == ErrorKind::Input => Err(error.within("cache").into()),
            // The file system is read-only or full, or there is no home to write to: a conversion needs no cache.
            Err(error) => {
                progress.warn(&format!("no cache: {}", error.chain()));
                Ok(None)
            }
        }
    }

    /// Where the cache is, and whether someone named it.
    fn directory(&self) -> Result<Option<(PathBuf, bool)>, Failure> {
        if self.no_cache {
            return Ok(None);
        }
        let base = || {
            Ok::<_, Failure>(match environment("XDG_CACHE_HOME")? {
                Some(base) => Some(PathBuf::from(base)),
                None => environment("HOME")?.map(|home| PathBuf::from(home).join(".cache")),
            })
        };
        Ok(match &self.cache {
            Some(directory) => Some((directory.clone(), true)),
            None => base()?.map(|base| (base.join("coldpress"), false)),
        })
    }
}

/// What the cache knows of the store at `url`; a directory is asked itself.
pub fn known_puts<'a>(
    store: &StoreArgs,
    url: &StoreUrl,
    root: &RootId,
    salt: &Salt,
    cache: Option<&'a Cache>,
) -> Result<Option<Known<'a>>, Failure> {
    let (StoreUrl::Bucket(url), Some(cache)) = (url, cache) else { return Ok(None) };
    // Containers of one name are in many accounts.
    let Some(place) = place(url, &store.settings(1)?) else { return Ok(None) };
    Ok(Some(Known::open(cache, url, Some(&place), root, salt)))
}
