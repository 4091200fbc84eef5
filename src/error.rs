//! The error type of the crate's public functions.
//!
//! Modules have precise private error enums; at the crate's edge they become one opaque [`Error`] whose [`ErrorKind`] answers "what
//! now?". A message never repeats the message of its source, names its object, and contains no secret. A hint is the next step for
//! one fault: it is attached where the fault is known, and never derived from the kind.

use std::fmt;
use std::path::Path;

/// The kind of an error: what a caller can do about it. The programs map it to an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input or an argument is wrong; change it.
    Input,
    /// The input is legal, but coldpress does not do this.
    Unsupported,
    /// The named object does not exist.
    NotFound,
    /// The credentials, the key or the file mode do not allow it.
    Denied,
    /// A service or the disk cannot do it now; nothing is damaged, and a retry can succeed.
    Unavailable,
    /// There is no space for the written data; allow more.
    Full,
    /// A verification found a difference, which was reported.
    Difference,
    /// Bytes do not match their digest, their name or their key.
    Corrupt,
    /// A bug in coldpress.
    Internal,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

impl ErrorKind {
    /// Returns the name of the kind in `--json` (docs/reference/json-output.md, "Errors").
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Input => "input",
            Self::Unsupported => "unsupported",
            Self::NotFound => "not_found",
            Self::Denied => "denied",
            Self::Unavailable => "unavailable",
            Self::Full => "full",
            Self::Difference => "difference",
            Self::Corrupt => "corrupt",
            Self::Internal => "internal",
        }
    }
}

/// An error: its kind, a message that names the object, its cause, and the next step if one is known.
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    /// Whether the message is the name of an object alone, and the source describes the fault.
    names_object: bool,
    hint: Option<Box<str>>,
    source: Option<Source>,
}

/// The result type of the crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Creates an error without a cause. `message` is lower case and names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), names_object: false, hint: None, source: None }
    }

    /// Creates an error with the error that caused it, which is not repeated in `message`.
    pub fn caused(kind: ErrorKind, message: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { kind, message: message.into(), names_object: false, hint: None, source: Some(source.into()) }
    }

    /// Attaches the next step for this fault: an imperative sentence, in lower case and without a full stop.
    #[must_use]
    pub fn with_hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into().into_boxed_str()), ..self }
    }

    /// Wraps an I/O error of `object` (a path or another name), with the kind that the operating system's error code suggests.
    pub fn io(object: impl fmt::Display, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            // An error of this crate that passed through a reader.
            _ if let Some(inner) = source.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) => inner.kind,
            _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => ErrorKind::Input,
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
            Io::InvalidInput | Io::InvalidData | Io::UnexpectedEof => ErrorKind::Corrupt,
            Io::FileTooLarge
            | Io::AlreadyExists
            | Io::NotADirectory
            | Io::IsADirectory
            | Io::InvalidFilename
            | Io::CrossesDevices
            | Io::NotSeekable
            | Io::DirectoryNotEmpty
            | Io::TooManyLinks => ErrorKind::Input,
            Io::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::Unavailable,
        };
        let is_full = is_full(&source);
        let error = Self { names_object: true, ..Self::caused(kind, object.to_string(), source) };
        if is_full { error.with_hint("free space there, and run the same command again") } else { error }
    }

    /// Wraps an I/O error of the file or directory `path`; for a full disk, the hint gives the free space.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        Self::at(path, None, source)
    }

    /// Wraps an I/O error of the file or directory `path`, to which `needed` bytes are written; for a full disk, the hint gives the needed and
    /// the free space.
    pub fn file_of(path: &Path, needed: u64, source: std::io::Error) -> Self {
        Self::at(path, Some(needed), source)
    }

    fn at(path: &Path, needed: Option<u64>, source: std::io::Error) -> Self {
        let is_full = is_full(&source);
        let error = Self::io(path.display(), source);
        match is_full.then(|| free_space(path, needed)).flatten() {
            Some(hint) => error.with_hint(hint),
            None => error,
        }
    }

    /// Wraps the error in one that names the larger `object` in which it happened; the kind is unchanged.
    #[must_use]
    pub fn within(self, object: impl fmt::Display) -> Self {
        let message = object.to_string();
        Self { kind: self.kind, message, names_object: true, hint: None, source: Some(Box::new(self)) }
    }

    /// Returns the next step for this fault, if one is known: that of the outermost error that has one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        let below = || self.causes().find_map(|cause| ours(cause)?.hint.as_deref());
        self.hint.as_deref().or_else(below)
    }

    /// Returns the outermost object that the message names, such as an image, a file or a store.
    #[must_use]
    pub fn object(&self) -> Option<&str> {
        let name = |error: &'_ Self| error.names_object;
        if name(self) {
            return Some(&self.message);
        }
        self.causes().filter_map(ours).find(|error| name(error)).map(|error| error.message.as_str())
    }

    fn causes(&self) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
        std::iter::successors(std::error::Error::source(self), |cause| cause.source())
    }

    /// Returns the messages of the error and of its causes in one line, separated by `: `.
    #[must_use]
    pub fn chain(&self) -> String {
        let mut message = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(next) = cause {
            message.push_str(": ");
            message.push_str(&next.to_string());
            cause = next.source();
        }
        message
    }

    /// Returns the kind: what a caller can do about the error.
    #[must_use]
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_ref().map(|s| s.as_ref() as _)
    }
}

/// Returns a cause as an error of this crate, which may have come through a reader.
fn ours<'a>(cause: &'a (dyn std::error::Error + 'static)) -> Option<&'a Error> {
    cause.downcast_ref().or_else(|| cause.downcast_ref::<std::io::Error>()?.get_ref()?.downcast_ref())
}

fn is_full(error: &std::io::Error) -> bool {
    matches!(error.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
}

/// Returns a hint with the free space of the file system that the file or directory `path` is on, to which `needed` bytes are written.
pub(crate) fn free_space(path: &Path, needed: Option<u64>) -> Option<String> {
    let here = |path| if path == Path::new("") { Path::new(".") } else { path };
    let directory = path.ancestors().map(here).find(|directory| directory.is_dir())?;
    let stat = rustix::fs::statvfs(directory).ok()?;
    let free = crate::printable::size(stat.f_bavail.saturating_mul(stat.f_frsize));
    let needed =
        needed.map_or_else(String::new, |needed| format!(", and {} is needed", crate::printable::size(needed)));
    let shown = directory.display();
    Some(format!("the file system of {shown} has {free} free{needed}; free more, and run the same command again"))
}

/// Returns the message of the innermost cause. The errors around it may contain addresses and requests.
pub(crate) fn first_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// Returns the first line of a cause, for use in a message.
pub(crate) fn first_line(cause: &str) -> &str {
    let line = cause.lines().next().unwrap_or_default();
    line.strip_suffix(" Attempted:").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn hints_and_objects_are_found_through_wrappers_and_readers() {
        let fault = || Error::new(ErrorKind::Denied, "others can read it").with_hint("run: chmod 600 k");
        for error in [
            fault().within("k").within("app.cpm"),
            Error::io("app.cpm", std::io::Error::other(fault().within("k"))),
            Error::caused(ErrorKind::Denied, "no key", fault().within("app.cpm")),
        ] {
            assert_eq!((error.hint(), error.object()), (Some("run: chmod 600 k"), Some("app.cpm")), "{error:?}");
        }
        let plain = Error::new(ErrorKind::Input, "no image");
        assert_eq!((plain.hint(), plain.object()), (None, None));
        let outer = fault().within("k").with_hint("use another key");
        assert_eq!(outer.hint(), Some("use another key"));
    }

    #[test]
    fn a_full_disk_says_which_file_system_and_what_is_free() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("none/app.cpm");
        let full = || std::io::Error::from_raw_os_error(28);
        let shown = format!("the file system of {} has ", temp.path().display());
        for (error, needed) in [
            (Error::file(&path, full()), " free; free more"),
            (Error::file(temp.path(), full()), " free; free more"),
            (Error::file_of(&path, 3 << 19, full()), " free, and 1.5 MiB is needed; free more"),
        ] {
            let hint = error.hint().unwrap();
            assert!(hint.contains(&shown) && hint.contains(needed), "{hint}");
        }
        assert!(Error::file(Path::new("app.cpm"), full()).hint().unwrap().contains("the file system of . has "));
    }

    #[test]
    fn a_hint_stays_with_the_errors_around_it() {
        let inner = || Error::new(ErrorKind::Denied, "key k: disabled").with_hint("enable the key");
        assert_eq!(inner().within("app.cpm").hint(), Some("enable the key"));
        let outer = Error::caused(ErrorKind::Unavailable, "given up", inner());
        assert_eq!(outer.hint(), Some("enable the key"));
        assert_eq!(outer.with_hint("another").hint(), Some("another"));
        assert_eq!(Error::new(ErrorKind::Denied, "no").within("x").hint(), None);
    }

    #[test]
    fn a_wrapped_error_keeps_its_kind_and_does_not_print_twice() {
        let inner = Error::new(ErrorKind::Corrupt, "chunk 3: damaged");
        let outer = inner.within("app.cpm");
        assert_eq!(outer.kind(), ErrorKind::Corrupt);
        assert_eq!(outer.to_string(), "app.cpm");
        assert_eq!(outer.source().map(ToString::to_string).as_deref(), Some("chunk 3: damaged"));
    }
}
