//! The one error type of the library: a kind for control flow, the context of
//! what was tried, a sentence for a person, and the cause.

use std::fmt;

use crate::name::ObjectName;

pub type Result<T> = std::result::Result<T, Error>;

/// What a caller can do about an error depends on its kind alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The named thing does not exist.
    NotFound,
    /// The name is taken: somebody else created it first.
    Exists,
    /// Somebody else holds it; it may be free later.
    Busy,
    /// Another holder has taken over. Stop writing.
    Fenced,
    /// The caller's mistake: a malformed name, offset, option or state.
    Invalid,
    /// Permission refused, or the handle is read-only.
    Denied,
    /// The store is full. Nothing that was acknowledged is lost.
    NoSpace,
    /// Certainly not applied; trying again may help.
    Unavailable,
    /// May or may not have been applied, now or later. Never retry blindly.
    Unknown,
    /// Stored data is not what was written.
    Corrupt,
    /// A fault in this library.
    Internal,
}

impl ErrorKind {
    /// The one table from kinds to errno values (positive).
    pub fn errno(self) -> i32 {
        match self {
            ErrorKind::NotFound => libc::ENOENT,
            ErrorKind::Exists => libc::EEXIST,
            ErrorKind::Busy => libc::EBUSY,
            ErrorKind::Fenced => libc::ESTALE,
            ErrorKind::Invalid => libc::EINVAL,
            ErrorKind::Denied => libc::EACCES,
            ErrorKind::NoSpace => libc::ENOSPC,
            ErrorKind::Unavailable => libc::EAGAIN,
            ErrorKind::Unknown | ErrorKind::Corrupt | ErrorKind::Internal => libc::EIO,
        }
    }

    /// The kind that an errno of a system call means for an operation that
    /// certainly did not take effect.
    pub fn from_errno(errno: i32) -> ErrorKind {
        match errno {
            libc::ENOENT | libc::ENOTDIR => ErrorKind::NotFound,
            libc::EEXIST => ErrorKind::Exists,
            libc::EACCES | libc::EPERM | libc::EROFS => ErrorKind::Denied,
            libc::ENOSPC | libc::EDQUOT => ErrorKind::NoSpace,
            libc::EINVAL | libc::ENAMETOOLONG => ErrorKind::Invalid,
            libc::EBUSY => ErrorKind::Busy,
            libc::EAGAIN | libc::EMFILE | libc::ENFILE | libc::ENOMEM | libc::EINTR => {
                ErrorKind::Unavailable
            }
            _ => ErrorKind::Unknown,
        }
    }
}

impl fmt::Display for ErrorKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ErrorKind::NotFound => "not found",
            ErrorKind::Exists => "exists already",
            ErrorKind::Busy => "in use",
            ErrorKind::Fenced => "taken over by another holder",
            ErrorKind::Invalid => "invalid",
            ErrorKind::Denied => "permission denied",
            ErrorKind::NoSpace => "no space left",
            ErrorKind::Unavailable => "not available now",
            ErrorKind::Unknown => "outcome unknown",
            ErrorKind::Corrupt => "damaged",
            ErrorKind::Internal => "internal fault",
        })
    }
}

/// An error: `kind` for code, the rest for people. `Display` does not repeat
/// the source; `full` does.
#[derive(Debug)]
pub struct Error(Box<Inner>);

#[derive(Debug)]
struct Inner {
    kind: ErrorKind,
    operation: &'static str,
    volume: Option<String>,
    object: Option<String>,
    offset_bytes: Option<u64>,
    message: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// An error of `operation`, a verb such as "read" or "take the lease".
    pub fn new(kind: ErrorKind, operation: &'static str) -> Error {
        Error(Box::new(Inner {
            kind,
            operation,
            volume: None,
            object: None,
            offset_bytes: None,
            message: None,
            source: None,
        }))
    }

    /// An error that is explained by a whole sentence.
    pub fn sentence(kind: ErrorKind, message: impl Into<String>) -> Error {
        let mut error = Error::new(kind, "");
        error.0.message = Some(message.into());
        error
    }

    /// A failed system call that certainly did not take effect.
    pub fn from_io(operation: &'static str, source: std::io::Error) -> Error {
        let kind = source.raw_os_error().map_or(ErrorKind::Unknown, ErrorKind::from_errno);
        Error::new(kind, operation).caused_by(source)
    }

    pub fn corrupt(object: &ObjectName, message: impl Into<String>) -> Error {
        Error::new(ErrorKind::Corrupt, "read").on(object).because(message)
    }

    #[must_use]
    pub fn on(mut self, object: &ObjectName) -> Error {
        self.0.object = Some(object.to_string());
        self
    }

    #[must_use]
    pub fn on_named(mut self, object: impl Into<String>) -> Error {
        self.0.object = Some(object.into());
        self
    }

    /// Whose object this is about: objects that several volumes share, such
    /// as pages of a map, do not say so. Keeps what was said first.
    #[must_use]
    pub fn of_volume(mut self, name: &str) -> Error {
        self.0.volume.get_or_insert_with(|| name.to_owned());
        self
    }

    #[must_use]
    pub fn at(mut self, offset_bytes: u64) -> Error {
        self.0.offset_bytes = Some(offset_bytes);
        self
    }

    #[must_use]
    pub fn because(mut self, message: impl Into<String>) -> Error {
        self.0.message = Some(message.into());
        self
    }

    #[must_use]
    pub fn caused_by(mut self, source: impl std::error::Error + Send + Sync + 'static) -> Error {
        self.0.source = Some(Box::new(source));
        self
    }

    #[must_use]
    pub fn with_kind(mut self, kind: ErrorKind) -> Error {
        self.0.kind = kind;
        self
    }

    pub fn kind(&self) -> ErrorKind {
        self.0.kind
    }

    pub fn is(&self, kind: ErrorKind) -> bool {
        self.0.kind == kind
    }

    /// The object this error is about, if it is about one.
    pub fn object(&self) -> Option<&str> {
        self.0.object.as_deref()
    }

    /// The error with all its causes, on one line.
    pub fn full(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        text
    }

    /// True if the sentence names this volume anyway.
    fn has_named(&self, volume: &str) -> bool {
        let message = self.0.message.as_deref().unwrap_or_default();
        message.contains(&format!("'{volume}'"))
            || self.0.object.as_ref().is_some_and(|object| *object == format!("volume/{volume}"))
    }

    /// A copy without the cause, for handing one failure to many waiters.
    pub fn duplicate(&self) -> Error {
        let mut copy = Error::new(self.0.kind, self.0.operation);
        copy.0.volume.clone_from(&self.0.volume);
        copy.0.object.clone_from(&self.0.object);
        copy.0.offset_bytes = self.0.offset_bytes;
        copy.0.message = match (&self.0.message, &self.0.source) {
            (message, None) => message.clone(),
            (None, Some(source)) => Some(source.to_string()),
            (Some(message), Some(source)) => Some(format!("{message}: {source}")),
        };
        copy
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let inner = &self.0;
        if let Some(volume) = inner.volume.as_ref().filter(|volume| !self.has_named(volume)) {
            write!(f, "volume '{volume}': ")?;
        }
        if inner.operation.is_empty() {
            return f.write_str(inner.message.as_deref().unwrap_or("unexplained error"));
        }
        write!(f, "cannot {}", inner.operation)?;
        if let Some(object) = &inner.object {
            write!(f, " {object}")?;
        }
        if let Some(offset_bytes) = inner.offset_bytes {
            write!(f, " at byte {offset_bytes}")?;
        }
        write!(f, ": {}", inner.kind)?;
        if let Some(message) = &inner.message {
            write!(f, ": {message}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.0.source {
            Some(source) => Some(source.as_ref()),
            None => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_store_is_enospc_for_qemu() {
        assert_eq!(ErrorKind::NoSpace.errno(), libc::ENOSPC);
        assert_eq!(ErrorKind::from_errno(libc::EDQUOT), ErrorKind::NoSpace);
    }

    #[test]
    fn display_names_the_thing_and_full_adds_the_cause() {
        let error = Error::from_io("write", std::io::Error::from_raw_os_error(libc::ENOSPC))
            .on(&ObjectName::Store)
            .at(4096);
        assert_eq!(error.to_string(), "cannot write store at byte 4096: no space left");
        assert!(error.full().contains("os error 28"), "{}", error.full());
    }

    #[test]
    fn a_volume_is_named_once() {
        let page = Error::corrupt(&ObjectName::Store, "its end is missing").of_volume("web").of_volume("db");
        assert_eq!(page.to_string(), "volume 'web': cannot read store: damaged: its end is missing");
        assert_eq!(page.duplicate().to_string(), page.to_string());
        let sentence = Error::sentence(ErrorKind::Busy, "volume 'web' is in use").of_volume("web");
        assert_eq!(sentence.to_string(), "volume 'web' is in use");
    }
}
