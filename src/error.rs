//! The error that crosses the crate's edge.
//!
//! Modules speak precise private enums; here they become one opaque [`Error`] whose [`ErrorKind`] answers "what now?".
//! A message never repeats its source's message, names its object, and holds no secret. Where the fault is known, the error carries
//! the next step as a hint of its own.

use std::borrow::Cow;
use std::fmt;
use std::path::Path;

/// What a caller can do about an error; `bin` turns it into a hint and an exit code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The input or an argument is wrong; change it.
    Input,
    /// The input is legal, but coldpress does not do this.
    Unsupported,
    /// The named object is not there.
    NotFound,
    /// The credentials, the key or the file mode do not allow it.
    Denied,
    /// A service or the disk cannot do it now; nothing is damaged, try again.
    Unavailable,
    /// There is no room for what was written; allow more.
    Full,
    /// What was to be verified is not the same; what differs was told.
    Difference,
    /// Bytes are not what a digest, a name or a key promises.
    Corrupt,
    /// A defect of coldpress.
    Internal,
}

type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong, with which object, and of which [`ErrorKind`].
#[derive(Debug)]
pub struct Error {
    kind: ErrorKind,
    message: String,
    source: Option<Source>,
    hint: Option<Cow<'static, str>>,
}

/// The crate's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause of its own. `message` is lower case and names the object.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { kind, message: message.into(), source: None, hint: None }
    }

    /// The same with the error that caused it, which is not repeated in `message`.
    pub fn caused(kind: ErrorKind, message: impl Into<String>, source: impl Into<Source>) -> Self {
        Self { kind, message: message.into(), source: Some(source.into()), hint: None }
    }

    /// An I/O error at `object` (a path or another name), with the kind that the operating system's answer suggests.
    pub fn io(object: impl fmt::Display, source: std::io::Error) -> Self {
        use std::io::ErrorKind as Io;
        let kind = match source.kind() {
            // Ours, on its way through a reader.
            _ if let Some(inner) = source.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) => inner.kind,
            _ if source.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => ErrorKind::Input,
            Io::NotFound => ErrorKind::NotFound,
            Io::PermissionDenied | Io::ReadOnlyFilesystem => ErrorKind::Denied,
            Io::InvalidInput | Io::InvalidData | Io::UnexpectedEof => ErrorKind::Corrupt,
            Io::FileTooLarge | Io::AlreadyExists | Io::NotADirectory | Io::IsADirectory | Io::InvalidFilename => {
                ErrorKind::Input
            }
            _ => ErrorKind::Unavailable,
        };
        Self::caused(kind, object.to_string(), source)
    }

    /// An I/O error at the file `path`.
    pub fn file(path: &Path, source: std::io::Error) -> Self {
        Self::io(path.display(), source)
    }

    /// The same error as the cause of one that says in which larger object it happened; the kind stays.
    #[must_use]
    pub fn within(self, object: impl fmt::Display) -> Self {
        let hint = self.hint.clone();
        Self { kind: self.kind, message: object.to_string(), source: Some(Box::new(self)), hint }
    }

    /// The error and its causes in one line.
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

    /// The same error with the next step that fits this fault, in place of what is printed for its kind.
    #[must_use]
    pub fn with_hint(mut self, hint: impl Into<Cow<'static, str>>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Returns the next step of this error, or of the first of its causes that has one.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        let mut cause = self.source.as_deref().map(|source| source as &(dyn std::error::Error + 'static));
        let mut hint = self.hint.as_deref();
        while let (None, Some(error)) = (hint, cause) {
            hint = error.downcast_ref::<Self>().and_then(|error| error.hint.as_deref());
            cause = error.source();
        }
        hint
    }

    /// What a caller can do about it.
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

/// What an error of a client came from; what stands around it tells of addresses and requests.
pub(crate) fn first_cause(error: &dyn std::error::Error) -> String {
    let mut innermost = error;
    while let Some(source) = innermost.source() {
        innermost = source;
    }
    innermost.to_string()
}

/// The first line of a cause, for a message.
pub(crate) fn first_line(cause: &str) -> &str {
    let line = cause.lines().next().unwrap_or_default();
    line.strip_suffix(" Attempted:").unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::error::Error as _;

    #[test]
    fn a_wrapped_error_keeps_its_kind_and_does_not_print_twice() {
        let inner = Error::new(ErrorKind::Corrupt, "chunk 3: damaged");
        let outer = inner.within("app.cpm");
        assert_eq!(outer.kind(), ErrorKind::Corrupt);
        assert_eq!(outer.to_string(), "app.cpm");
        assert_eq!(outer.source().map(ToString::to_string).as_deref(), Some("chunk 3: damaged"));
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
}
