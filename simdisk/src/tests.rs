//! What the model says of syncs that fail.

use mixlog_log::file::{Access, StorageFile};

use super::*;

/// What may be found after a power cut.
fn found(sim: &Sim) -> BTreeSet<Vec<u8>> {
    let mut random = Random(1);
    (0..100).map(|_| sim.disk().after(Cut::Some, &mut random).bytes("file").to_vec()).collect()
}

#[test]
fn bytes_that_a_failed_sync_lost_may_be_there_until_others_are_synced_over_them() {
    let sim = Sim::default();
    let file = sim.open("file", Access::CreateNew).unwrap();
    sim.sync_directory().unwrap();
    file.write_at(b"first", 0).unwrap();
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: 1, error: Failure::Errno(5) }));
    file.sync_data().unwrap_err();
    assert!(sim.fault_struck());
    file.sync_data().unwrap();
    // Perhaps it is only as long.
    assert_eq!(found(&sim), BTreeSet::from([b"".to_vec(), b"\0\0\0\0\0".to_vec(), b"first".to_vec()]));
    file.write_at(b"other", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(found(&sim), BTreeSet::from([b"other".to_vec()]));
}

/// A file that was "long", durably, and was cut to "lo" since.
fn cut() -> (Sim, Arc<dyn StorageFile>) {
    let sim = Sim::default();
    let file = sim.open("file", Access::CreateNew).unwrap();
    sim.sync_directory().unwrap();
    file.write_at(b"long", 0).unwrap();
    file.sync_data().unwrap();
    file.truncate(2).unwrap();
    (sim, file)
}

#[test]
fn length_is_saved_by_the_sync_after_one_that_failed() {
    let (sim, file) = cut();
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: 1, error: Failure::Errno(5) }));
    file.sync_data().unwrap_err();
    assert_eq!(found(&sim), BTreeSet::from([b"lo".to_vec(), b"long".to_vec()]));
    file.sync_data().unwrap();
    assert_eq!(found(&sim), BTreeSet::from([b"lo".to_vec()]));
}

/// A file that holds "first", durably, and "other" since; the sync of that has failed, or nobody knows that it did.
fn lost(told: bool) -> Sim {
    let sim = Sim::default();
    let file = sim.open("file", Access::CreateNew).unwrap();
    sim.sync_directory().unwrap();
    file.write_at(b"first", 0).unwrap();
    file.sync_data().unwrap();
    file.write_at(b"other", 0).unwrap();
    if !told {
        return Sim::boot(sim.disk().after(Cut::Unsaved, &mut Random(1)));
    }
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: 1, error: Failure::Errno(5) }));
    file.sync_data().unwrap_err();
    sim
}

fn read(sim: &Sim) -> Vec<u8> {
    let mut buffer = [0; 16];
    let count = sim.open("file", Access::Read).unwrap().read_at(&mut buffer, 0).unwrap();
    buffer[..count].to_vec()
}

#[test]
fn bytes_that_were_lost_are_read_until_they_are_forgotten() {
    for told in [true, false] {
        let mut found = BTreeSet::new();
        for seed in 0..50 {
            let sim = lost(told);
            assert_eq!(read(&sim), b"other");
            sim.open("file", Access::Write).unwrap().sync_data().unwrap();
            sim.set_forgetful(seed);
            // Forgotten sooner or later; from then on the disk's own bytes are there, whichever they are, for good.
            while sim.disk().inodes[0].pending.iter().any(|write| write.clean) {
                read(&sim);
            }
            let now = read(&sim);
            let after: BTreeSet<_> = [Cut::Nothing, Cut::Some]
                .map(|cut| sim.disk().after(cut, &mut Random(seed)).bytes("file").to_vec())
                .into();
            assert_eq!(after, BTreeSet::from([now.clone()]));
            found.insert(now);
        }
        assert_eq!(found, BTreeSet::from([b"first".to_vec(), b"other".to_vec()]));
    }
}

#[test]
fn pages_that_were_written_since_are_not_forgotten() {
    for seed in 0..50 {
        let sim = lost(true);
        sim.set_forgetful(seed);
        let file = sim.open("file", Access::Write).unwrap();
        let found = read(&sim);
        file.write_at(b"O", 0).unwrap();
        for _ in 0..10 {
            assert_eq!(read(&sim), [b"O", &found[1..]].concat());
        }
    }
}

#[test]
fn end_of_a_process_saves_nothing() {
    let sim = Sim::default();
    let file = sim.open("file", Access::CreateNew).unwrap();
    file.write_at(b"first", 0).unwrap();
    let disk = sim.disk().after(Cut::Everything, &mut Random(1));
    assert_eq!(disk.bytes("file"), b"first");
    assert_eq!(disk.after(Cut::Nothing, &mut Random(1)).names(), Vec::<String>::new());
    // It is all there for who comes next to save.
    let sim = Sim::boot(disk);
    sim.open("file", Access::Write).unwrap().sync_data().unwrap();
    sim.sync_directory().unwrap();
    assert_eq!(found(&sim), BTreeSet::from([b"first".to_vec()]));
}

#[test]
fn bytes_that_were_lost_behind_an_earlier_cut_may_be_there() {
    let (sim, file) = cut();
    file.write_at(b"st", 2).unwrap();
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: 1, error: Failure::Errno(5) }));
    file.sync_data().unwrap_err();
    file.sync_data().unwrap();
    let found = found(&sim);
    assert!(found.contains(&b"lost"[..]) && found.contains(&b"lo"[..]) && !found.contains(&b"long"[..]));
}

#[test]
fn directory_is_found_once_that_above_it_is_synced() {
    let sim = Sim::default();
    let below = sim.storage().directory("one").directory("two");
    // The process ends before it comes to the last sync.
    sim.set_fault(Some(Fault { kind: Kind::SyncDirectory, after: 1, count: 1, error: Failure::Errno(5) }));
    below.create_directory().unwrap_err();
    let file = below.open("file", Access::CreateNew).unwrap();
    file.write_at(b"first", 0).unwrap();
    file.sync_data().unwrap();
    below.sync_directory().unwrap();
    let found = |cut, seed| sim.disk().after(cut, &mut Random(seed)).names();
    assert_eq!(found(Cut::Everything, 1), ["one/two/file"]);
    assert_eq!(found(Cut::Nothing, 1), Vec::<String>::new());
    let some: BTreeSet<_> = (0..50).map(|seed| found(Cut::Some, seed)).collect();
    assert_eq!(some.len(), 2);
    assert_eq!(Sim::boot(sim.disk().after(Cut::Nothing, &mut Random(1))).list().unwrap(), ["one"]);
    // Who finds it there makes it durable.
    below.create_directory().unwrap();
    assert_eq!(found(Cut::Nothing, 1), ["one/two/file"]);
}

#[test]
fn file_with_two_names_keeps_the_one_that_is_left() {
    let sim = Sim::default();
    let file = sim.open("making", Access::CreateNew).unwrap();
    file.write_at(b"first", 0).unwrap();
    file.sync_data().unwrap();
    sim.link("making", "file").unwrap();
    assert_eq!(sim.link("making", "file").unwrap_err().kind(), io::ErrorKind::AlreadyExists);
    sim.remove("making").unwrap();
    assert_eq!(sim.disk().after(Cut::Nothing, &mut Random(1)).names(), Vec::<String>::new());
    sim.sync_directory().unwrap();
    let disk = sim.disk().after(Cut::Nothing, &mut Random(1));
    assert_eq!((disk.names(), disk.bytes("file")), (vec!["file".to_owned()], &b"first"[..]));
}

#[test]
fn disk_refuses_what_it_was_told_to_from_the_first_sync_on_that_fails() {
    let sim = Sim::default();
    let storage = sim.storage();
    let file = storage.open("file", Access::CreateNew).unwrap();
    sim.set_refuses_after_failed_sync(&[Kind::Rename]);
    let error = Failure::Errno(5);
    sim.set_fault(Some(Fault { kind: Kind::Write, after: 0, count: 1, error }));
    assert!(file.write_at(b"x", 0).is_err());
    storage.rename("file", "renamed").unwrap();
    sim.set_fault(Some(Fault { kind: Kind::SyncDirectory, after: 0, count: 1, error }));
    assert!(storage.sync_directory().is_err());
    let refused = storage.rename("renamed", "file").unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
    file.write_at(b"x", 0).unwrap();
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: u64::MAX, error }));
    sim.set_strikes(Some("other"));
    file.sync_data().unwrap();
    sim.set_strikes(Some("renamed"));
    assert!(file.sync_data().is_err());
    sim.set_strikes(None);
    assert!(file.sync_data().is_err());
    sim.set_refuses_after_failed_sync(&[]);
    storage.rename("renamed", "file").unwrap();
}

#[test]
fn machines_are_in_boots_of_their_own_unless_these_are_called_the_same() {
    let (first, second) = (Sim::default(), Sim::boot(Disk::default()));
    assert_ne!(first.storage().boot(), second.storage().boot());
    second.set_boot(&first.storage().directory("any").boot());
    assert_eq!(first.storage().boot(), second.storage().boot());
}
