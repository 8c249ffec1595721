//! What members keep, and start from: states that were agreed.

use std::path::PathBuf;

use mixlog_engine::Digest;
use mixlog_engine::checkpoint::{CheckpointError, Config};
use mixlog_log::Entry;
use mixlog_log::file::FsStorage;
use tempfile::TempDir;

use super::*;

fn in_files(directory: &TempDir) -> Arc<dyn SharedLog> {
    let config = file::Config {
        durability: Durability::Buffered,
        segment_bytes: 256 << 10,
        max_batch_bytes: 64 << 10,
        ..file::Config::default()
    };
    Arc::new(FileLog::open(directory.path(), config).unwrap())
}

fn keep() -> Config {
    Config { every_bytes: None, keep: 3, ..Config::default() }
}

/// An engine that compares with nobody.
fn alone() -> Builder {
    Engine::builder().table(&ROWS).table(&OTHERS).procedure::<Add<NONE>>().threads(1)
}

/// Somebody who compares with nobody has begun the log.
fn written_alone(directory: &TempDir) {
    let engine = alone().open(in_files(directory)).unwrap();
    submit(&engine, 4000..6000);
    engine.close().unwrap();
}

/// The positions of the checkpoints in a directory.
fn kept(directory: impl Into<PathBuf>) -> Vec<Position> {
    let names = std::fs::read_dir(directory.into()).into_iter().flatten();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut positions: Vec<_> = names
        .filter_map(|name| u64::from_str_radix(name.strip_prefix("checkpoint-")?, 16).ok().map(Position))
        .collect();
    positions.sort_unstable();
    positions
}

/// Whether the engine has the state that a replica has that executed everything itself.
fn is_like(engine: &Engine, replica: &Replica) {
    settle(engine, 2);
    let tail = engine.log().tail().unwrap().tail;
    wait_for("the end of the log", || engine.position() == tail.previous());
    assert!(replica.wait(tail.previous().unwrap(), PATIENCE));
    assert_eq!(engine.digest(), replica.digest());
}

#[test]
fn member_keeps_no_state_that_nobody_agreed_on() {
    let directory = tempfile::tempdir().unwrap();
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    submit(&engine, 0..5000);
    let error = engine.checkpoint().unwrap_err();
    assert!(matches!(error, CheckpointError::NotAgreed), "{error}");
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let agreed = settle(&engine, 2);
    let taken = engine.checkpoint().unwrap();
    assert_eq!(taken.position, agreed);
    submit(&engine, 5000..6000);
    assert_eq!(engine.checkpoint().unwrap().position, agreed, "nothing newer was agreed");
    engine.close().unwrap();
    assert_eq!(kept(directory.path().join("checkpoints")), [agreed]);
    // What it starts from is compared with the votes on it, on one thread and on more.
    for threads in [1, 2] {
        let engine = member::<NONE>("a", &THREE, threads).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
        assert_eq!(engine.recovery().checkpoint, Some(agreed));
        assert!(engine.agreed(2).and_then(|digest| digest.position) >= Some(agreed), "{threads} threads");
        is_like(&engine, &b);
        engine.close().unwrap();
    }
}

#[test]
fn engine_that_diverges_leaves_only_checkpoints_of_agreed_states_and_a_log_that_goes_on_from_them() {
    let directory = tempfile::tempdir().unwrap();
    let log = in_files(&directory);
    // As often as can be.
    let often = || Config { every_bytes: Some(1), ..Config::default() };
    let engine =
        member::<FLIP_OF_KEEPER>("a", &THREE, 2).checkpoints(often()).open(Arc::clone(&log)).unwrap();
    let submit = |numbers: std::ops::Range<u64>| {
        let tickets = numbers.map(|n| engine.submit(&Add::<FLIP_OF_KEEPER> { n }).unwrap());
        tickets.collect::<Vec<_>>().into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    };
    submit(0..4000);
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let agreed = engine.pad().unwrap();
    assert!(engine.wait_agreed(agreed, 2, PATIENCE));
    wait_for("the first checkpoint", || engine.checkpoints() == [agreed]);
    // One that is right and one that is wrong make no majority of three.
    submit(4000..9000);
    let wrong = engine.digest().position;
    assert_eq!(engine.checkpoint().unwrap().position, agreed);
    let c = Replica::follow(|| member::<NONE>("c", &THREE, 2), Arc::clone(&log)).unwrap();
    let _ = engine.pad();
    wait_for("the stop", || engine.has_stopped());
    let error = engine.checkpoint().unwrap_err();
    assert!(matches!(error, CheckpointError::Stopped), "{error}");
    assert!(matches!(engine.backup(directory.path().join("backup")), Err(checkpoint::BackupError::Stopped)));
    assert!(matches!(engine.close(), Err(OpenError::Diverged(_))));
    assert_eq!(kept(directory.path().join("checkpoints")), [agreed]);
    drop(c);
    // A good build goes on from there.
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    assert_eq!(engine.recovery().checkpoint, Some(agreed));
    assert!(engine.digest().position > wrong);
    is_like(&engine, &b);
}

#[test]
fn member_keeps_a_state_that_the_others_agree_on_though_they_are_far_behind() {
    let directory = tempfile::tempdir().unwrap();
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<HELD>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    // Asks for the next one.
    assert!(matches!(engine.checkpoint(), Err(CheckpointError::NotAgreed)));
    submit(&engine, 0..20 * WINDOW_GRID);
    ONCE[usize::from(HELD)].store(true, Ordering::Release);
    let first = Position(WINDOW_GRID - 1);
    assert!(engine.wait_agreed(first, 2, PATIENCE));
    wait_for("the state", || engine.checkpoint().is_ok());
    assert_eq!(engine.checkpoints(), [first]);
    ONCE[usize::from(HELD) + 1].store(true, Ordering::Release);
    let last = settle(&engine, 2);
    assert_eq!(engine.checkpoint().unwrap().position, last);
    is_like(&engine, &b);
}

/// Copies a log that nobody has open.
fn copy_log(from: &TempDir, to: &TempDir) {
    for entry in std::fs::read_dir(from.path()).unwrap().map(Result::unwrap) {
        if entry.file_type().unwrap().is_file() {
            std::fs::copy(entry.path(), to.path().join(entry.file_name())).unwrap();
        }
    }
}

/// Executes a copy of a log that nobody has open, in another directory, and keeps a state there that is wrong in the row
/// of [`key`], and every checksum of which is right: who compares with nobody does not know better. Tells its digest.
fn keep_wrong<const FAULT: Fault>(directory: &TempDir, copy: &TempDir, pads: bool) -> Digest {
    copy_log(directory, copy);
    let writer = Engine::builder().table(&ROWS).table(&OTHERS).procedure::<Add<FAULT>>();
    let writer = writer.checkpoints(keep()).open(in_files(copy)).unwrap();
    if pads {
        let padded = writer.pad().unwrap();
        wait_for("the padding", || writer.position() == Some(padded));
    }
    let wrong = writer.digest();
    assert_eq!(Some(writer.checkpoint().unwrap().position), wrong.position);
    writer.close().unwrap();
    wrong
}

/// As [`keep`], in the checkpoints beside a log in this directory.
fn keep_in(directory: &TempDir) -> impl Fn() -> Config + Clone + Send + Sync + 'static {
    let shelf = directory.path().join("checkpoints");
    move || Config { storage: Some(Arc::new(FsStorage::new(&shelf))), ..keep() }
}

/// A replica c whose shelf is this one.
fn follow_from(shelf: &TempDir, log: &Arc<dyn SharedLog>) -> Replica {
    let config = keep_in(shelf);
    Replica::follow(move || member::<NONE>("c", &THREE, 1).checkpoints(config()), Arc::clone(log)).unwrap()
}

fn repaired(c: &Replica) -> Divergence {
    wait_for("the end of the repair", || {
        c.failed().is_some() || c.divergences().first().is_some_and(|divergence| divergence.repaired)
    });
    let [divergence] = &c.divergences()[..] else { panic!("{:?}", c.divergences()) };
    assert!(divergence.repaired, "{divergence}");
    assert_eq!(divergence.tables[0].keys, [key()], "{divergence}");
    divergence.clone()
}

#[test]
fn replica_from_a_wrong_state_that_nobody_voted_on_is_repaired_from_the_start_of_the_log() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written_alone(&directory);
    let wrong = keep_wrong::<FLIP_BEFORE_START>(&directory, &copy, false);
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let c = follow_from(&copy, &log);
    assert_eq!((c.recovery().checkpoint, c.recovery().agreed), (wrong.position, false));
    settle(&engine, 2);
    let divergence = repaired(&c);
    assert_eq!((divergence.position, divergence.agreed), (Position(WINDOW_GRID - 1), None));
    assert_eq!(c.recovery().checkpoint, None);
    is_repaired(&c, &engine);
    assert_eq!(b.divergences(), []);
    // A wrong one and the right one; none on the state that was built from the same checkpoint once more.
    assert_eq!(votes_of(&log, "c", divergence.position), 2);
}

/// How many votes a member has cast on a position.
pub(super) fn votes_of(log: &Arc<dyn SharedLog>, member: &str, on: Position) -> usize {
    let (mut found, mut next) = (0, log.tail().unwrap().head);
    while let Some(block) = log.read(next).unwrap() {
        for (_, entry) in block.iter() {
            // A vote, in postcard's format: the name of a member, and the position.
            if let Entry::Data(&[4, 0, 0, 0, ref vote @ ..]) = entry
                && let Ok((name, position)) =
                    postcard::take_from_bytes::<(String, u64)>(vote).map(|taken| taken.0)
            {
                found += usize::from(name == member && position == on.0);
            }
        }
        next = block.end();
    }
    found
}

#[test]
fn replica_whose_repair_starts_from_a_state_that_older_votes_speak_against_starts_from_before() {
    let (directory, shelf) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (alone, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written_alone(&directory);
    copy_log(&directory, &alone);
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let config = keep_in(&shelf);
    let faulty = move || member::<FLIP_LATER>("c", &THREE, 1).checkpoints(config());
    let c = Replica::follow(faulty, Arc::clone(&log)).unwrap();
    let agreed = settle(&engine, 3);
    // One of before, on which nobody voted, that it has not seen yet.
    let wrong = keep_wrong::<FLIP_BESIDE>(&alone, &copy, false).position.unwrap();
    assert!(wrong < agreed);
    std::fs::create_dir_all(shelf.path().join("checkpoints")).unwrap();
    let name = format!("checkpoints/checkpoint-{:016x}", wrong.0);
    std::fs::copy(copy.path().join(&name), shelf.path().join(&name)).unwrap();
    submit(&engine, AT..AT + 6000);
    let later = settle(&engine, 2);
    let divergence = repaired(&c);
    assert!(agreed < divergence.position && divergence.position <= later, "{divergence}");
    assert_eq!(c.recovery().checkpoint, None);
    is_repaired(&c, &engine);
    assert_eq!(b.divergences(), []);
}

#[test]
fn replica_of_a_trimmed_log_from_a_wrong_state_stops_and_is_rebuilt_from_the_checkpoint_of_another() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    written_alone(&directory);
    let wrong = keep_wrong::<FLIP_BEFORE_TRIM>(&directory, &copy, false).position.unwrap();
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    wait_for("the log", || b.position() >= Some(wrong));
    log.trim(wrong.next()).unwrap();
    let c = follow_from(&copy, &log);
    let agreed = settle(&engine, 2);
    wait_for("the stop", || c.failed().is_some());
    let Some(OpenError::Diverged(divergence)) = c.failed() else { panic!("{:?}", c.failed()) };
    assert_eq!((divergence.position, divergence.agreed, divergence.repaired), (agreed, None, false));
    let text = divergence.to_string();
    let suspect = format!("from the checkpoint of position {wrong}, on which nobody voted, it comes to");
    assert!(text.contains(&suspect) && text.contains("the log starts at position"), "{text}");
    // Nothing tells which of them it is, but that it is one of a few.
    let [differing] = &divergence.tables[..] else { panic!("{text}") };
    let suspects = differing.suspects.as_ref().expect("no state was agreed");
    assert_eq!((differing.buckets.len(), suspects.rows), (1, suspects.keys.len() as u64), "{text}");
    assert!(differing.keys.is_empty() && (1..=16).contains(&suspects.rows), "{text}");
    assert!(suspects.keys.contains(&key()) && text.contains(&suspects.keys.join(", ")), "{text}");
    drop(c);
    submit(&engine, 6000..7000);
    assert_eq!(engine.checkpoint().unwrap().position, agreed);
    let c = follow_from(&directory, &log);
    assert_eq!((c.recovery().checkpoint, c.recovery().agreed), (Some(agreed), true));
    is_repaired(&c, &engine);
    assert_eq!((c.divergences(), b.divergences()), (vec![], vec![]));
}

#[test]
fn replica_of_a_trimmed_log_from_a_wrong_state_is_repaired_from_an_earlier_one_that_was_agreed() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = in_files(&directory);
    let whole = Config { trim: false, ..keep() };
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(whole).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..4500);
    let agreed = settle(&engine, 2);
    assert_eq!(engine.checkpoint().unwrap().position, agreed);
    submit(&engine, 4500..6000);
    drop(b);
    engine.close().unwrap();
    drop(log);
    let wrong = keep_wrong::<FLIP_ON_SHELF>(&directory, &copy, false);
    for name in std::fs::read_dir(directory.path().join("checkpoints")).unwrap().map(Result::unwrap) {
        std::fs::copy(name.path(), copy.path().join("checkpoints").join(name.file_name())).unwrap();
    }
    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || member::<NONE>("b", &THREE, 1).checkpoints(keep()), Arc::clone(&log));
    let b = b.unwrap();
    log.trim(agreed.next()).unwrap();
    let c = follow_from(&copy, &log);
    assert_eq!((c.recovery().checkpoint, c.recovery().agreed), (wrong.position, false));
    settle(&engine, 2);
    repaired(&c);
    assert_eq!((c.recovery().checkpoint, c.recovery().agreed), (Some(agreed), true));
    is_repaired(&c, &engine);
    assert_eq!(b.divergences(), []);
}

#[test]
fn checkpoint_of_a_state_that_the_members_voted_against_is_refused_by_name() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = in_files(&directory);
    let engine = alone().checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    submit(&engine, 4000..6000);
    engine.close().unwrap();
    drop(log);
    let wrong = keep_wrong::<FLIP_OF_WRITER>(&directory, &copy, true);
    let padded = wrong.position.unwrap();
    let with_wrong = keep_in(&copy);

    let log = in_files(&directory);
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    assert_eq!(settle(&engine, 2), padded);
    // Who takes part is told, whether it answers clients or follows.
    for follows in [true, false] {
        let recovery = if follows {
            let with_wrong = with_wrong.clone();
            let make = move || member::<NONE>("c", &THREE, 1).checkpoints(with_wrong());
            let c = Replica::follow(make, Arc::clone(&log)).unwrap();
            is_like(&engine, &c);
            assert_eq!(c.divergences(), []);
            c.recovery()
        } else {
            let c = member::<NONE>("c", &THREE, 1).checkpoints(with_wrong()).open(Arc::clone(&log)).unwrap();
            is_like(&c, &b);
            c.recovery().clone()
        };
        let [rejected] = &recovery.rejected[..] else { panic!("{recovery}") };
        assert_eq!(rejected.name, format!("checkpoint-{:016x}", padded.0));
        assert!(rejected.reason.contains(&wrong.to_string()), "{rejected}");
        assert_eq!(recovery.checkpoint, None);
    }
}

/// What others agree on tells nothing of who started behind it from a state that nobody compared.
#[test]
fn engine_is_not_confirmed_at_positions_before_the_checkpoint_that_it_started_from() {
    let [directory, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let log = in_files(&directory);
    let engine = alone().open(Arc::clone(&log)).unwrap();
    // They wait before that vote.
    let [b, c] = ["b", "c"].map(|name| {
        Replica::follow(move || member::<HELD_BEFORE_A_VOTE>(name, &THREE, 1), Arc::clone(&log)).unwrap()
    });
    submit(&engine, 900..5100);
    engine.close().unwrap();
    let started = keep_wrong::<FLIP_BEHIND_A_VOTE>(&directory, &copy, false).position.unwrap();
    let voted = Position(WINDOW_GRID - 1);
    assert!(started > voted && started.0 < 2 * WINDOW_GRID - 1);
    let config = keep_in(&copy);
    let engine = member::<NONE>("a", &THREE, 1).checkpoints(config()).open(Arc::clone(&log)).unwrap();
    assert_eq!(engine.recovery().checkpoint, Some(started));
    ONCE[usize::from(HELD_BEFORE_A_VOTE) + 1].store(true, Ordering::Release);
    wait_for("both votes", || b.agreed(2).and_then(|agreed| agreed.position) >= Some(voted));
    let tail = log.tail().unwrap().tail;
    wait_for("what was read of them", || engine.position() >= tail.previous());
    // A transaction has it look at all votes before.
    engine.execute(&Add::<NONE> { n: 1 }).unwrap();
    engine.execute(&Add::<NONE> { n: 2 }).unwrap();
    assert_eq!(engine.agreed(2), None);
    // Where all can be compared, it is told.
    let _ = engine.pad();
    wait_for("the stop", || engine.has_stopped());
    assert!(matches!(engine.close(), Err(OpenError::Diverged(_))));
    assert!(c.failed().is_none());
}

/// Who compares with nobody reads the votes of others, too.
#[test]
fn checkpoint_that_most_voted_against_is_passed_over_by_who_is_no_member_and_nothing_is_trimmed_to_it() {
    let [directory, copy] = [(); 2].map(|()| tempfile::tempdir().unwrap());
    let engine = alone().open(in_files(&directory)).unwrap();
    submit(&engine, 900..5100);
    engine.close().unwrap();
    let wrong = keep_wrong::<FLIP_OF_AGREED>(&directory, &copy, true);
    let log = in_files(&directory);
    let members = ["a", "b", "c"]
        .map(|name| Replica::follow(move || member::<NONE>(name, &THREE, 1), Arc::clone(&log)).unwrap());
    let padded = members[0].pad().unwrap();
    assert_eq!(Some(padded), wrong.position);
    assert!(members[0].wait_agreed(padded, 3, PATIENCE));
    let right = members[0].agreed(3).unwrap();
    assert_ne!(right.state, wrong.state);
    let keep = || Config { keep: 1, ..keep_in(&copy)() };
    let engine = alone().checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    let recovery = engine.recovery();
    assert!(recovery.checkpoint.is_none() && recovery.rejected.len() == 1, "{recovery}");
    assert!(recovery.rejected[0].reason.contains("the members agreed on"), "{recovery}");
    // One that is kept besides, and is right, is what the log is trimmed to.
    let taken = engine.checkpoint().unwrap().position;
    assert!(taken > padded);
    engine.close().unwrap();
    let engine = alone().checkpoints(Config { keep: 2, ..keep() }).open(Arc::clone(&log)).unwrap();
    assert_eq!(engine.recovery().checkpoint, Some(taken));
    engine.checkpoint().unwrap();
    assert_eq!(engine.checkpoints(), [taken]);
}

#[test]
fn replica_that_has_nothing_to_be_rebuilt_from_stops_and_says_so() {
    let log = memory();
    let engine = member::<NONE>("a", &THREE, 2).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let c = Replica::follow(|| member::<FLIP_UNTIL_TRIMMED>("c", &THREE, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..3000);
    let agreed = settle(&engine, 3);
    log.trim(agreed.next()).unwrap();
    submit(&engine, 3000..8000);
    settle(&engine, 2);
    wait_for("the stop", || c.failed().is_some());
    let Some(OpenError::Diverged(divergence)) = c.failed() else { panic!("{:?}", c.failed()) };
    assert_eq!((divergence.agreed, divergence.repaired), (Some(agreed), false));
    let text = divergence.to_string();
    assert!(text.contains("cannot be repaired") && text.contains(&key()), "{text}");
    assert_eq!(c.divergences(), [*divergence]);
    assert_eq!((b.divergences(), b.failed().map(|e| e.to_string())), (vec![], None));
}

#[test]
fn replica_of_a_trimmed_log_in_files_starts_and_repairs_itself_from_the_checkpoints_of_another() {
    let directory = tempfile::tempdir().unwrap();
    let log = in_files(&directory);
    // Nobody compares yet.
    let engine = alone().checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    submit(&engine, 0..3000);
    engine.checkpoint().unwrap();
    engine.close().unwrap();
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || member::<NONE>("b", &THREE, 1).checkpoints(keep()), Arc::clone(&log))
        .unwrap();
    assert!(b.recovery().checkpoint.is_some());
    let faulty = move || member::<FLIP_IN_FILES>("c", &THREE, 2).checkpoints(keep());
    let c = Replica::follow(faulty, Arc::clone(&log)).unwrap();
    submit(&engine, 3000..4500);
    settle(&engine, 3);
    submit(&engine, 4500..9000);
    settle(&engine, 2);
    wait_for("the repair", || c.divergences().first().is_some_and(|divergence| divergence.repaired));
    assert!(c.recovery().checkpoint.is_some(), "{}", c.recovery());
    is_repaired(&c, &engine);
    // From here on only checkpoints tell what was before.
    for n in 0..3 {
        submit(&engine, 20_000 + n * 6000..26_000 + n * 6000);
        settle(&engine, 3);
        engine.checkpoint().unwrap();
    }
    assert!(log.tail().unwrap().head > Position::ZERO);
    let late = Replica::follow(move || member::<NONE>("b", &THREE, 1).checkpoints(keep()), Arc::clone(&log));
    let late = late.unwrap();
    assert!(late.wait(log.tail().unwrap().tail.previous().unwrap(), PATIENCE));
    assert!(late.recovery().checkpoint.is_some());
    drop(b);
    is_repaired(&late, &engine);
}

#[test]
fn log_is_kept_for_a_member_that_lags_and_not_for_ever_for_one_that_is_gone() {
    let (directory, nothing) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = in_files(&directory);
    let head = || log.tail().unwrap().head;
    let config = Config { every_bytes: None, keep: 1, lag: 3, ..Config::default() };
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(config).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    let mut n = 0;
    let mut checkpoint_agreed_by = |members| {
        submit(&engine, n..n + 2500);
        n += 2500;
        let agreed = settle(&engine, members);
        assert_eq!(engine.checkpoint().unwrap().position, agreed);
        agreed
    };
    for _ in 0..3 {
        checkpoint_agreed_by(2);
        assert_eq!(head(), Position::ZERO, "the third member has not come yet");
    }
    // It comes without any checkpoint.
    let elsewhere = nothing.path().to_path_buf();
    let storage = move || Some(Arc::new(FsStorage::new(&elsewhere)) as Arc<dyn file::Storage>);
    let late = move || member::<NONE>("c", &THREE, 1).checkpoints(Config { storage: storage(), ..keep() });
    let c = Replica::follow(late, Arc::clone(&log)).unwrap();
    let agreed = checkpoint_agreed_by(3);
    assert_eq!((head(), c.recovery().checkpoint), (agreed.next(), None), "nobody lags");
    c.close().unwrap();
    let checkpoints: Vec<_> = (0..5).map(|_| (checkpoint_agreed_by(2), head())).collect();
    // Of the grid's position in front, on which it voted last.
    let last = agreed.next();
    let heads: Vec<_> = checkpoints.iter().map(|(_, head)| *head).collect();
    assert_eq!(heads, [last, last, last, checkpoints[0].0.next(), checkpoints[1].0.next()]);
    b.close().unwrap();
}

/// The same rows, as a later build of the program has them.
const WIDE: Table<u64, (u64, u64)> = Table::new("rows").version(2);

/// As [`Add`], to rows of the later version. `FAULT`: [`NONE`], [`REPLY_IN_WIDE`], or, for replying something else
/// each time, another one.
#[derive(Serialize, Deserialize)]
struct AddWide<const FAULT: Fault> {
    n: u64,
}

impl<const FAULT: Fault> Procedure for AddWide<FAULT> {
    const NAME: &'static str = "add";
    type Output = u64;
    type Abort = Never;

    /// Nobody runs it ahead to find it: its first time is the one that counts.
    fn footprint(&self, f: &mut Footprint<'_>) {
        f.write(&WIDE, &key_of(self.n));
    }

    fn run(&self, tx: &mut Tx<'_>) -> Result<u64, Never> {
        let key = key_of(self.n);
        let sum = tx.get(&WIDE, &key).map_or(0, |row| row.0).wrapping_mul(3) + self.n;
        tx.put(&WIDE, key, (sum, !sum));
        let is_wrong = self.n == AT
            && match FAULT {
                NONE => false,
                REPLY_IN_WIDE => !ONCE[usize::from(FAULT)].swap(true, Ordering::Relaxed),
                _ => true,
            };
        Ok(if is_wrong { sum + 1 } else { sum })
    }
}

fn later_build<const FAULT: Fault>(name: &str, directory: &TempDir) -> Builder {
    Engine::builder()
        .table(&WIDE)
        .table(&OTHERS)
        .convert(&ROWS, &WIDE, |key, sum| (key, (sum, !sum)))
        .procedure::<AddWide<FAULT>>()
        .member(Membership::new(name, THREE))
        .checkpoints(keep_in(directory)())
}

#[test]
fn members_of_a_build_with_other_rows_compare_with_each_other_and_with_no_older_votes() {
    let (directory, shelf) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
    let log = in_files(&directory);
    let config = keep_in(&shelf);
    let older = move |name| member::<NONE>(name, &THREE, 1).checkpoints(Config { trim: false, ..config() });
    let engine = older("a").open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(
        {
            let older = older.clone();
            move || older("b")
        },
        Arc::clone(&log),
    )
    .unwrap();
    submit(&engine, 0..3000);
    let first = settle(&engine, 2);
    assert_eq!(engine.checkpoint().unwrap().position, first);
    // Votes on positions behind the checkpoint, too.
    submit(&engine, 3000..9000);
    let second = settle(&engine, 2);
    engine.close().unwrap();

    // One of three is of the later build: the two others agree without it, and it goes on without them.
    let engine = older("a").open(Arc::clone(&log)).unwrap();
    let beside = Arc::clone(&shelf);
    let c = Replica::follow(move || later_build::<NONE>("c", &beside), Arc::clone(&log)).unwrap();
    assert_eq!((c.recovery().checkpoint, c.recovery().agreed), (Some(first), true));
    submit(&engine, 9000..12_000);
    let third = settle(&engine, 2);
    assert!(c.wait(third, PATIENCE), "{:?}", c.failed());
    assert_eq!((engine.agreed(3), b.agreed(3), c.agreed(2)), (None, None, None));
    assert_eq!((c.divergences(), b.divergences()), (vec![], vec![]));
    engine.close().unwrap();
    b.close().unwrap();

    // Two are.
    let engine = later_build::<NONE>("a", &shelf).open(Arc::clone(&log)).unwrap();
    assert_eq!(engine.recovery().checkpoint, Some(first));
    let tickets: Vec<_> = (12_000..15_000).map(|n| engine.submit(&AddWide::<NONE> { n }).unwrap()).collect();
    tickets.into_iter().for_each(|ticket| drop(ticket.wait().unwrap()));
    let fourth = settle(&engine, 2);
    assert!(first < second && second < third && third < fourth);
    assert!(c.wait(fourth, PATIENCE), "{:?}", c.failed());
    assert_eq!((c.divergences(), c.snapshot().get(&WIDE, &7)), (vec![], engine.snapshot().get(&WIDE, &7)));
    assert_eq!(engine.checkpoint().unwrap().position, fourth);
    drop(engine);
    let engine = later_build::<NONE>("a", &shelf).open(Arc::clone(&log)).unwrap();
    assert_eq!((engine.recovery().checkpoint, engine.recovery().agreed), (Some(fourth), true));
}

#[test]
fn checkpoint_that_is_converted_to_a_state_that_the_members_voted_against_is_refused_by_name() {
    let (directory, copy) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let log = in_files(&directory);
    let engine = alone().checkpoints(keep()).open(Arc::clone(&log)).unwrap();
    submit(&engine, 4000..6000);
    engine.close().unwrap();
    drop(log);
    let wrong = keep_wrong::<FLIP_BEFORE_CONVERSION>(&directory, &copy, true);
    let right = tempfile::tempdir().unwrap();
    assert_eq!(keep_wrong::<NONE>(&directory, &right, true).position, wrong.position);
    let padded = wrong.position.unwrap();

    let (log, empty) = (in_files(&directory), Arc::new(tempfile::tempdir().unwrap()));
    let engine = later_build::<NONE>("a", &empty).open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(move || later_build::<NONE>("b", &empty), Arc::clone(&log)).unwrap();
    assert_eq!(settle(&engine, 2), padded);
    let opened = later_build::<NONE>("c", &copy).open(Arc::clone(&log)).unwrap();
    let [rejected] = &opened.recovery().rejected[..] else { panic!("{}", opened.recovery()) };
    assert_eq!(rejected.name, format!("checkpoint-{:016x}", padded.0));
    assert!(rejected.reason.starts_with("converted, its digest is"), "{rejected}");
    assert_eq!(opened.recovery().checkpoint, None);
    is_like(&opened, &b);
    opened.close().unwrap();
    // One that is theirs is taken for that.
    let opened = later_build::<NONE>("c", &right).open(Arc::clone(&log)).unwrap();
    assert_eq!((opened.recovery().checkpoint, opened.recovery().agreed), (Some(padded), true));
    assert_eq!(opened.recovery().rejected, []);
    is_like(&opened, &b);
    assert_eq!(b.divergences(), []);
}

/// What becomes of a later build whose replies differ from those of two older ones.
fn reply_otherwise<const FAULT: Fault>() -> (Replica, Divergence, Engine, Replica, TempDir) {
    let (directory, shelf) = (tempfile::tempdir().unwrap(), Arc::new(tempfile::tempdir().unwrap()));
    let log = in_files(&directory);
    let config = keep_in(&shelf);
    let engine = member::<NONE>("a", &THREE, 2).checkpoints(Config { trim: false, ..config() });
    let engine = engine.open(Arc::clone(&log)).unwrap();
    let b = Replica::follow(|| member::<NONE>("b", &THREE, 1), Arc::clone(&log)).unwrap();
    submit(&engine, 0..3000);
    let first = settle(&engine, 2);
    engine.checkpoint().unwrap();
    let c = Replica::follow(move || later_build::<FAULT>("c", &shelf), Arc::clone(&log)).unwrap();
    assert_eq!(c.recovery().checkpoint, Some(first));
    submit(&engine, 3000..9000);
    settle(&engine, 2);
    let settled = || c.failed().is_some() || c.divergences().first().is_some_and(|told| told.repaired);
    wait_for("the end of the repair", settled);
    let divergence = c.divergences()[0].clone();
    assert_eq!(divergence.position, Position(2 * WINDOW_GRID - 1), "{divergence}");
    assert_ne!(divergence.expected.expect("two agree").replies, divergence.own.replies);
    let text = divergence.to_string();
    assert!(text.contains("replies differ, and the rows of the others are in other formats"), "{text}");
    assert_eq!(b.divergences(), []);
    (c, divergence, engine, b, directory)
}

#[test]
fn replies_are_compared_with_those_of_builds_with_other_rows() {
    let (c, divergence, ..) = reply_otherwise::<SKIP>();
    let Some(OpenError::Diverged(said)) = c.failed() else { panic!("{:?}", c.failed()) };
    assert!(!said.repaired && said.position == divergence.position, "{said}");
    // Once, and never again.
    let (c, divergence, engine, _b, _directory) = reply_otherwise::<REPLY_IN_WIDE>();
    assert!(divergence.repaired, "{divergence}");
    submit(&engine, 9000..13_000);
    let position = settle(&engine, 2);
    assert!(c.wait(position, PATIENCE), "{:?}", c.failed());
    assert_eq!((c.divergences().len(), c.failed().map(|e| e.to_string())), (1, None));
    assert_eq!(c.digest().replies, engine.digest().replies);
}
