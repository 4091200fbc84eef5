//! The key file that `keygen` writes: a wrapping key, and in a converter's file the salt (docs/reference/formats/key-file.md).
//!
//! The file is text, so that it survives every secret store, with one `name = value` on each line. A worker needs no salt and
//! should not have one: with the salt it could confirm which files exist in the whole scope.

use std::fmt::Write as _;
use std::io::Write;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use zeroize::Zeroizing;

use super::wrap::{EncryptionContext, KeyWrap, Wrap, WrappingKey};
use crate::crypto::convergent::Salt;
use crate::crypto::{DataKey, Secret, SecretFile};
use crate::{Error, ErrorKind, Result};

const FIRST_LINE: &str = "# coldpress key file 1";
/// Capacity of the text buffer, in bytes: more than a file has, so that the buffer never moves.
const TEXT_BYTES: usize = 1024;

/// The content of a key file.
#[derive(Clone)]
pub struct KeyFile {
    /// The key that wraps the data keys of block manifests.
    pub wrapping_key: WrappingKey,
    /// The salt of the dedup scope; a worker's file has none.
    pub salt: Option<Salt>,
}

impl KeyFile {
    /// Generates a new key and a new salt.
    ///
    /// # Errors
    /// `Internal` where the operating system gives no random bytes.
    pub fn generate() -> Result<Self> {
        Ok(Self { wrapping_key: WrappingKey::new(Secret::random()?), salt: Some(Salt::new(Secret::random()?)) })
    }

    /// Encodes the file's text.
    #[must_use]
    pub fn encode(&self) -> Zeroizing<String> {
        encode(Some(&self.wrapping_key), self.salt.as_ref())
    }

    /// Decodes the file's text.
    ///
    /// # Errors
    /// `Input`, naming the line but never its value.
    pub fn decode(text: &str) -> Result<Self> {
        let (wrapping_key, salt) = Self::parts(text)?;
        let missing = || Error::new(ErrorKind::Input, "no line `wrapping-key`");
        Ok(Self { wrapping_key: wrapping_key.ok_or_else(missing)?, salt })
    }

    /// Reads the salt of a key file or of a file with a salt alone.
    ///
    /// # Errors
    /// As [`KeyFile::read`]; `Input` where the file has no salt.
    pub fn read_salt(path: &Path) -> Result<Salt> {
        let (_, salt) = Self::parts(read(path)?.text()).map_err(|error| error.within(path.display()))?;
        let missing = || Error::new(ErrorKind::Input, format!("{}: no line `salt`", path.display()));
        salt.ok_or_else(missing)
    }

    fn parts(text: &str) -> Result<(Option<WrappingKey>, Option<Salt>)> {
        let broken = |reason: String| Error::new(ErrorKind::Input, reason);
        if !is_key_file(text) {
            return Err(not_a_key_file());
        }
        let (mut key, mut salt, mut ids) = (None, None, Vec::new());
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let (name, value) =
                line.split_once('=').ok_or_else(|| broken(format!("line {number}: no `name = value`")))?;
            let (name, value) = (name.trim(), value.trim());
            let secret = || {
                Secret::from_hex(value)
                    .ok_or_else(|| broken(format!("line {number}: `{name}` is not 64 hexadecimal digits")))
            };
            match name {
                "wrapping-key" if key.is_none() => key = Some(WrappingKey::new(secret()?)),
                "salt" if salt.is_none() => salt = Some(Salt::new(secret()?)),
                "wrapping-key" | "salt" => return Err(broken(format!("line {number}: `{name}` appears twice"))),
                "wrapping-key-id" | "scope-id" => ids.push((number, name, value)),
                // The name may be the secret itself, in the wrong place, so it is not shown.
                _ => return Err(broken(format!("line {number}: unknown name"))),
            }
        }
        for (number, name, value) in ids {
            let found = if name == "scope-id" {
                salt.as_ref().map(|salt: &Salt| salt.scope().to_string())
            } else {
                key.as_ref().map(WrappingKey::id_text)
            };
            if found.as_deref() != Some(value) {
                return Err(broken(format!(
                    "line {number}: `{name}` does not match the key in the file; the file was modified"
                )));
            }
        }
        Ok((key, salt))
    }

    /// Reads the file `path`.
    ///
    /// # Errors
    /// Those of the file; `Denied` where other users can read it; `Input` where it is not a key file.
    pub fn read(path: &Path) -> Result<Self> {
        Self::decode(read(path)?.text()).map_err(|error| error.within(path.display()))
    }

    /// Writes a new file `path` that only its owner can read, and never overwrites a file.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_new(&self, path: &Path) -> Result<()> {
        write_new(path, &self.encode())
    }

    /// Writes a new file with a salt alone, as [`KeyFile::write_new`] does.
    ///
    /// # Errors
    /// Those of the file.
    pub fn write_new_salt(path: &Path, salt: &Salt) -> Result<()> {
        write_new(path, &encode(None, Some(salt)))
    }
}

impl KeyWrap for KeyFile {
    fn wrap(&self, data_key: &DataKey, context: &EncryptionContext) -> Result<Wrap> {
        self.wrapping_key.wrap(data_key, context)
    }

    fn unwrap(&self, wraps: &[Wrap], context: &EncryptionContext) -> Result<DataKey> {
        self.wrapping_key.unwrap(wraps, context)
    }

    fn salt(&self) -> Option<&Salt> {
        self.salt.as_ref()
    }
}

fn encode(wrapping_key: Option<&WrappingKey>, salt: Option<&Salt>) -> Zeroizing<String> {
    let mut out = Zeroizing::new(String::with_capacity(TEXT_BYTES));
    let _ = writeln!(out, "{FIRST_LINE}");
    if let Some(key) = wrapping_key {
        let _ = writeln!(out, "# Keep it secret: who has the wrapping key opens every image made with it.");
        let _ = writeln!(out, "wrapping-key-id = {}", key.id_text());
        line(&mut out, "wrapping-key", key.secret());
    }
    if let Some(salt) = salt {
        let _ = writeln!(out, "scope-id = {}", salt.scope());
        line(&mut out, "salt", salt.secret());
    }
    debug_assert!(out.capacity() == TEXT_BYTES, "it grew");
    out
}

/// Writes the secret digit by digit, so that no other buffer holds it.
fn line(out: &mut String, name: &str, secret: &Secret) {
    let _ = write!(out, "{name} = ");
    for byte in secret.expose() {
        let _ = write!(out, "{byte:02x}");
    }
    out.push('\n');
}

fn read(path: &Path) -> Result<SecretFile> {
    let fail = |error| Error::file(path, error);
    let file = std::fs::File::open(path).map_err(fail)?;
    let mode = file.metadata().map_err(fail)?.permissions().mode();
    let secret = SecretFile::read(&file).map_err(fail)?;
    // The form is checked before the mode: a mode is right or wrong for key files alone.
    if !is_key_file(secret.text()) {
        return Err(not_a_key_file().within(path.display()));
    }
    if mode & 0o077 != 0 {
        let message = format!("other users can read this key file (mode {:04o}, expected 0600)", mode & 0o7777);
        let error = Error::new(ErrorKind::Denied, message).with_hint(format!("run: chmod 600 {}", path.display()));
        return Err(error.within(path.display()));
    }
    Ok(secret)
}

fn is_key_file(text: &str) -> bool {
    text.lines().next().map(str::trim_end) == Some(FIRST_LINE)
}

fn not_a_key_file() -> Error {
    Error::new(ErrorKind::Input, format!("not a coldpress key file (its first line is not `{FIRST_LINE}`)"))
        .with_hint("`coldpress keygen` creates key files")
}

fn write_new(path: &Path, text: &str) -> Result<()> {
    let file = std::fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path);
    let mut file = file.map_err(|error| Error::file(path, error))?;
    let written = file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).and_then(|()| sync_directory_of(path));
    written.map_err(|error| {
        // Half a key is worse than none.
        let _ = std::fs::remove_file(path);
        Error::file(path, error)
    })
}

/// Syncs the directory of `path`: a key file whose name a power failure loses is lost.
fn sync_directory_of(path: &Path) -> std::io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    match std::fs::File::open(directory)?.sync_all() {
        // Some file systems cannot sync a directory.
        Err(error) if error.kind() == std::io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_file_survives() {
        let made = KeyFile::generate().unwrap();
        let read = KeyFile::decode(&made.encode()).unwrap();
        assert_eq!(read.wrapping_key.secret(), made.wrapping_key.secret());
        assert_eq!(read.salt.unwrap().scope(), made.salt.clone().unwrap().scope());
        let worker = KeyFile { salt: None, ..made };
        assert!(!worker.encode().contains("salt"));
        assert!(KeyFile::decode(&worker.encode()).unwrap().salt.is_none());
    }

    #[test]
    fn a_broken_key_file_is_refused_without_telling_its_secrets() {
        let text = KeyFile::generate().unwrap().encode();
        let secret = text.lines().find_map(|line| line.strip_prefix("wrapping-key = ")).unwrap().to_owned();
        let altered = text.replace(&secret[..2], if &secret[..2] == "00" { "11" } else { "00" });
        for bad in
            ["", "x", &text[1..], &text.replace("salt =", "salz ="), &text.replace(&secret, &secret[1..]), &altered]
        {
            let error = KeyFile::decode(bad).err().expect("refused");
            assert_eq!(error.kind(), ErrorKind::Input);
            assert!(!error.to_string().contains(&secret[1..]), "{error}");
        }
    }
}
