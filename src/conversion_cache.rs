//! The conversion cache: results of earlier conversions, in a directory that is safe to keep, to share and to delete.
//!
//! Every entry is a file that is written atomically, encrypted under a key derived from the salt, and named by a MAC of its
//! subject, so that a stolen directory reveals sizes and counts only. An entry that cannot be decrypted is a miss and is deleted;
//! so is one that is not a regular file of this user (`private_file.rs`). The cache is optional: where its directory cannot be
//! written, conversions are slower and still succeed.

use std::fmt;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::SystemTime;

use crate::atomic_file::{AtomicFile, open_directory};
use crate::crypto::convergent::mac;
use crate::crypto::sealed_stream::{OpeningReader, SealingWriter};
use crate::crypto::{Salt, Secret};
use crate::digest::to_hex;
use crate::printable::Printable;
use crate::private_file::{self, Access, touch};
use crate::{Error, Result};

/// Prefixes of the file names, one for each kind of entry.
const KINDS: [&str; 3] = ["layer-", "chunks-", "puts-"];

/// A conversion cache in a directory, for one dedup scope.
pub struct Cache {
    directory: PathBuf,
    key: Secret,
    max_bytes: u64,
    written: AtomicBool,
    failed: Mutex<Option<Error>>,
}

/// The file name of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryName(String);

impl EntryName {
    /// Returns the file's name.
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for EntryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Cache {
    /// Opens the cache in `directory` for the dedup scope of `salt`, and creates the directory if it is absent. [`Cache::trim`]
    /// bounds it to `max_bytes`.
    ///
    /// # Errors
    /// Those of the file system, naming the directory.
    pub fn open(directory: &Path, salt: &Salt, max_bytes: u64) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(directory)
            .map_err(|error| Error::file(directory, error))?;
        let (directory, key) = (directory.to_owned(), salt.cache_key());
        Ok(Self { directory, key, max_bytes, written: AtomicBool::new(false), failed: Mutex::default() })
    }

    /// Returns the name of the entry of this `kind` with the subject `parts`.
    #[must_use]
    pub fn name(&self, kind: &str, parts: &[&[u8]]) -> EntryName {
        debug_assert!(KINDS.contains(&kind));
        let mut about = kind.as_bytes().to_vec();
        for part in parts {
            about.extend_from_slice(&(part.len() as u64).to_le_bytes());
            about.extend_from_slice(part);
        }
        EntryName(format!("{kind}{}", to_hex(&mac(&self.key, &about)[..16])))
    }

    /// Returns the path of an entry.
    #[must_use]
    pub fn path(&self, name: &EntryName) -> PathBuf {
        self.directory.join(&name.0)
    }

    /// Returns what a person should know of the directory: that other users can put files into it.
    #[must_use]
    pub fn warning(&self) -> Option<String> {
        let why = private_file::shared_directory(&self.directory).ok().flatten()?;
        let directory = self.directory.display();
        Some(format!(
            "cache {directory}: {why}: they can delete its files; use a directory of this user alone, mode 0700"
        ))
    }

    /// Returns whether there is an entry of this name that this user can open.
    pub(crate) fn has(&self, name: &EntryName) -> bool {
        private_file::open(&self.path(name), Access::Read).is_ok()
    }

    /// Decrypts an entry and decodes it with `decode`. Returns `None` where there is no entry; deletes one that cannot be decrypted
    /// or decoded.
    pub fn read<T>(&self, name: &EntryName, decode: impl FnOnce(&mut dyn Read) -> io::Result<T>) -> Option<T> {
        let path = self.path(name);
        let Ok(file) = private_file::open(&path, Access::Read) else {
            tracing::debug!(entry = name.0, "conversion cache: miss");
            return None;
        };
        let read = || {
            let mut reader = OpeningReader::new(BufReader::new(&file), &self.key, name.0.as_bytes())?;
            let value = decode(&mut reader)?;
            reader.finish()?;
            Ok::<_, io::Error>(value)
        };
        match read() {
            Ok(value) => {
                touch(&file);
                tracing::debug!(entry = name.0, "conversion cache: hit");
                Some(value)
            }
            Err(_) => {
                tracing::debug!(entry = name.0, "conversion cache: a damaged entry is deleted");
                let _ = std::fs::remove_file(&path);
                None
            }
        }
    }

    /// Writes an entry. A failure is recorded for [`Cache::failure`], and is not an error of the conversion.
    pub fn write(&self, name: &EntryName, encode: impl FnOnce(&mut dyn Write) -> io::Result<()>) {
        let write = || {
            let directory = open_directory(&self.directory)?;
            let file = AtomicFile::create(&directory, 0o600)?;
            let to = BufWriter::with_capacity(1 << 20, file.file());
            let mut writer = SealingWriter::new(to, &self.key, name.0.as_bytes())?;
            encode(&mut writer)?;
            writer.finish()?;
            file.replace(Path::new(&name.0))
        };
        match write() {
            Ok(()) => {
                tracing::debug!(entry = name.0, "conversion cache: written");
                self.written.store(true, Ordering::Relaxed);
            }
            Err(error) => self.fail(Error::file(&self.directory, error)),
        }
    }

    /// Records the first failure to write to the cache.
    pub(crate) fn fail(&self, error: Error) {
        tracing::info!(error = %Printable(&error.chain()), "conversion cache: cannot be written");
        self.failed.lock().expect("no thread panics with it").get_or_insert(error);
    }

    /// Takes the first failure to write to the cache, if there was one; a second call returns `None`.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.failed.lock().expect("no thread panics with it").take()
    }

    /// Records that an entry has become larger by another way than [`Cache::write`].
    pub(crate) fn grew(&self) {
        self.written.store(true, Ordering::Relaxed);
    }

    /// Deletes the least recently used entries until the rest is within the bound; does nothing if nothing was written.
    pub fn trim(&self) {
        if self.written.load(Ordering::Relaxed)
            && let Err(error) = self.trim_to(self.max_bytes)
        {
            self.fail(Error::file(&self.directory, error));
        }
    }

    fn trim_to(&self, max_bytes: u64) -> io::Result<()> {
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&self.directory)? {
            let entry = entry?;
            let name = entry.file_name();
            let ours = name.to_str().is_some_and(|name| KINDS.iter().any(|kind| name.starts_with(kind)));
            // Another process may be trimming, too.
            if let (true, Ok(metadata)) = (ours, entry.metadata()) {
                entries.push((metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH), metadata.len(), entry.path()));
            }
        }
        entries.sort_unstable();
        let mut bytes: u64 = entries.iter().map(|(_, length, _)| length).sum();
        for (_, length, path) in entries {
            if bytes <= max_bytes {
                break;
            }
            match std::fs::remove_file(path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {
                    tracing::debug!(
                        bytes = length,
                        "conversion cache: the entry that was unused for longest is deleted"
                    );
                    bytes -= length;
                }
            }
        }
        Ok(())
    }
}

impl Drop for Cache {
    /// Trims the cache also after a failed conversion.
    fn drop(&mut self) {
        self.trim();
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    fn salt(byte: u8) -> Salt {
        Salt::new(Secret::from_bytes([byte; 32]))
    }

    fn read_all(from: &mut dyn Read) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        from.read_to_end(&mut out)?;
        Ok(out)
    }

    #[test]
    fn an_entry_is_its_scope_s_and_a_damaged_one_is_a_miss_that_goes() {
        let directory = tempfile::tempdir().unwrap();
        let open = |byte| Cache::open(directory.path(), &salt(byte), 1 << 20).unwrap();
        let cache = open(1);
        let name = cache.name("layer-", &[b"a", b"b"]);
        assert_ne!(name, cache.name("layer-", &[b"ab", b""]));
        assert_ne!(name, open(2).name("layer-", &[b"a", b"b"]));
        assert_eq!(cache.read(&name, read_all), None);
        cache.write(&name, |to| to.write_all(b"something"));
        assert_eq!(cache.read(&name, read_all), Some(b"something".to_vec()));
        assert_eq!(open(2).read(&name, read_all), None, "another salt does not open it");
        assert!(!cache.path(&name).exists());
        cache.write(&name, |to| to.write_all(b"something"));
        assert_eq!(cache.read(&name, |from| from.read_exact(&mut [0; 2])), None, "not all was read");
        assert!(cache.failure().is_none());
    }

    #[test]
    fn what_was_not_used_for_longest_goes_first() {
        let directory = tempfile::tempdir().unwrap();
        let cache = Cache::open(directory.path(), &salt(1), 25_000).unwrap();
        let names: Vec<EntryName> = [b"0", b"1", b"2"].iter().map(|part| cache.name("chunks-", &[&part[..]])).collect();
        for (age, name) in (0..).zip(&names) {
            cache.write(name, |to| to.write_all(&[0; 10_000]));
            let time = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(age);
            File::options().write(true).open(cache.path(name)).unwrap().set_modified(time).unwrap();
        }
        std::fs::write(directory.path().join("mine"), [0; 50_000]).unwrap();
        cache.read(&names[0], read_all).unwrap();
        cache.trim();
        let there: Vec<bool> = names.iter().map(|name| cache.path(name).exists()).collect();
        assert_eq!(there, [true, false, true]);
        assert!(directory.path().join("mine").exists(), "what is not ours stays");
    }
}
