//! What the model says of syncs that fail.

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
    assert_eq!(found(&sim), BTreeSet::from([b"".to_vec(), b"first".to_vec()]));
    file.write_at(b"other", 0).unwrap();
    file.sync_data().unwrap();
    assert_eq!(found(&sim), BTreeSet::from([b"other".to_vec()]));
}

#[test]
fn length_is_saved_by_the_sync_after_one_that_failed() {
    let sim = Sim::default();
    let file = sim.open("file", Access::CreateNew).unwrap();
    sim.sync_directory().unwrap();
    file.write_at(b"long", 0).unwrap();
    file.sync_data().unwrap();
    file.truncate(2).unwrap();
    sim.set_fault(Some(Fault { kind: Kind::Sync, after: 0, count: 1, error: Failure::Errno(5) }));
    file.sync_data().unwrap_err();
    assert_eq!(found(&sim), BTreeSet::from([b"lo".to_vec(), b"long".to_vec()]));
    file.sync_data().unwrap();
    assert_eq!(found(&sim), BTreeSet::from([b"lo".to_vec()]));
}
