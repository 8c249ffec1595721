//! Units whose journals were damaged: they say what they lost, and begin anew.

use super::lost::{AGAIN, NOBODY, joins_anew_in_its_own_log};
use super::*;

const MANIFEST: &str = "journal/manifest";

/// Two segments, each with entries and seals, closed.
const DAMAGED: &[Step] =
    &[Step::Singles(2), Step::Seal, Step::Burst(24), Step::Fill(2), Step::Seal, Step::Singles(3)];

/// What a unit makes of a damaged journal.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Found {
    /// Nothing is missing.
    Whole,
    /// It says of some positions that it lost them, and takes nothing until it joins anew.
    Corrupt,
    /// The record that says who it is, which is the first, was lost: all it knows is of which log it was, and it joins empty.
    Lost,
    /// It does not open.
    Refused(String),
}

/// Journals to damage.
struct Damages {
    disk: Disk,
    whole: View,
    config: UnitFiles,
}

impl Damages {
    fn new() -> Self {
        let config = files(Durability::Flushed);
        let disk = record(DAMAGED, &config, None).disk();
        let whole = views(DAMAGED).pop().expect("there is one");
        let damages = Self { disk, whole, config };
        assert_eq!(damages.found("nothing", &damages.disk, true), Found::Whole);
        damages
    }

    fn segments(&self) -> Vec<String> {
        let names: Vec<_> =
            self.disk.names().into_iter().filter(|name| name.starts_with("journal/segment-0")).collect();
        assert_eq!(names.len(), 2, "{names:?}");
        names
    }

    fn with(&self, name: &str, bytes: Vec<u8>) -> Disk {
        let mut damaged = self.disk.clone();
        damaged.set_bytes(name, bytes);
        damaged
    }

    fn flipped(&self, name: &str, at: usize) -> Disk {
        let mut bytes = self.disk.bytes(name).to_vec();
        bytes[at] ^= 1 << (at % 8);
        self.with(name, bytes)
    }

    /// Opens a unit on a damaged journal, and sees that it shows nothing that was not written, and nothing as unwritten that
    /// was; and, if it `joins`, that it begins anew.
    fn found(&self, what: &str, disk: &Disk, joins: bool) -> Found {
        let sim = machine(disk.clone());
        let unit = match UnitServer::open_with_storage(UNIT, u64::MAX, &self.config, sim.storage()) {
            Ok(unit) => unit,
            Err(error) => {
                assert_eq!(sim.trace().len(), 0, "{what}: what is refused is left as it is");
                return Found::Refused(error.to_string());
            }
        };
        let member = member_of(&unit).expect("it is somebody's");
        let is_lost = member == NOBODY;
        assert!(is_lost || Some(member) == self.whole.0, "{what}: {member:?}");
        let mut lost = 0;
        // Of the epoch that it is in if it lost nothing, and of any if it did.
        let answers = ask_all(&unit, reads(Epoch(3), member));
        for (at, (found, whole)) in (0..).map(Position).zip(answers.iter().zip(&self.whole.1[1..])) {
            if found != whole {
                assert_eq!(*found, UnitReply::Corrupt(at), "{what}");
                lost += 1;
            }
        }
        if lost == 0 {
            assert_eq!(view_of(&unit), self.whole, "{what}");
            return Found::Whole;
        }
        let request = |member, verb| UnitRequest { epoch: Epoch(9), member, verb };
        for verb in [UnitVerb::Seal, UnitVerb::Trim(Position(3)), UnitVerb::Probe] {
            let answer = ask(&unit, request(member, verb));
            assert!(matches!(answer, UnitReply::Corrupt(_) | UnitReply::Behind(_)), "{what}: {answer:?}");
        }
        if joins {
            joins_anew_in_its_own_log(&unit);
        }
        if is_lost { Found::Lost } else { Found::Corrupt }
    }
}

/// Where the frames of a segment are, up to the last one that is not a watermark; what comes then is harmless.
fn entries_of(bytes: &[u8]) -> std::ops::Range<usize> {
    let number = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize;
    let (mut at, mut end) = (4096, 4096);
    while bytes.get(at..at + 4) == Some(b"MXFR") {
        let next = at + 64 + number(at + 44).next_multiple_of(8);
        if number(at + 4) == 1 {
            end = next;
        }
        at = next;
    }
    4096..end
}

#[test]
fn byte_flipped_anywhere_in_the_journal_of_a_unit_is_corrupt_and_never_unwritten() {
    let damages = Damages::new();
    let (mut corrupt, mut all_lost, mut harmless) = (0, 0, 0);
    for name in damages.segments() {
        let bytes = damages.disk.bytes(&name);
        let entries = entries_of(bytes);
        // Every byte of header and frames, and some of the zeros around them.
        for at in (0..bytes.len()).filter(|at| *at < 64 || entries.contains(at) || at.is_multiple_of(64)) {
            let what = format!("{name} byte {at}");
            let found = damages.found(&what, &damages.flipped(&name, at), at % 64 == 0);
            let is_harmless = at >= 64 && !entries.contains(&at);
            assert_eq!(found == Found::Whole, is_harmless, "{what}: {found:?}");
            match found {
                Found::Whole => harmless += 1,
                Found::Corrupt => corrupt += 1,
                Found::Lost => all_lost += 1,
                Found::Refused(error) => panic!("{what}: {error}"),
            }
        }
    }
    println!("{corrupt} flips lost something, {all_lost} all, {harmless} nothing");
    assert!(corrupt > 5000 && all_lost > 100 && harmless > 100, "{corrupt} {all_lost} {harmless}");
}

#[test]
fn segment_of_a_units_journal_that_is_cut_or_missing_or_in_anothers_place_is_never_unwritten() {
    let damages = Damages::new();
    let (mut corrupt, mut all_lost) = (0, 0);
    let mut add = |what: &str, disk: &Disk| match damages.found(what, disk, false) {
        Found::Corrupt => corrupt += 1,
        Found::Lost => all_lost += 1,
        other => panic!("{what}: {other:?}"),
    };
    let names = damages.segments();
    let bytes = |at: usize| damages.disk.bytes(&names[at]).to_vec();
    for name in &names {
        let bytes = damages.disk.bytes(name);
        let entries = entries_of(bytes);
        for length in (0..bytes.len())
            .filter(|length| *length < 64 || entries.contains(length) || length.is_multiple_of(64))
        {
            add(&format!("{length} bytes of {name}"), &damages.with(name, bytes[..length].to_vec()));
        }
        let mut missing = damages.disk.clone();
        missing.delete(name);
        add(&format!("without {name}"), &missing);
    }
    let mut swapped = damages.with(&names[0], bytes(1));
    swapped.set_bytes(&names[1], bytes(0));
    add("swapped", &swapped);
    add("the first one twice", &damages.with(&names[1], bytes(0)));
    add("the second one twice", &damages.with(&names[0], bytes(1)));
    let other = Damages::new();
    for name in &names {
        add(&format!("another's {name}"), &damages.with(name, other.disk.bytes(name).to_vec()));
    }
    println!("{corrupt} lost something, {all_lost} all");
    assert!(corrupt > 3000 && all_lost > 100, "{corrupt} {all_lost}");
}

#[test]
fn manifest_of_a_units_journal_that_is_damaged_is_told_or_harmless() {
    let damages = Damages::new();
    let bytes = damages.disk.bytes(MANIFEST).to_vec();
    let refused = |what: &str, disk: &Disk| match damages.found(what, disk, false) {
        Found::Refused(error) => error,
        other => panic!("{what}: {other:?}"),
    };
    for at in (0..bytes.len()).filter(|at| at % 4096 < 512 || at.is_multiple_of(64)) {
        let disk = damages.flipped(MANIFEST, at);
        assert_eq!(damages.found(&format!("manifest byte {at}"), &disk, false), Found::Whole);
    }
    // The same byte of both copies.
    for at in 0..512 {
        let mut both = bytes.clone();
        both[at] ^= 1 << (at % 8);
        both[4096 + at] ^= 1 << (at % 8);
        let (what, disk) = (format!("manifests' bytes {at}"), damages.with(MANIFEST, both));
        if at < 8 {
            let error = refused(&what, &disk);
            assert!(error.contains("its manifest is not one of a log"), "{what}: {error}");
        } else {
            // Nothing is known of the journal, but of which log it was.
            assert_eq!(damages.found(&what, &disk, at % 64 == 8), Found::Lost);
        }
    }
    for length in (0..bytes.len()).filter(|length| length % 4096 <= 512 || length.is_multiple_of(64)) {
        let (what, disk) =
            (format!("manifest of {length} bytes"), damages.with(MANIFEST, bytes[..length].to_vec()));
        if length >= 512 {
            assert_eq!(damages.found(&what, &disk, false), Found::Whole);
        } else {
            let error = refused(&what, &disk);
            assert!(error.contains("its manifest is not one of a log"), "{what}: {error}");
        }
    }
    let mut missing = damages.disk.clone();
    missing.delete(MANIFEST);
    let error = refused("without manifest", &missing);
    assert!(error.contains("there is segment-") && error.contains(" but no manifest"), "{error}");
    // Another's: none of the segments belongs to it.
    let foreign = damages.with(MANIFEST, Damages::new().disk.bytes(MANIFEST).to_vec());
    assert!(matches!(damages.found("another's manifest", &foreign, false), Found::Lost | Found::Corrupt));
}

/// It is there for whoever replaces it, whenever that happens.
#[test]
fn unit_that_ends_while_it_throws_its_damaged_journal_away_opens_again() {
    let damages = Damages::new();
    let entries = entries_of(damages.disk.bytes(&damages.segments()[0]));
    let at = entries.start.midpoint(entries.end);
    let both = {
        let mut bytes = damages.disk.bytes(MANIFEST).to_vec();
        (bytes[40], bytes[4096 + 40]) = (!bytes[40], !bytes[4096 + 40]);
        damages.with(MANIFEST, bytes)
    };
    let join = |log| UnitRequest { epoch: Epoch(9), member: AGAIN, verb: UnitVerb::Join(log) };
    let mut random = Random(5);
    let (mut states, mut joined, mut earlier) = (0, 0, 0);
    for damaged in [damages.flipped(&damages.segments()[0], at), both] {
        let sim = machine(damaged.clone());
        let unit = open(&damages.config, sim.storage());
        assert!(matches!(ask(&unit, join(LOG)), UnitReply::Standing(_)));
        drop(unit);
        let mut disk = damaged;
        for call in sim.trace().iter().map(Some).chain([None]) {
            for cut in [Cut::Everything, Cut::Nothing].into_iter().chain([Cut::Some; 8]) {
                let left = disk.after(cut, &mut random);
                let unit = open(&damages.config, machine(left).storage());
                states += 1;
                let found = member_of(&unit);
                if found.is_some() {
                    let other = ask(&unit, join(LogId(LOG.0 + 1)));
                    assert_eq!(other, UnitReply::Stranger(found), "it is not another log's to empty");
                }
                match found {
                    Some(member) if member == AGAIN => joined += 1,
                    Some(member) => {
                        earlier += 1;
                        for (at, answer) in (0..).map(Position).zip(ask_all(&unit, reads(Epoch(9), member))) {
                            let lost = [UnitReply::Corrupt(at), UnitReply::Behind(Epoch(3))];
                            let is_known = answer == damages.whole.1[1 + at.0 as usize] && is_good(&answer);
                            let is_empty = matches!(&answer, UnitReply::Runs(runs) if runs.is_empty());
                            assert!(lost.contains(&answer) || is_known && !is_empty, "{at}: {answer:?}");
                        }
                    }
                    None => {}
                }
                assert!(matches!(ask(&unit, join(LOG)), UnitReply::Standing(_)));
            }
            if let Some(call) = call.filter(|call| !matches!(call, Call::Note(_))) {
                disk.apply(call);
            }
        }
    }
    println!("{states} states, in {joined} it had joined anew, in {earlier} it was the earlier member");
    assert!(joined > 0 && earlier > 0 && joined + earlier < states);
}

/// Journals that do not say of which log they were: no manifest can be read, or the first record, which says it, cannot.
fn nameless(damages: &Damages) -> [Disk; 2] {
    let mut manifest = damages.disk.bytes(MANIFEST).to_vec();
    (manifest[40], manifest[4096 + 40]) = (!manifest[40], !manifest[4096 + 40]);
    let first = &damages.segments()[0];
    [
        damages.with(MANIFEST, manifest),
        damages.flipped(first, entries_of(damages.disk.bytes(first)).start + 70),
    ]
}

#[test]
fn unit_of_which_nothing_says_whose_it_was_is_refused_and_left_to_a_person() {
    let damages = Damages::new();
    for disk in nameless(&damages) {
        assert_eq!(damages.found("it is known beside the journal", &disk, true), Found::Lost);
        let (mut missing, mut damaged) = (disk.clone(), disk);
        missing.delete("owner");
        let mut text = damaged.bytes("owner").to_vec();
        text[7] ^= 1;
        damaged.set_bytes("owner", text);
        for disk in [missing, damaged] {
            let Found::Refused(error) = damages.found("it is known nowhere", &disk, true) else {
                panic!("any log may empty it")
            };
            let advice = "nothing in /sim says of which log unit 1 was, so no log may have it begin anew. If its cluster does \
                          without it, remove /sim";
            assert!(error.ends_with(advice), "{error}");
        }
    }
}

#[test]
fn unit_says_of_which_log_it_is_beside_its_journal_though_it_joined_before_units_did_so() {
    let damages = Damages::new();
    let mut before = damages.disk.clone();
    before.delete("owner");
    let sim = machine(before);
    assert_eq!(view_of(&open(&damages.config, sim.storage())), damages.whole);
    assert_eq!(sim.disk().bytes("owner"), damages.disk.bytes("owner"));
    let kept = sim.disk().after(Cut::Nothing, &mut Random(1));
    assert_eq!(kept.bytes("owner"), damages.disk.bytes("owner"));
}

#[test]
fn directory_of_another_unit_is_refused_though_its_journal_is_damaged() {
    let damages = Damages::new();
    for disk in nameless(&damages) {
        let sim = machine(disk);
        let opened = UnitServer::open_with_storage(UnitNumber(7), u64::MAX, &damages.config, sim.storage());
        let error = opened.expect_err("it is refused").to_string();
        assert_eq!(error, "/sim is the directory of unit 1, and not of unit 7");
        assert_eq!(sim.trace().len(), 0);
    }
}
