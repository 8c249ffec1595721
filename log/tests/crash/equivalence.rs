//! The file log gives the same answers as the memory log, through any sequence of calls and reopenings.

use mixlog_log::{AppendError, Batch, Durability, Entry, MemoryLog, Position, ReadError, SharedLog};

use crate::script;
use mixlog_simdisk::{Random, Sim};

fn random_batch(random: &mut Random) -> Batch {
    let mut batch = Batch::new();
    for _ in 0..=random.below(4) {
        let length = usize::try_from(random.below(300)).unwrap();
        let byte = random.next() as u8;
        batch.push(&vec![byte; length]);
    }
    batch
}

/// What a log says of a position, whatever the block that it stands in.
fn answer(log: &dyn SharedLog, position: Position) -> Result<Option<Vec<u8>>, Position> {
    match log.read(position) {
        Ok(block) => Ok(block.map(|block| match block.get(position) {
            Some(Entry::Data(bytes)) => bytes.to_vec(),
            other => panic!("{other:?} at {position}"),
        })),
        Err(ReadError::Trimmed { head, .. }) => Err(head),
        Err(other) => panic!("{other}"),
    }
}

fn compare(durability: Durability, seed: u64) {
    let mut random = Random(seed);
    let sim = Sim::default();
    sim.set_fitful(seed);
    let model = MemoryLog::new();
    let mut log = script::open(&sim, durability).unwrap();
    for step in 0..150 {
        let tail = model.tail().unwrap().tail.0;
        match random.below(100) {
            0..70 => {
                let batch = random_batch(&mut random);
                match (model.append(&batch), log.append(&batch)) {
                    (Ok(expected), Ok(found)) => assert_eq!(found.wait().unwrap(), expected.wait().unwrap()),
                    (
                        Err(AppendError::Sealed { tail: expected }),
                        Err(AppendError::Sealed { tail: found }),
                    ) => {
                        assert_eq!(found, expected);
                    }
                    (expected, found) => panic!("{found:?} instead of {expected:?}"),
                }
            }
            70..90 => {
                let position = Position(random.below(tail + 3));
                assert_eq!(answer(&log, position), answer(&model, position));
            }
            90..94 => {
                let before = Position(random.below(tail + 3));
                model.trim(before).unwrap();
                log.trim(before).unwrap();
            }
            94..98 => {
                drop(log);
                // What one wrote through the cache, the other goes on with past it.
                let durability = [Durability::Flushed, Durability::Buffered][random.below(2) as usize];
                log = script::open(&sim, durability).unwrap();
            }
            _ if step > 100 => assert_eq!(log.seal().unwrap(), model.seal().unwrap()),
            _ => {}
        }
        assert_eq!(log.tail().unwrap(), model.tail().unwrap(), "seed {seed}, step {step}");
    }
    for position in 0..model.tail().unwrap().tail.0 + 2 {
        assert_eq!(answer(&log, Position(position)), answer(&model, Position(position)));
    }
}

#[test]
fn file_log_answers_like_the_memory_log() {
    for seed in 0..60 {
        compare(Durability::Flushed, seed);
        compare(Durability::Buffered, seed);
    }
}
