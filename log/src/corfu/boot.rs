//! Whether a unit that buffers its writes may have lost some of them.
//!
//! What was handed to the operating system survives the process, and not the machine. A unit that lost
//! acknowledged writes must not say that nothing was written there. So, while it runs, a file beside its journal
//! names the boot of the machine that it runs in; it goes away when the unit has ended and everything is
//! flushed. A unit that finds the name of another boot may have lost something.
//!
//! Nor need a write survive a sync that failed: the kernel takes it for saved from then on, drops it when it likes, and
//! lets the next sync succeed in vain. So before anybody hears of the failure, the file gets another name, which says that
//! something may be lost in whatever boot. That need not reach the disk: after a power cut, either name says so. Where
//! a file cannot be renamed it is emptied, which says the same. Where not even that can be done it is tried again when
//! the unit ends, and whoever asks why the unit failed is told; a disk that changes nothing lets nobody open a journal
//! either, but should it change its mind after the unit has ended, nothing tells that something may be lost.
//!
//! What the kernel fails to write while no process has the file open it tells to the first sync after that, which is that of
//! whoever opens the journal; unless it has forgotten the file, and the failure with it. That is not seen here.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock};

use crate::file::{Access, Storage, read_file, write_full};

const NAME: &str = "boot";
const BEGINNING: &str = "boot.beginning";
const LOST: &str = "boot.lost";

const UNPOISONED: &str = "nothing panics while it holds the lock";

/// What the files say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mark {
    /// Everything is flushed: there is no file.
    Flushed,
    /// Everything is there as long as this boot lasts.
    Kept,
    /// Something may be lost.
    Lost,
    /// Something may be lost, and the files do not say so.
    Untold,
}

/// The file that names the boot.
pub(crate) struct Boot {
    directory: Arc<dyn Storage>,
    mark: Mutex<Mark>,
    /// Why the files do not say that something may be lost, if they ever did not.
    refusal: OnceLock<String>,
}

impl Boot {
    /// What stands in the unit's directory, which need not exist yet.
    pub(crate) fn at(directory: Arc<dyn Storage>) -> io::Result<Self> {
        let mark = match (read(&*directory, LOST)?, read(&*directory, NAME)?) {
            (None, None) => Mark::Flushed,
            (None, Some(boot)) if !boot.is_empty() && boot == directory.boot().into_bytes() => Mark::Kept,
            _ => Mark::Lost,
        };
        Ok(Self { directory, mark: Mutex::new(mark), refusal: OnceLock::new() })
    }

    fn mark(&self) -> MutexGuard<'_, Mark> {
        self.mark.lock().expect(UNPOISONED)
    }

    /// Whether everything that was ever written is there: the unit had ended, or the machine has not; and no sync failed.
    pub(crate) fn kept_everything(&self) -> bool {
        matches!(*self.mark(), Mark::Flushed | Mark::Kept)
    }

    /// The unit writes, and buffers it, from here on. What it had before is durable, or given up.
    pub(crate) fn begin(&self) -> io::Result<()> {
        let mut mark = self.mark();
        remove(&*self.directory, BEGINNING)?;
        // A file without a name would say that something may be lost.
        let file = self.directory.open(BEGINNING, Access::CreateNew)?;
        write_full(&*file, self.directory.boot().as_bytes(), 0)?;
        file.sync_data()?;
        self.directory.rename(BEGINNING, NAME)?;
        self.directory.sync_directory()?;
        // Only now: without either, everything would be flushed.
        if remove(&*self.directory, LOST)? {
            self.directory.sync_directory()?;
        }
        *mark = Mark::Kept;
        Ok(())
    }

    /// Everything is flushed, or given up, and the unit buffers nothing from here on.
    pub(crate) fn end(&self) -> io::Result<()> {
        let mut mark = self.mark();
        if *mark == Mark::Flushed {
            return Ok(());
        }
        let removed = remove(&*self.directory, NAME)? | remove(&*self.directory, LOST)?;
        if removed {
            self.directory.sync_directory()?;
        }
        *mark = Mark::Flushed;
        Ok(())
    }

    /// What was buffered and is not known to be on the disk may be lost from here on. Where the files cannot say so, it is
    /// tried again when this is called again.
    pub(crate) fn lose(&self) {
        let mut mark = self.mark();
        if matches!(*mark, Mark::Flushed | Mark::Lost) {
            return;
        }
        let emptied = |_| self.directory.open(NAME, Access::Write)?.truncate(0);
        match self.directory.rename(NAME, LOST).or_else(emptied) {
            Ok(()) => {
                *mark = Mark::Lost;
                // Whether that succeeds is of no account: see above.
                let _ = self.directory.sync_directory();
            }
            Err(error) => {
                *mark = Mark::Untold;
                let _ = self.refusal.set(error.to_string());
            }
        }
    }

    /// Why the files do not say that something may be lost; `None` if they do, or nothing is.
    pub(crate) fn untold(&self) -> Option<&str> {
        if *self.mark() == Mark::Untold { self.refusal.get().map(String::as_str) } else { None }
    }

    /// The unit has ended; `flushed`: in good order, with everything on the disk.
    pub(crate) fn ended(&self, flushed: bool) {
        if flushed && self.kept_everything() {
            // If it stays, a unit that lost nothing is taken for one that did, after the next boot.
            let _ = self.end();
        } else if *self.mark() == Mark::Untold {
            self.lose();
        }
    }
}

fn read(directory: &dyn Storage, name: &str) -> io::Result<Option<Vec<u8>>> {
    match read_file(directory, name) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// False if there is no such file.
fn remove(directory: &dyn Storage, name: &str) -> io::Result<bool> {
    match directory.remove(name) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::fs;

    use super::*;
    use crate::file::FsStorage;

    #[test]
    fn boot_of_another_time_means_that_something_may_be_lost() {
        let directory = tempfile::tempdir().unwrap();
        let storage: Arc<dyn Storage> = Arc::new(FsStorage::new(directory.path()));
        let kept = || Boot::at(Arc::clone(&storage)).unwrap().kept_everything();
        let is_told = !storage.boot().is_empty();
        let boot = Boot::at(Arc::clone(&storage)).unwrap();
        assert!(boot.kept_everything(), "a unit that is new");
        boot.begin().unwrap();
        assert_eq!(kept(), is_told, "only the process ended");
        fs::write(directory.path().join(NAME), "another boot\n").unwrap();
        assert!(!kept());
        boot.end().unwrap();
        assert!(kept());
        boot.begin().unwrap();
        boot.lose();
        assert!(!kept() && !boot.kept_everything(), "a sync failed");
        boot.ended(true);
        assert!(!kept(), "whatever was flushed since");
        boot.begin().unwrap();
        assert_eq!(kept(), is_told, "the unit has joined anew");
        boot.ended(false);
        assert_eq!(kept(), is_told);
        boot.ended(true);
        assert!(kept() && fs::read_dir(directory.path()).unwrap().next().is_none());
    }
}
