//! Looks at every byte of the checkpoints beside a log, without anybody who could execute it.

use std::path::Path;

use mixlog_log::file::{FsStorage, Storage};
use mixlog_log::{FileLog, OpenError, Position};

use super::Rejected;
use super::layout::file_name;
use super::shelf::{BESIDE, Shelf};

/// A checkpoint that is whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verified {
    /// The last position whose effects it includes.
    pub position: Position,
    /// How many rows it has.
    pub rows: u64,
    /// The length of its file.
    pub bytes: u64,
}

/// Verifies every byte of the checkpoints beside the log in `directory`, the oldest first, and that their rows make the
/// states that they tell the digests of. Another process may be running an engine on it: what is removed or written over
/// meanwhile is passed over.
///
/// # Errors
/// The log cannot be looked at, or the directory of its checkpoints.
pub fn verify(directory: impl AsRef<Path>) -> Result<Vec<Result<Verified, Rejected>>, OpenError> {
    let storage = FsStorage::new(directory.as_ref());
    let (log, _) = FileLog::peek_with_storage(&storage)?;
    let shelf = Shelf { storage: storage.directory(BESIDE), log };
    let positions = shelf.list().map_err(|source| OpenError::Io {
        action: "list",
        path: shelf.storage.path().to_path_buf(),
        source,
    })?;
    Ok(verify_each(&shelf, positions))
}

/// The same, of these, which were there.
fn verify_each(shelf: &Shelf, positions: Vec<Position>) -> Vec<Result<Verified, Rejected>> {
    let whole = |position| {
        let bytes = shelf.open(position)?.bytes;
        Ok(Verified { position, rows: shelf.verify(position)?, bytes })
    };
    // What is given up may be written over by the next one: its bytes tell nothing when it has lost its name.
    let is_gone = |position| shelf.list().is_ok_and(|now| !now.contains(&position));
    let verified = positions.into_iter().filter_map(|position| match whole(position) {
        Err(_) if is_gone(position) => None,
        verified => Some(verified.map_err(|bad| Rejected::new(file_name(position), &bad))),
    });
    verified.collect()
}

#[cfg(all(test, not(loom)))]
#[path = "../../tests/support/opening.rs"]
mod opening;

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};
    use std::sync::{Arc, Mutex};

    use mixlog_log::{MemoryLog, SharedLog};
    use serde::{Deserialize, Serialize};

    use super::super::Config;
    use super::opening::Opening;
    use super::*;
    use crate::{Engine, Never, Procedure, Table, Tx};

    const TEXTS: Table<u64, String> = Table::new("texts");

    #[derive(Serialize, Deserialize)]
    struct Write(u64);

    impl Procedure for Write {
        const NAME: &'static str = "write";
        type Output = ();
        type Abort = Never;

        fn run(&self, tx: &mut Tx<'_>) -> Result<(), Never> {
            tx.put(&TEXTS, self.0, "x".repeat(1 << 10));
            Ok(())
        }
    }

    fn take(engine: &Engine, n: u64) {
        engine.execute(&Write(n)).unwrap();
        engine.checkpoint().unwrap();
    }

    #[test]
    fn checkpoint_that_is_written_over_while_it_is_verified_is_no_damage() {
        let (directory, log) = (tempfile::tempdir().unwrap(), Arc::new(MemoryLog::new()));
        let storage: Option<Arc<dyn Storage>> = Some(Arc::new(FsStorage::new(directory.path())));
        // By more bytes than are logged: its space is the next one's.
        let config = Config { storage, keep: 1, every_bytes: Some(1 << 20), ..Config::default() };
        let engine = Engine::builder().table(&TEXTS).procedure::<Write>().threads(1).checkpoints(config);
        let engine = engine.open(Arc::<MemoryLog>::clone(&log)).unwrap();
        take(&engine, 0);
        let (engine, opened) = (Arc::new(Mutex::new(engine)), Arc::new(AtomicU32::new(0)));
        let happens = {
            let (engine, opened) = (Arc::clone(&engine), Arc::clone(&opened));
            // Right after the second time.
            move |is_open| {
                if is_open && opened.fetch_add(1, Ordering::Relaxed) == 1 {
                    let engine = engine.lock().unwrap();
                    (1..=2).for_each(|n| take(&engine, n));
                }
            }
        };
        let storage = Arc::new(Opening { storage: FsStorage::new(directory.path()), happens });
        let shelf = Shelf { storage, log: log.id() };
        assert_eq!(verify_each(&shelf, shelf.list().unwrap()), []);
        assert_eq!(opened.load(Ordering::Relaxed), 2);
        let [Ok(verified)] = verify_each(&shelf, shelf.list().unwrap())[..] else { panic!("it is whole") };
        assert_eq!(verified.position, engine.lock().unwrap().position().unwrap());
        // Damage is damage still.
        let name = directory.path().join(file_name(verified.position));
        let mut bytes = std::fs::read(&name).unwrap();
        bytes[500] ^= 1;
        std::fs::write(&name, bytes).unwrap();
        assert!(matches!(verify_each(&shelf, shelf.list().unwrap())[..], [Err(_)]));
    }
}
