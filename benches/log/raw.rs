//! What the disk gives to loops that do nothing but write and flush, so that the rates of logs can be judged.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::mpsc;
use std::thread;
use std::time::Instant;

use rustix::fs::{FallocateFlags, fallocate};

/// A run of a cluster in `ONLY=append`: as many entries as a group holds, with where each of them ends.
pub(crate) const RUN: usize = (64 + 4) << 14;

/// A file of that length whose space is reserved, as that of a segment.
fn reserved(directory: &Path, name: &str, bytes: usize) -> File {
    let file = File::create_new(directory.join(name)).expect("a new file");
    fallocate(&file, FallocateFlags::empty(), 0, bytes as u64).expect("it is allocated");
    file.sync_all().expect("it is synced");
    file
}

/// Seconds that `replicas` writers take, one behind the other as the units of a chain are: each writes and flushes
/// `flushes` times so many bytes, and each of these after the writer before it has flushed the same.
pub(crate) fn chain(directory: &Path, replicas: usize, bytes: usize, flushes: usize) -> f64 {
    let files: Vec<File> =
        (0..replicas).map(|n| reserved(directory, &format!("raw-{n}"), bytes * flushes)).collect();
    let block = vec![7; bytes];
    let begun = Instant::now();
    thread::scope(|scope| {
        let mut before: Option<mpsc::Receiver<()>> = None;
        for file in &files {
            let (flushed, next) = mpsc::channel();
            let (before, block) = (before.replace(next), &block);
            scope.spawn(move || {
                for n in 0..flushes {
                    if let Some(before) = &before {
                        before.recv().expect("the writer before goes on");
                    }
                    file.write_all_at(block, (n * bytes) as u64).expect("it is written");
                    file.sync_data().expect("it is synced");
                    let _ = flushed.send(());
                }
            });
        }
    });
    begun.elapsed().as_secs_f64()
}
