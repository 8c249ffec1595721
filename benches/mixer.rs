//! What a schedule costs: `cargo bench --bench mixer`. Throughput is in keys.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use mixlog::mixer::{Access, Declared, KeyHash, Mixer, Mode, Schedule};

/// Windows of transactions of ten keys, half of them written, uniform over so many keys.
fn window(transactions: u64, keys: u64) -> Vec<Vec<Access>> {
    let mut state = 1u64;
    let mut draw = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state % keys
    };
    let mode = |i| if i % 2 == 0 { Mode::Read } else { Mode::Write };
    let mut access = |i| Access { key: KeyHash(draw().wrapping_mul(0x9e37_79b9_7f4a_7c15)), mode: mode(i) };
    (0..transactions).map(|_| (0..10).map(&mut access).collect()).collect()
}

fn mix(c: &mut Criterion) {
    let mut group = c.benchmark_group("mix");
    for (transactions, keys) in
        [(256, 1_000_000), (1024, 1_000_000), (4096, 1_000_000), (256, 100), (256, 10)]
    {
        let window = window(transactions, keys);
        group.throughput(Throughput::Elements(transactions * 10));
        let (mut mixer, mut schedule) = (Mixer::new(), Schedule::default());
        group.bench_function(format!("{transactions} transactions over {keys} keys"), |b| {
            b.iter(|| {
                mixer.mix(window.iter().map(|keys| Declared::Keys(keys.iter().copied())), &mut schedule);
                black_box(schedule.batches())
            });
        });
    }
    group.finish();
}

criterion_group!(benches, mix);
criterion_main!(benches);
