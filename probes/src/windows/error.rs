//! Why there is no session, in words that help to go on.

use std::io;

use ferrisetw::{native::EvntraceNativeError, trace::TraceError};
use thiserror::Error;

use super::control::SessionInUse;

/// Codes of the system.
const ACCESS_DENIED: i32 = 5;
const NO_RESOURCES: i32 = 1450;

/// A session could not be started or asked.
#[derive(Debug, Error)]
pub enum SourceError {
    /// Only administrators may.
    #[error(
        "tracing the kernel needs an administrator: start slowburn from an elevated prompt (\"Run as administrator\"), or as a service"
    )]
    NotElevated,
    /// Every slot for sessions is taken.
    #[error("Windows has no room for another session: {}; end one of them with `logman stop NAME -ets`", told(.0))]
    NoSlot(Vec<SessionInUse>),
    /// There is a session of slowburn's, and who has it runs.
    #[error(
        "another slowburn follows a service on this host: stop it first, or have that one follow what you want to see"
    )]
    Second,
    /// Whether there is one cannot be told.
    #[error("cannot find out whether another slowburn runs: {0}")]
    Mutex(#[source] io::Error),
    /// Something else.
    #[error("cannot {what} the tracing session: {source}")]
    System {
        /// What was tried.
        what: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// A thread could not be started.
    #[error("cannot start a thread for the session's events: {0}")]
    Thread(#[source] io::Error),
}

impl SourceError {
    /// From a code of the system.
    pub(super) fn system(what: &'static str, code: u32) -> Self {
        Self::of(what, io::Error::from_raw_os_error(code.cast_signed()))
    }

    /// From what the library says.
    pub(super) fn library(what: &'static str, error: TraceError) -> Self {
        let source = match error {
            TraceError::InvalidTraceName => io::ErrorKind::InvalidInput.into(),
            TraceError::EtwNativeError(error) => match error {
                EvntraceNativeError::InvalidHandle => io::Error::other("there is no such session"),
                EvntraceNativeError::AlreadyExist => {
                    io::Error::other("another one of that name cannot be ended")
                }
                EvntraceNativeError::IoError(error) => error,
            },
        };
        Self::of(what, source)
    }

    fn of(what: &'static str, source: io::Error) -> Self {
        match code(&source) {
            Some(ACCESS_DENIED) => Self::NotElevated,
            Some(NO_RESOURCES) => Self::NoSlot(super::control::sessions().unwrap_or_default()),
            Some(code) => Self::System {
                what,
                source: io::Error::from_raw_os_error(code),
            },
            None => Self::System { what, source },
        }
    }
}

/// The system's code. The library wraps it as an HRESULT: 0x8007 and the code.
fn code(error: &io::Error) -> Option<i32> {
    let code = error.raw_os_error()?.cast_unsigned();
    let code = if code >> 16 == 0x8007 {
        code & 0xffff
    } else {
        code
    };
    Some(code.cast_signed())
}

fn told(sessions: &[SessionInUse]) -> String {
    let names: Vec<_> = sessions
        .iter()
        .map(|session| session.name.as_str())
        .collect();
    if names.is_empty() {
        return "which ones there are cannot be told".into();
    }
    format!("{} are in use ({})", names.len(), names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_known_in_both_forms() {
        for raw in [5, 0x8007_0005_u32.cast_signed()] {
            let error = SourceError::of("start", io::Error::from_raw_os_error(raw));
            assert!(matches!(error, SourceError::NotElevated), "{error}");
        }
        let other = SourceError::of(
            "start",
            io::Error::from_raw_os_error(0x8007_0057_u32.cast_signed()),
        );
        assert!(
            other
                .to_string()
                .starts_with("cannot start the tracing session"),
            "{other}"
        );
    }
}
