//! From the files of a log to its state: first a look that changes nothing, then the repair of what a crash
//! left.
//!
//! The rules and the crashes that they answer are told in `docs/log-format.md`.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use crate::{Durability, LogId, OpenError, Position};

use super::config::{Config, Create};
use super::frames::{self, Frames, Step};
use super::layout::{
    FORMAT_VERSION, FRAMES_START, Flaw, FrameHeader, ManifestSlot, SEGMENT_HEADER, Salt, SegmentHeader, Tear,
};
use super::manifest::{self, LoadError, Manifest};
use super::report::{Damage, Torn};
use super::segments::{self, Segment};
use super::storage::{self, Access, Storage, StorageFile};
use super::tear::{self, Place};

/// How much of a segment is read at a time.
const AHEAD: usize = 1 << 20;

/// What the directory holds, by name.
#[derive(Debug, Default)]
pub(crate) struct Inventory {
    manifest: bool,
    segments: BTreeMap<u64, String>,
    /// Files that a crash left half made.
    leftovers: Vec<String>,
    /// Files that are none of ours.
    foreign: Vec<String>,
}

impl Inventory {
    fn of(storage: &dyn Storage) -> Result<Self, OpenError> {
        let mut inventory = Self::default();
        for name in storage.list().map_err(io_error(storage, "list"))? {
            if name == manifest::NAME {
                inventory.manifest = true;
            } else if name == manifest::CREATING || name == segments::SPARE {
                inventory.leftovers.push(name);
            } else if let Some(number) = segments::parse_file_name(&name) {
                inventory.segments.insert(number, name);
            } else {
                inventory.foreign.push(name);
            }
        }
        Ok(inventory)
    }
}

/// The state of a log as its files tell it.
pub(crate) struct Examined {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Scanned>,
    pub(crate) tail: Position,
    /// Positions below it are known to have been durable.
    pub(crate) durable: Position,
    pub(crate) frames: u64,
    pub(crate) frame_bytes: u64,
    pub(crate) torn: Option<Torn>,
    /// The offset after the last byte of the last segment that is not zero.
    rest_end: u64,
    /// Segments behind the last entry, in order: their entries followed others that are lost.
    dropped: Vec<String>,
    /// The first damage. Then the rest describes what stands before it.
    pub(crate) damage: Option<Damage>,
    leftovers: Vec<String>,
}

/// A segment that was read from its start to `end`.
pub(crate) struct Scanned {
    pub(crate) segment: Arc<Segment>,
    header: SegmentHeader,
    pub(crate) file: Arc<dyn StorageFile>,
    /// The offset after the last frame.
    pub(crate) end: u64,
}

/// An error with the name of the file or directory.
fn io_error<'a>(storage: &'a dyn Storage, action: &'static str) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { action, path: storage.path().to_path_buf(), source }
}

fn file_error<'a>(
    storage: &'a dyn Storage,
    action: &'static str,
    name: &'a str,
) -> impl FnOnce(io::Error) -> OpenError + 'a {
    move |source| OpenError::Io { action, path: storage.path().join(name), source }
}

fn not_a_log(storage: &dyn Storage, detail: String) -> OpenError {
    OpenError::NotALog { path: storage.path().to_path_buf(), detail }
}

/// Whether there is a directory.
pub(crate) fn directory_exists(storage: &dyn Storage) -> Result<bool, OpenError> {
    match storage.exists() {
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            Err(not_a_log(storage, "it is not a directory".to_owned()))
        }
        other => other.map_err(io_error(storage, "look for")),
    }
}

/// Reads the whole log, and changes nothing.
///
/// # Errors
/// When there is no log, or its manifest cannot be used. Damage to segments is part of the answer.
pub(crate) fn examine(storage: &dyn Storage, access: Access, writer: Writer) -> Result<Examined, OpenError> {
    let inventory = Inventory::of(storage)?;
    if !inventory.manifest {
        let ours = inventory.segments.into_values();
        return Err(match ours.chain(inventory.foreign).next() {
            Some(name) => not_a_log(storage, format!("there is {name} but no {}", manifest::NAME)),
            None => OpenError::Missing { path: storage.path().to_path_buf() },
        });
    }
    let manifest = manifest(storage, access).map_err(|error| match error {
        OpenError::Missing { .. } => not_a_log(storage, format!("its {} leads nowhere", manifest::NAME)),
        error => error,
    })?;
    Examination::new(storage, access, writer, manifest).run(inventory)
}

/// The manifest of the log in `storage`.
pub(crate) fn manifest(storage: &dyn Storage, access: Access) -> Result<Manifest, OpenError> {
    let file = match storage.open(manifest::NAME, access) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(OpenError::Missing { path: storage.path().to_path_buf() });
        }
        file => file.map_err(file_error(storage, "open", manifest::NAME))?,
    };
    Manifest::load(file).map_err(|error| match error {
        LoadError::Io(error) => file_error(storage, "read", manifest::NAME)(error),
        LoadError::NotAManifest => not_a_log(storage, format!("its {} is not one of a log", manifest::NAME)),
        LoadError::Version(found) => {
            OpenError::Version { path: storage.path().to_path_buf(), found, supported: FORMAT_VERSION }
        }
        LoadError::Damaged([a, b]) => OpenError::Corrupt {
            position: Position::ZERO,
            detail: format!("file {}: both copies are damaged: {a}; {b}", manifest::NAME),
        },
    })
}

/// Whether somebody may be writing while the log is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Writer {
    /// The directory is locked.
    None,
    /// It is not: the last segment grows, and files come and go.
    Perhaps,
}

/// An examination under way.
struct Examination<'a> {
    storage: &'a dyn Storage,
    access: Access,
    writer: Writer,
    /// The state of what was read so far.
    so_far: Examined,
}

/// Why an examination ends early.
enum End {
    Error(OpenError),
    Damage(Damage),
}

impl From<OpenError> for End {
    fn from(error: OpenError) -> Self {
        Self::Error(error)
    }
}

impl<'a> Examination<'a> {
    fn new(storage: &'a dyn Storage, access: Access, writer: Writer, manifest: Manifest) -> Self {
        let (head, durable) = (manifest.slot().head, manifest.slot().durable);
        let so_far = Examined {
            manifest,
            segments: Vec::new(),
            tail: head,
            durable,
            frames: 0,
            frame_bytes: 0,
            torn: None,
            rest_end: 0,
            dropped: Vec::new(),
            damage: None,
            leftovers: Vec::new(),
        };
        Self { storage, access, writer, so_far }
    }

    fn run(mut self, inventory: Inventory) -> Result<Examined, OpenError> {
        match self.scan(inventory) {
            Ok(()) => {}
            Err(End::Error(error)) => return Err(error),
            Err(End::Damage(damage)) => {
                self.so_far.torn = None;
                self.so_far.damage = Some(damage);
            }
        }
        // The first segment may start before the head.
        self.so_far.tail = self.so_far.tail.max(self.so_far.manifest.slot().head);
        Ok(self.so_far)
    }

    fn scan(&mut self, inventory: Inventory) -> Result<(), End> {
        let slot = *self.so_far.manifest.slot();
        self.so_far.leftovers = inventory.leftovers;
        let mut trimmed = inventory.segments;
        // A crash between the trim's manifest and its removals left these.
        let mut files = trimmed.split_off(&slot.segments_start);
        self.so_far.leftovers.extend(trimmed.into_values());

        // The manifest counts what is there for good. What was put to use since may be lost, in part or wholly.
        let mut ended = None;
        for number in slot.segments_start.. {
            let Some(name) = files.get(&number) else {
                if number < slot.segments_end {
                    let file = segments::file_name(number);
                    return Err(self.damage(file, 0, "the file is missing".to_owned()));
                }
                break;
            };
            match self.scan_segment(name, number)? {
                Some(flaw) => ended = Some(flaw),
                None => break,
            }
            files.remove(&number);
        }
        self.end_of_frames(ended, files)?;
        self.end_of_log(&slot)
    }

    /// What must hold at the end of the last frame.
    fn end_of_log(&mut self, slot: &ManifestSlot) -> Result<(), End> {
        if let Some(last) = self.so_far.segments.last()
            && slot.sealed
            && self.so_far.tail != slot.durable
        {
            let (file, offset) = (last.segment.file_name(), last.end);
            return Err(self.damage(
                file,
                offset,
                format!("the log was sealed at position {}", slot.durable),
            ));
        }
        Ok(())
    }

    fn damage(&self, file: String, offset: u64, reason: String) -> End {
        // The first segment may start before the head; what was trimmed is not missed.
        let position = self.so_far.tail.max(self.so_far.manifest.slot().head);
        End::Damage(Damage { position, file, offset, reason })
    }

    /// Reads a segment, and tells what ended it. `None` if the log ended before: the segment was never put to use for
    /// good, or entries before it are missing.
    fn scan_segment(&mut self, name: &str, number: u64) -> Result<Option<Flaw>, End> {
        let file = self.storage.open(name, self.access).map_err(file_error(self.storage, "open", name))?;
        let Some(header) = self.read_header(name, &*file, number)? else { return Ok(None) };
        let slot = self.so_far.manifest.slot();
        let is_first = number == slot.segments_start;
        if !is_first && header.first > self.so_far.tail {
            return Ok(None);
        }
        if is_first && header.first > slot.head || !is_first && header.first < self.so_far.tail {
            let reason = format!("position {} comes next, not {}", self.so_far.tail, header.first);
            return Err(self.damage(name.to_owned(), 0, reason));
        }
        if header.attests {
            self.so_far.durable = self.so_far.durable.max(header.first);
        }
        let segment = Arc::new(Segment::new(header.log, number, header.first, header.bytes));
        self.so_far.tail = header.first;
        self.so_far.segments.push(Scanned { segment, header, file: Arc::clone(&file), end: FRAMES_START });
        let flaw = self.scan_frames(name)?;
        let length = file.len().map_err(file_error(self.storage, "read", name))?;
        if length < header.bytes {
            // Segments have their full length before they get their name, so no crash makes them shorter.
            let reason = format!("the file has {length} bytes instead of {}", header.bytes);
            return Err(self.damage(name.to_owned(), length.min(self.last().end), reason));
        }
        Ok(Some(flaw))
    }

    /// The segment that is scanned, or was last.
    fn last(&self) -> &Scanned {
        self.so_far.segments.last().expect("one was scanned")
    }

    /// Reads the frames of the last segment, from where that ended, up to the flaw that ends them.
    fn scan_frames(&mut self, name: &str) -> Result<Flaw, End> {
        let so_far = &mut self.so_far;
        let Scanned { segment, file, end, .. } = so_far.segments.last_mut().expect("one is scanned");
        let mut frames = Frames::new(&**file, segment.salt, segment.bytes, *end, AHEAD);
        let newest = so_far.manifest.slot().generation;
        let flaw = loop {
            match frames.next(so_far.tail).map_err(file_error(self.storage, "read", name))? {
                // Who opens a log writes its generation into the manifest before anything else. A reader's manifest may
                // be older than what somebody writes meanwhile.
                Step::Frame(frame) if frame.header.generation > newest && self.writer == Writer::None => {
                    *end = frame.offset;
                    let reason = format!(
                        "it is of generation {}, and {} is older, of generation {newest}: that is not the log's newest",
                        frame.header.generation,
                        manifest::NAME
                    );
                    return Err(self.damage(name.to_owned(), self.last().end, reason));
                }
                Step::Frame(frame) => {
                    segment.add_point(frame.header.first, frame.offset);
                    so_far.tail = frame.header.end();
                    so_far.durable = so_far.durable.max(frame.header.durable);
                    so_far.frames += 1;
                    so_far.frame_bytes += frame.bytes.len() as u64;
                }
                Step::Flaw(flaw) => break flaw,
                Step::End => break Flaw::Blank,
            }
        };
        *end = frames.offset();
        if let Flaw::Order { .. } = flaw {
            // A crash leaves frames in part or not at all, but never a whole one in another's place.
            return Err(self.damage(name.to_owned(), self.last().end, flaw.to_string()));
        }
        Ok(flaw)
    }

    /// What must hold where the frames end, for which `ended` is the reason: nothing behind, in the last segment or in
    /// `files`, says of what is missing that it was durable. Otherwise it is damage, and no crash.
    fn end_of_frames(&mut self, ended: Option<Flaw>, files: BTreeMap<u64, String>) -> Result<(), End> {
        let mut bytes = 0;
        for (number, name) in files {
            bytes += self.look_behind(&name, number)?;
            self.so_far.dropped.push(name);
        }
        let Some(mut flaw) = ended else {
            let start = segments::file_name(self.so_far.manifest.slot().segments_start);
            return self.end_at(start, 0, Flaw::Blank, bytes);
        };
        let (name, mut tried) = (self.last().segment.file_name(), None);
        loop {
            let Scanned { segment, file, end, .. } = self.last();
            let end = *end;
            let rest = frames::search_rest(&**file, segment.salt, end, segment.bytes).map_err(file_error(
                self.storage,
                "read",
                &name,
            ))?;
            // While somebody writes, the flaw may be a frame that was incomplete a moment ago. If a later watermark says
            // that it was durable, it is complete now, or damaged.
            let is_attested = rest.durable.is_some_and(|durable| self.so_far.tail < durable);
            if self.writer == Writer::Perhaps && is_attested && tried.replace(end) != Some(end) {
                flaw = self.scan_frames(&name)?;
                continue;
            }
            self.so_far.durable = self.so_far.durable.max(rest.durable.unwrap_or_default());
            self.so_far.rest_end = rest.end;
            // Zeros that were written over a torn tail may hide it, or parts of it.
            let tear = self.so_far.manifest.slot().tear;
            let tear = tear.filter(|tear| tear.segment == self.last().segment.number);
            if let Some(Tear { end, .. }) = tear {
                self.so_far.rest_end = self.so_far.rest_end.max(end.min(self.last().segment.bytes));
            } else if self.writer == Writer::None && self.so_far.durable <= self.so_far.tail {
                self.not_changed(&name, &flaw)?;
            }
            return self.end_at(name, end, flaw, rest.end - end + bytes);
        }
    }

    /// What follows the last frame, in the last segment, is not one that was whole once: it may have been acknowledged.
    fn not_changed(&self, name: &str, flaw: &Flaw) -> Result<(), End> {
        // Others are none of a frame that was this one; most often there is nothing.
        if !matches!(flaw, Flaw::Magic | Flaw::HeaderChecksum | Flaw::BodyChecksum) {
            return Ok(());
        }
        let Scanned { segment, file, end, .. } = self.last();
        let place = Place {
            file: &**file,
            salt: segment.salt,
            segment_bytes: segment.bytes,
            offset: *end,
            rest_end: self.so_far.rest_end,
        };
        let changed = place.changed_frame().map_err(file_error(self.storage, "read", name))?;
        // One of an earlier generation was torn, and overwritten.
        let is_next = |header: &FrameHeader| {
            header.first == self.so_far.tail && header.generation == self.so_far.manifest.slot().generation
        };
        if changed.is_some_and(|header| is_next(&header)) {
            let reason = format!("{flaw}, and nothing of it is missing: a crash did not leave it so");
            return Err(self.damage(name.to_owned(), *end, reason));
        }
        Ok(())
    }

    /// The frames end there, and so many bytes behind are of no use any more.
    fn end_at(&mut self, file: String, offset: u64, flaw: Flaw, bytes: u64) -> Result<(), End> {
        if self.so_far.tail < self.so_far.durable {
            let reason = format!("{flaw}, but entries up to position {} were durable", self.so_far.durable);
            return Err(self.damage(file, offset, reason));
        }
        if bytes > 0 {
            self.so_far.torn = Some(Torn { file, offset, bytes });
        }
        Ok(())
    }

    /// Notes what a segment says that stands behind the last frame, and tells how many bytes of it were used.
    fn look_behind(&mut self, name: &str, number: u64) -> Result<u64, End> {
        let error = || file_error(self.storage, "read", name);
        let file = self.storage.open(name, Access::Read).map_err(file_error(self.storage, "open", name))?;
        let header = self.read_header(name, &*file, number)?;
        let salt = Salt::of(self.so_far.manifest.slot().log, number);
        let length = file.len().map_err(error())?;
        let rest = frames::search_rest(&*file, salt, FRAMES_START, length).map_err(error())?;
        let attested = header.filter(|header| header.attests).map(|header| header.first);
        self.so_far.durable = self.so_far.durable.max(attested.max(rest.durable).unwrap_or_default());
        Ok(if header.is_none() && rest.end == FRAMES_START { 0 } else { rest.end })
    }

    /// A segment's header; `None` if it was never put to use for good.
    fn read_header(
        &self,
        name: &str,
        file: &dyn StorageFile,
        number: u64,
    ) -> Result<Option<SegmentHeader>, End> {
        let mut bytes = [0; SEGMENT_HEADER];
        let read = storage::read_full(file, &mut bytes, 0).map_err(file_error(self.storage, "read", name))?;
        let header = if read < bytes.len() { Err(Flaw::Short) } else { SegmentHeader::decode(&bytes) };
        let is_counted = number < self.so_far.manifest.slot().segments_end;
        let header = match header {
            // Nothing of it was written.
            Err(Flaw::Blank) if !is_counted => return Ok(None),
            // It lies in one sector, so it is there or not; but its file may be anything that a power cut left.
            Err(Flaw::Magic | Flaw::HeaderChecksum) if !is_counted && self.writer == Writer::Perhaps => {
                return Ok(None);
            }
            Err(flaw @ (Flaw::Magic | Flaw::HeaderChecksum)) if !is_counted => {
                let slot = self.so_far.manifest.slot();
                let changed = tear::with_a_byte_changed(&bytes, |bytes| {
                    SegmentHeader::decode(bytes).ok().filter(|header| {
                        (header.log, header.number) == (slot.log, number)
                            && header.generation == slot.generation
                    })
                });
                // Where it ends in zeros it may be cut.
                let is_there = |place: usize| bytes[place..].iter().any(|byte| *byte != 0);
                return match changed {
                    Some((_, Some(place))) if is_there(place) => {
                        Err(self.damage(name.to_owned(), 0, flaw.to_string()))
                    }
                    _ => Ok(None),
                };
            }
            header => header.map_err(|flaw| self.damage(name.to_owned(), 0, flaw.to_string()))?,
        };
        if header.log != self.so_far.manifest.slot().log {
            return Err(self.damage(name.to_owned(), 0, format!("it belongs to log {}", header.log)));
        }
        if header.number != number {
            return Err(self.damage(name.to_owned(), 0, format!("it is segment {}", header.number)));
        }
        // Whoever opens a log counts its segments and removes the others. If the flush of that failed, they may come back.
        let is_stale = !is_counted && header.generation < self.so_far.manifest.slot().generation;
        Ok((!is_stale).then_some(header))
    }
}

/// A log that is ready to be written to.
pub(crate) struct Recovered {
    pub(crate) manifest: Manifest,
    pub(crate) segments: Vec<Scanned>,
    pub(crate) tail: Position,
}

/// What a log that is created starts from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Origin {
    pub(crate) id: LogId,
    pub(crate) head: Position,
}

impl Origin {
    /// A log of its own, from its first position on.
    pub(crate) fn first() -> Self {
        Self { id: LogId::random(), head: Position::ZERO }
    }
}

/// Opens or creates the log in `storage`, whose directory exists and is locked, and repairs what a crash
/// left.
pub(crate) fn recover(
    storage: &dyn Storage,
    config: &Config,
    origin: Origin,
) -> Result<Recovered, OpenError> {
    let examined = match examine(storage, Access::Write, Writer::None) {
        Ok(_) if config.create == Create::New => {
            return Err(OpenError::Exists { path: storage.path().to_path_buf() });
        }
        Err(OpenError::Missing { .. }) if config.create != Create::Never => create(storage, origin)?,
        other => other?,
    };
    if let Some(damage) = examined.damage {
        return Err(damage.into());
    }
    let Examined { manifest, segments, tail, durable, rest_end, dropped, leftovers, .. } = examined;
    let mut recovered = Recovered { manifest, segments, tail };
    repair(storage, &mut recovered, durable, rest_end, &dropped)
        .map_err(io_error(storage, "repair the log at"))?;
    remove(storage, &leftovers)?;
    if recovered.segments.is_empty() {
        add_first_segment(storage, config, &mut recovered)
            .map_err(io_error(storage, "create the first segment in"))?;
    }
    Ok(recovered)
}

fn create(storage: &dyn Storage, origin: Origin) -> Result<Examined, OpenError> {
    // Half made files of an earlier attempt, as `examine` has found nothing else.
    let leftovers = Inventory::of(storage)?.leftovers;
    remove(storage, &leftovers)?;
    // Also if it was there: whoever made it may not have come to that.
    storage.create_directory().map_err(io_error(storage, "create"))?;
    let manifest = Manifest::create(storage, ManifestSlot::first(origin.id, origin.head))
        .map_err(file_error(storage, "create", manifest::NAME))?;
    Examination::new(storage, Access::Write, Writer::None, manifest).run(Inventory::default())
}

fn remove(storage: &dyn Storage, names: &[String]) -> Result<(), OpenError> {
    for name in names {
        storage.remove(name).map_err(file_error(storage, "remove", name))?;
    }
    if names.is_empty() { Ok(()) } else { storage.sync_directory().map_err(io_error(storage, "sync")) }
}

/// Makes what was accepted durable, and what is torn, up to `rest_end` of the last segment and in those that are `dropped`,
/// disappear, before anybody sees either.
fn repair(
    storage: &dyn Storage,
    log: &mut Recovered,
    durable: Position,
    rest_end: u64,
    dropped: &[String],
) -> io::Result<()> {
    log.manifest.settle()?;
    if let Some(last) = log.segments.last() {
        // Otherwise frames that survived behind the tear would stand behind the new ones one day.
        let mut offset = last.end;
        let zeros = vec![0; AHEAD];
        if offset < rest_end {
            // Should it be in vain, the next one does it again, though it reads zeros: or what is torn would stand behind and
            // among the frames to come, where nothing tells it from what has been changed.
            let tear = Tear { segment: last.segment.number, end: rest_end };
            log.manifest.update(|slot| slot.tear = Some(tear))?;
        }
        while offset < rest_end {
            let piece = usize::try_from(rest_end - offset).unwrap_or(usize::MAX).min(zeros.len());
            storage::write_full(&*last.file, &zeros[..piece], offset)?;
            offset += piece as u64;
        }
    }
    for name in dropped {
        storage.remove(name)?;
    }
    // The last one in any case: a frame that is lost would end it before the frames to come.
    let attested = log.segments.iter().skip(1).take_while(|next| next.segment.first <= durable).count();
    for scanned in log.segments.iter().skip(attested) {
        rewrite_unattested(scanned, durable)?;
    }
    for scanned in &log.segments {
        scanned.file.sync_data()?;
    }
    storage.sync_directory()?;
    let tail = log.tail;
    let segments_end = log.segments.last().map(|last| last.segment.number + 1);
    log.manifest.update(|slot| {
        slot.generation += 1;
        slot.durable = tail;
        slot.tear = None;
        slot.segments_end = segments_end.unwrap_or(slot.segments_end);
    })
}

/// Writes again, in place, the frames of a segment that nothing attests, and its header if there is no other one. They
/// may be bytes that the disk never got: after a failed flush the kernel holds them for clean, and syncing alone would
/// not write them.
fn rewrite_unattested(scanned: &Scanned, durable: Position) -> io::Result<()> {
    let Scanned { segment, header, file, end } = scanned;
    // From the last frame on that certainly is on the disk: a watermark behind it need not be there itself.
    let (mut next, offset) = segment.point(durable.previous().unwrap_or(Position::ZERO));
    if durable <= segment.first {
        storage::write_full(&**file, &header.encode(), 0)?;
    }
    let mut frames = Frames::new(&**file, segment.salt, segment.bytes, offset, AHEAD);
    while frames.offset() < *end {
        // Verified once more: clean pages may be dropped at any time, and then the disk's own bytes are read. To write those
        // would make damage of a loss that nobody was promised anything of.
        let Step::Frame(frame) = frames.next(next)? else {
            let changed =
                "entries that were read a moment ago are gone: the disk never got them. Open the log again";
            return Err(io::Error::new(io::ErrorKind::InvalidData, changed));
        };
        next = frame.header.end();
        storage::write_full(&**file, frame.bytes, frame.offset)?;
    }
    Ok(())
}

fn add_first_segment(storage: &dyn Storage, config: &Config, log: &mut Recovered) -> io::Result<()> {
    let slot = *log.manifest.slot();
    let header = SegmentHeader {
        generation: slot.generation,
        log: slot.log,
        number: slot.segments_end,
        first: log.tail,
        bytes: config.segment_bytes(),
        attests: true,
    };
    let file = segments::reserve(storage, header.bytes, config.durability == Durability::Flushed, || false)?;
    segments::put_to_use(storage, &*file, &header)?;
    file.sync_data()?;
    storage.sync_directory()?;
    log.manifest.update(|slot| slot.segments_end = header.number + 1)?;
    let segment = Arc::new(Segment::new(header.log, header.number, header.first, header.bytes));
    log.segments.push(Scanned { segment, header, file, end: FRAMES_START });
    Ok(())
}
