//! What can go wrong, by exit code.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::ExitCode;

use mixlog::checkpoint::{BackupError, CheckpointError};
use mixlog::log::corfu::{ConnectError, HomeError, NetError, StoreError};
use mixlog::log::{self, AppendError, ReadError, TailError, TrimError};
use mixlog::workloads::workload::DriveError;
use mixlog::{OpenError, SubmitError};

/// Why the command did not do what it was asked for.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Wrong usage, or a configuration that is refused: exit code 2.
    Refused(String),
    /// The log is damaged: exit code 3.
    Corrupt(String),
    /// The operating system refused something: exit code 4.
    Io(String),
    /// A consistency check or a comparison of digests failed, or a procedure is not deterministic: exit code 5.
    CheckFailed(String),
    /// A bug: exit code 1.
    Bug(String),
}

impl Failure {
    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(match self {
            Self::Bug(_) => 1,
            Self::Refused(_) => 2,
            Self::Corrupt(_) => 3,
            Self::Io(_) => 4,
            Self::CheckFailed(_) => 5,
        })
    }
}

/// What the operating system says of a directory does not name it.
pub(crate) fn cannot_use(directory: &Path) -> impl FnOnce(io::Error) -> Failure {
    move |error| Failure::Io(format!("cannot use the directory {}: {error}", directory.display()))
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) | Self::Corrupt(text) | Self::Io(text) | Self::CheckFailed(text) => {
                f.write_str(text)
            }
            Self::Bug(text) => write!(f, "{text} (this is a bug of mixlog)"),
        }
    }
}

impl From<log::OpenError> for Failure {
    fn from(error: log::OpenError) -> Self {
        let text = error.to_string();
        match error {
            log::OpenError::Corrupt { .. } => Self::Corrupt(text),
            log::OpenError::Io { .. } => Self::Io(text),
            _ => Self::Refused(text),
        }
    }
}

impl From<ReadError> for Failure {
    fn from(error: ReadError) -> Self {
        let text = error.to_string();
        match error {
            ReadError::Corrupt { .. } => Self::Corrupt(text),
            ReadError::Trimmed { .. } => Self::Refused(text),
            _ => Self::Io(text),
        }
    }
}

impl From<TailError> for Failure {
    fn from(error: TailError) -> Self {
        Self::Io(error.to_string())
    }
}

impl From<TrimError> for Failure {
    fn from(error: TrimError) -> Self {
        let text = error.to_string();
        match error {
            TrimError::ReadOnly => Self::Refused(text),
            _ => Self::Io(text),
        }
    }
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        let text = error.to_string();
        match error {
            AppendError::Sealed { .. } | AppendError::TooLarge { .. } => Self::Refused(text),
            _ => Self::Io(text),
        }
    }
}

/// What to do about an engine that has another state than the others for good.
const REBUILD: &str = "it has stopped, and the others go on. To start it again, see that its build is theirs, and put the \
     newest checkpoint of one that agrees with them in place of its own: in DIR/checkpoints of --beside DIR, or \
     of a log in DIR. Without any it executes the log from position 0, unless that was trimmed";

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let text = error.to_string();
        match error {
            OpenError::Read(error) => error.into(),
            OpenError::Append(error) => error.into(),
            OpenError::Panicked(_) => Self::Bug(text),
            OpenError::NotDeterministic { .. } => Self::CheckFailed(text),
            OpenError::Diverged(_) => Self::CheckFailed(format!("{text}; {REBUILD}")),
            OpenError::NoCheckpoint { rejected, .. }
                if rejected.iter().any(|rejected| rejected.unreadable) =>
            {
                Self::Io(text)
            }
            OpenError::NoCheckpoint { .. } | OpenError::LogTooShort { .. } => Self::Corrupt(text),
            OpenError::Checkpoints { .. } => Self::Io(text),
            _ => Self::Refused(text),
        }
    }
}

impl From<SubmitError> for Failure {
    fn from(error: SubmitError) -> Self {
        let text = error.to_string();
        match error {
            SubmitError::Append(error) => error.into(),
            SubmitError::NotRegistered(_) | SubmitError::Unreadable { .. } => Self::Bug(text),
            _ => Self::Io(text),
        }
    }
}

impl From<CheckpointError> for Failure {
    fn from(error: CheckpointError) -> Self {
        let text = error.to_string();
        match error {
            CheckpointError::Nowhere | CheckpointError::Empty => Self::Refused(text),
            CheckpointError::Changed { .. } => Self::CheckFailed(text),
            _ => Self::Io(text),
        }
    }
}

impl From<BackupError> for Failure {
    fn from(error: BackupError) -> Self {
        let text = error.to_string();
        match error {
            BackupError::Log(error) => error.into(),
            BackupError::Exists(_)
            | BackupError::InUse(_)
            | BackupError::Foreign(_)
            | BackupError::Inside(_) => Self::Refused(text),
            BackupError::Changed { .. } => Self::CheckFailed(text),
            BackupError::Checkpoint { .. } | BackupError::LogTooShort { .. } => Self::Corrupt(text),
            _ => Self::Io(text),
        }
    }
}

impl From<DriveError> for Failure {
    fn from(error: DriveError) -> Self {
        let text = error.to_string();
        match error {
            DriveError::Submit(error) => error.into(),
            DriveError::Ticket(_) => Self::Io(text),
            _ => Self::Refused(text),
        }
    }
}

impl From<NetError> for Failure {
    fn from(error: NetError) -> Self {
        let text = error.to_string();
        match error {
            NetError::Refused { .. }
            | NetError::Stranger { .. }
            | NetError::InUse { .. }
            | NetError::NoEtcd => Self::Refused(text),
            NetError::Store(error) => error.into(),
            NetError::Log(error) => error.into(),
            _ => Self::Io(text),
        }
    }
}

impl From<ConnectError> for Failure {
    fn from(error: ConnectError) -> Self {
        let text = error.to_string();
        match error {
            ConnectError::NotSetUp | ConnectError::Configuration(_) => Self::Refused(text),
            ConnectError::StoreBehind(_) => Self::Corrupt(text),
            _ => Self::Io(text),
        }
    }
}

impl From<HomeError> for Failure {
    fn from(error: HomeError) -> Self {
        Self::Refused(error.to_string())
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        let text = error.to_string();
        match error {
            StoreError::Damaged { .. } | StoreError::Nameless { .. } | StoreError::Lost { .. } => {
                Self::Corrupt(text)
            }
            StoreError::Foreign { .. } | StoreError::InUse { .. } => Self::Refused(text),
            _ => Self::Io(text),
        }
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        Self::Io(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use mixlog::{Difference, Position};

    use super::*;

    /// The command has no procedure that is not deterministic, so this cannot be seen from outside.
    #[test]
    fn a_procedure_that_is_not_deterministic_is_a_failed_check() {
        let (procedure, position, what) = ("transfer", Position(17), Difference::Reply);
        let failure = Failure::from(OpenError::NotDeterministic { procedure, position, what });
        assert!(matches!(&failure, Failure::CheckFailed(text) if text.contains("position 17")), "{failure}");
        assert_eq!(failure.exit_code(), ExitCode::from(5));
    }
}
