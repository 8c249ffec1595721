//! Whether a unit that buffers its writes may have lost some of them.
//!
//! What was handed to the operating system survives the process, and not the machine. A unit that lost
//! acknowledged writes must not say that nothing was written there. So, while it runs, a file beside its journal
//! names the boot of the machine that it runs in; it goes away when the unit has ended and everything is
//! flushed. A unit that finds the name of another boot may have lost something.

use std::fs::{self, File};
use std::io;
use std::io::Write;
use std::path::{Path, PathBuf};

const NAME: &str = "boot";
const BEGINNING: &str = "boot.beginning";

/// The file that names the boot.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    directory: PathBuf,
}

/// What the kernel draws at each boot; nothing where it does not say.
fn current() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

impl Boot {
    pub(crate) fn at(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    /// Whether everything that was ever written is there: the unit had ended, or the machine has not.
    pub(crate) fn kept_everything(&self) -> io::Result<bool> {
        match fs::read_to_string(self.directory.join(NAME)) {
            Ok(boot) => Ok(!boot.is_empty() && boot == current()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The unit writes, and buffers it, from here on.
    pub(crate) fn begin(&self) -> io::Result<()> {
        // A file without a name would say that something may be lost.
        let beginning = self.directory.join(BEGINNING);
        let mut file = File::create(&beginning)?;
        file.write_all(current().as_bytes())?;
        file.sync_all()?;
        fs::rename(beginning, self.directory.join(NAME))?;
        self.sync()
    }

    /// Everything is flushed.
    pub(crate) fn end(&self) -> io::Result<()> {
        match fs::remove_file(self.directory.join(NAME)) {
            Ok(()) => self.sync(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        }
    }

    fn sync(&self) -> io::Result<()> {
        File::open(&self.directory)?.sync_all()
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn boot_of_another_time_means_that_something_may_be_lost() {
        let directory = tempfile::tempdir().unwrap();
        let boot = Boot::at(directory.path());
        assert!(boot.kept_everything().unwrap(), "a unit that is new");
        boot.begin().unwrap();
        assert_eq!(boot.kept_everything().unwrap(), !current().is_empty(), "only the process ended");
        fs::write(directory.path().join(NAME), "another boot\n").unwrap();
        assert!(!boot.kept_everything().unwrap());
        boot.end().unwrap();
        assert!(boot.kept_everything().unwrap());
    }
}
