//! Of which log a unit's files are, and which unit of it: a small file beside the journal.
//!
//! The journal's records say so too. But if these are what was lost, the unit would be nobody, whom any log may empty;
//! and the cluster that it belongs to must be able to, without a person. The file is durable before a log's first
//! record is.

use std::io;

use crate::LogId;
use crate::file::{Access, Storage, read_file, write_full};

use super::message::UnitNumber;

const NAME: &str = "owner";
const WRITING: &str = "owner.writing";

/// Whose the files are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Owner {
    pub(crate) log: LogId,
    pub(crate) unit: UnitNumber,
}

impl Owner {
    /// What the file in the unit's directory says; `None` if there is none, or it is damaged.
    pub(crate) fn read(directory: &dyn Storage) -> io::Result<Option<Self>> {
        match read_file(directory, NAME) {
            Ok(text) => Ok(Self::parse(&text)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Has the file say so, durably.
    pub(crate) fn write(self, directory: &dyn Storage) -> io::Result<()> {
        match directory.remove(WRITING) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let file = directory.open(WRITING, Access::CreateNew)?;
        write_full(&*file, self.text().as_bytes(), 0)?;
        file.sync_data()?;
        directory.rename(WRITING, NAME)?;
        directory.sync_directory()
    }

    fn text(self) -> String {
        let text = format!("log {} unit {}", self.log, self.unit);
        format!("{text} {:08x}\n", crc32c::crc32c(text.as_bytes()))
    }

    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let mut words = text.split(' ').skip(1).step_by(2);
        let log = LogId(u128::from_str_radix(words.next()?, 16).ok()?);
        let owner = Self { log, unit: UnitNumber(words.next()?.parse().ok()?) };
        (owner.text() == text).then_some(owner)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use crate::file::FsStorage;

    #[test]
    fn owner_is_read_back_and_not_from_a_file_that_is_damaged() {
        let directory = tempfile::tempdir().unwrap();
        let storage = FsStorage::new(directory.path());
        assert_eq!(Owner::read(&storage).unwrap(), None);
        let [first, second] = [(LogId(u128::MAX - 9), 7), (LogId(3), u32::MAX)]
            .map(|(log, unit)| Owner { log, unit: UnitNumber(unit) });
        for owner in [first, second] {
            owner.write(&storage).unwrap();
            assert_eq!(Owner::read(&storage).unwrap(), Some(owner));
        }
        let text = second.text().into_bytes();
        for bit in 0..8 * text.len() {
            let mut damaged = text.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Owner::parse(&damaged), None, "bit {bit}");
        }
        assert!((0..text.len()).all(|length| Owner::parse(&text[..length]).is_none()));
    }
}
