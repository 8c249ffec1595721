//! Units whose journals were damaged: they say what they lost, and begin anew.

use super::*;

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
    /// The record that says who it is, which is the first, was lost: it is nobody, and joins empty.
    Nobody,
    /// It does not open.
    Refused(String),
}

/// Journals to damage.
struct Damages {
    disk: Disk,
    whole: View,
    boot: UnitFiles,
    _directory: tempfile::TempDir,
}

impl Damages {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let boot = files(&directory, Durability::Flushed);
        let disk = record(DAMAGED, &boot, None).disk();
        let whole = views(DAMAGED).pop().expect("there is one");
        let damages = Self { disk, whole, boot, _directory: directory };
        assert_eq!(damages.found("nothing", &damages.disk, true), Found::Whole);
        damages
    }

    fn segments(&self) -> Vec<String> {
        let names: Vec<_> =
            self.disk.names().into_iter().filter(|name| name.starts_with("segment-0")).collect();
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
        let sim = Sim::boot(disk.clone());
        let unit = match UnitServer::open_with_storage(UNIT, u64::MAX, &self.boot, sim.storage()) {
            Ok(unit) => unit,
            Err(error) => {
                assert_eq!(sim.trace().len(), 0, "{what}: what is refused is left as it is");
                return Found::Refused(error.to_string());
            }
        };
        let Some(member) = member_of(&unit) else { return Found::Nobody };
        assert_eq!(Some(member), self.whole.0, "{what}");
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
            let again = Member { unit: UNIT, joined: Epoch(9) };
            let joined = ask(&unit, request(again, UnitVerb::Join(LOG)));
            let is_empty =
                matches!(joined, UnitReply::Standing(standing) if standing.reach == Position::ZERO);
            assert!(is_empty, "{what}: {joined:?}");
            assert_eq!(ask(&unit, request(again, UnitVerb::Write(run(3, 0)))), UnitReply::Done, "{what}");
        }
        Found::Corrupt
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
    let (mut corrupt, mut nobody, mut harmless) = (0, 0, 0);
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
                Found::Nobody => nobody += 1,
                Found::Refused(error) => panic!("{what}: {error}"),
            }
        }
    }
    println!("{corrupt} flips lost something, {nobody} all, {harmless} nothing");
    assert!(corrupt > 5000 && nobody > 100 && harmless > 100, "{corrupt} {nobody} {harmless}");
}

#[test]
fn segment_of_a_units_journal_that_is_cut_or_missing_or_in_anothers_place_is_never_unwritten() {
    let damages = Damages::new();
    let (mut corrupt, mut nobody) = (0, 0);
    let mut add = |what: &str, disk: &Disk| match damages.found(what, disk, false) {
        Found::Corrupt => corrupt += 1,
        Found::Nobody => nobody += 1,
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
    println!("{corrupt} lost something, {nobody} all");
    assert!(corrupt > 3000 && nobody > 100, "{corrupt} {nobody}");
}

#[test]
fn manifest_of_a_units_journal_that_is_damaged_is_told_or_harmless() {
    let damages = Damages::new();
    let bytes = damages.disk.bytes("manifest").to_vec();
    let refused = |what: &str, disk: &Disk| match damages.found(what, disk, false) {
        Found::Refused(error) => error,
        other => panic!("{what}: {other:?}"),
    };
    for at in (0..bytes.len()).filter(|at| at % 4096 < 512 || at.is_multiple_of(64)) {
        let disk = damages.flipped("manifest", at);
        assert_eq!(damages.found(&format!("manifest byte {at}"), &disk, false), Found::Whole);
    }
    // The same byte of both copies.
    for at in 0..512 {
        let mut both = bytes.clone();
        both[at] ^= 1 << (at % 8);
        both[4096 + at] ^= 1 << (at % 8);
        let (what, disk) = (format!("manifests' bytes {at}"), damages.with("manifest", both));
        if at < 8 {
            let error = refused(&what, &disk);
            assert!(error.contains("its manifest is not one of a log"), "{what}: {error}");
        } else {
            // Nothing is known of the journal, but that there was one.
            assert_eq!(damages.found(&what, &disk, false), Found::Nobody);
        }
    }
    for length in (0..bytes.len()).filter(|length| length % 4096 <= 512 || length.is_multiple_of(64)) {
        let (what, disk) =
            (format!("manifest of {length} bytes"), damages.with("manifest", bytes[..length].to_vec()));
        if length >= 512 {
            assert_eq!(damages.found(&what, &disk, false), Found::Whole);
        } else {
            let error = refused(&what, &disk);
            assert!(error.contains("its manifest is not one of a log"), "{what}: {error}");
        }
    }
    let mut missing = damages.disk.clone();
    missing.delete("manifest");
    let error = refused("without manifest", &missing);
    assert!(error.contains("there is segment-") && error.contains(" but no manifest"), "{error}");
    // Another's: none of the segments belongs to it.
    let foreign = damages.with("manifest", Damages::new().disk.bytes("manifest").to_vec());
    assert!(matches!(damages.found("another's manifest", &foreign, false), Found::Nobody | Found::Corrupt));
}

/// It is there for whoever replaces it, whenever that happens.
#[test]
fn unit_that_ends_while_it_throws_its_damaged_journal_away_opens_again() {
    let damages = Damages::new();
    let entries = entries_of(damages.disk.bytes(&damages.segments()[0]));
    let at = entries.start.midpoint(entries.end);
    let both = {
        let mut bytes = damages.disk.bytes("manifest").to_vec();
        (bytes[40], bytes[4096 + 40]) = (!bytes[40], !bytes[4096 + 40]);
        damages.with("manifest", bytes)
    };
    let again = Member { unit: UNIT, joined: Epoch(9) };
    let join = UnitRequest { epoch: Epoch(9), member: again, verb: UnitVerb::Join(LOG) };
    let mut random = Random(5);
    let (mut states, mut joined, mut earlier) = (0, 0, 0);
    for damaged in [damages.flipped(&damages.segments()[0], at), both] {
        let sim = Sim::boot(damaged.clone());
        let unit = open(&damages.boot, sim.storage());
        assert!(matches!(ask(&unit, join.clone()), UnitReply::Standing(_)));
        drop(unit);
        let mut disk = damaged;
        for call in sim.trace().iter().map(Some).chain([None]) {
            for cut in [Cut::Everything, Cut::Nothing].into_iter().chain([Cut::Some; 8]) {
                let left = disk.after(cut, &mut random);
                let unit = open(&damages.boot, Sim::boot(left).storage());
                states += 1;
                match member_of(&unit) {
                    Some(member) if member == again => joined += 1,
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
                assert!(matches!(ask(&unit, join.clone()), UnitReply::Standing(_)));
            }
            if let Some(call) = call.filter(|call| !matches!(call, Call::Note(_))) {
                disk.apply(call);
            }
        }
    }
    println!("{states} states, in {joined} it had joined anew, in {earlier} it was the earlier member");
    assert!(joined > 0 && earlier > 0 && joined + earlier < states);
}
