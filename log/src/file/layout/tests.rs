//! Every header and frame reads back, and no damaged one does.

use std::sync::Arc;

use super::*;
use crate::Batch;

const LOG: LogId = LogId(0x0123_4567_89ab_cdef_0011_2233_4455_6677);

fn stamp() -> Stamp {
    Stamp { salt: Salt::of(LOG, 3), offset: 4096, durable: Position(5), generation: 2 }
}

fn data_frame() -> Vec<u8> {
    let mut batch = Batch::new();
    batch.push(b"one");
    batch.push(b"");
    batch.push(b"three");
    let mut frame = Vec::new();
    encode_block(&mut frame, stamp(), &Block::of(Position(7), batch));
    frame
}

fn decode(frame: &[u8]) -> Result<FrameHeader, Flaw> {
    let header = FrameHeader::decode(&frame[..FRAME_HEADER], Salt::of(LOG, 3), 4096, 8192)?;
    header.check(&frame[..usize::try_from(header.bytes()).unwrap()])?;
    Ok(header)
}

#[test]
fn frame_of_entries_decodes_to_the_same_entries() {
    let frame = data_frame();
    let header = decode(&frame).unwrap();
    assert_eq!((header.first, header.end(), header.durable), (Position(7), Position(10), Position(5)));
    let (mut bytes, mut ends) = (Vec::new(), Vec::new());
    header.copy_entries(&frame, &mut bytes, &mut ends).unwrap();
    assert_eq!((bytes.as_slice(), ends.as_slice()), (b"onethree".as_slice(), [3, 3, 8].as_slice()));
}

#[test]
fn frame_of_a_wrapped_entry_is_that_of_the_entry_made_whole() {
    for (count, length) in [(1, 0), (3, 5), (10_000, 7), (5, 20_000), (1, 60_000)] {
        let mut inner = Batch::new();
        (0..count).for_each(|n| inner.push(&vec![n as u8; length]));
        let inner = Arc::new(Block::of(Position(70), inner));
        let (bytes, ends) = inner.data().unwrap();
        let mut entry = b"a head".to_vec();
        ends.iter().for_each(|end| entry.extend_from_slice(&end.to_le_bytes()));
        entry.extend_from_slice(bytes);
        let mut whole = Batch::new();
        whole.push(&entry);
        let (mut expected, mut frame) = (Vec::new(), Vec::new());
        encode_block(&mut expected, stamp(), &Block::of(Position(7), whole));
        let wrapped = Wrapped::new(b"a head".to_vec(), Arc::clone(&inner));
        assert_eq!(frame_bytes(wrapped.body_bytes()), expected.len() as u64);
        encode_wrapped(&mut frame, stamp(), Position(7), &wrapped);
        assert!(frame == expected, "{count} of {length} bytes");
        let header = FrameHeader::decode(&frame[..FRAME_HEADER], Salt::of(LOG, 3), 4096, 1 << 30).unwrap();
        header.check(&frame).unwrap();
    }
}

#[test]
fn frame_of_junk_decodes_to_its_count() {
    let mut frame = Vec::new();
    encode_block(&mut frame, stamp(), &Block::junk(Position(7), 9));
    let header = decode(&frame).unwrap();
    assert_eq!((header.kind, header.end()), (FrameKind::Junk, Position(16)));
}

#[test]
fn frame_with_any_bit_flipped_is_refused() {
    let frame = data_frame();
    for bit in 0..frame.len() * 8 {
        let mut damaged = frame.clone();
        damaged[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&damaged).is_err(), "bit {bit}");
    }
}

#[test]
fn frame_elsewhere_is_foreign() {
    let frame = data_frame();
    let header = &frame[..FRAME_HEADER];
    for (salt, offset) in [(Salt::of(LOG, 4), 4096), (Salt::of(LogId(1), 3), 4096), (Salt::of(LOG, 3), 4104)]
    {
        assert_eq!(FrameHeader::decode(header, salt, offset, 8192), Err(Flaw::Foreign));
    }
}

#[test]
fn frame_past_the_segment_is_out_of_bounds() {
    let frame = data_frame();
    let header = &frame[..FRAME_HEADER];
    let decode = |bytes| FrameHeader::decode(header, Salt::of(LOG, 3), 4096, bytes);
    assert!(decode(4096 + frame.len() as u64).is_ok());
    assert_eq!(decode(4096 + frame.len() as u64 - 1), Err(Flaw::Bounds));
}

#[test]
fn zeros_are_no_header() {
    assert_eq!(SegmentHeader::decode(&[0; SEGMENT_HEADER]), Err(Flaw::Blank));
    assert_eq!(ManifestSlot::decode(&[0; MANIFEST_SLOT]), Err(Flaw::Blank));
    assert_eq!(FrameHeader::decode(&[0; FRAME_HEADER], Salt::of(LOG, 3), 4096, 8192), Err(Flaw::Blank));
}

#[test]
fn headers_round_trip_and_refuse_flipped_bits() {
    let segment = SegmentHeader {
        generation: 4,
        log: LOG,
        number: 9,
        first: Position(77),
        bytes: 1 << 20,
        attests: false,
    };
    assert_eq!(SegmentHeader::decode(&segment.encode()), Ok(segment));
    let slot = ManifestSlot {
        log: LOG,
        sequence: 8,
        head: Position(1),
        durable: Position(2),
        segments_start: 3,
        segments_end: 4,
        generation: 5,
        sealed: true,
        tear: Some(Tear { segment: 3, end: 5000 }),
    };
    assert_eq!(ManifestSlot::decode(&slot.encode()), Ok(slot));
    for bit in 0..MANIFEST_SLOT * 8 {
        let mut bytes = slot.encode();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(ManifestSlot::decode(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn header_of_a_newer_version_is_told_from_damage() {
    let mut bytes = ManifestSlot {
        log: LOG,
        sequence: 1,
        head: Position(0),
        durable: Position(0),
        segments_start: 0,
        segments_end: 0,
        generation: 0,
        sealed: false,
        tear: None,
    }
    .encode();
    put(&mut bytes, 8, &(FORMAT_VERSION + 1).to_le_bytes());
    assert_eq!(ManifestSlot::decode(&bytes), Err(Flaw::HeaderChecksum));
    put_checksum(&mut bytes);
    assert_eq!(ManifestSlot::decode(&bytes), Err(Flaw::Version(FORMAT_VERSION + 1)));
}
