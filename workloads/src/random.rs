//! Deterministic randomness: the generator, random text, and TPC-C's non-uniform numbers.
//!
//! Everything that a workload draws comes from a seed, so that the same seed gives the same transactions and the
//! same initial rows on every machine. Each initial row has a generator of its own (see [`Rng::for_row`]), so a row
//! does not depend on which other rows are generated with it, and an audit can generate it again.

use serde::{Deserialize, Serialize};

/// A small, fast pseudo-random generator (xoshiro256++), seeded through SplitMix64.
///
/// Not for secrets. Equal seeds give equal sequences, forever: logs and reports depend on it.
///
/// ```
/// use mixlog_workloads::random::Rng;
/// assert_eq!(Rng::new(7).next_u64(), Rng::new(7).next_u64());
/// assert!(Rng::new(7).between(5, 15) <= 15);
/// ```
#[derive(Clone, Debug)]
pub struct Rng {
    state: [u64; 4],
}

/// One step of SplitMix64 as a function: a bijection on `u64` whose outputs look random.
#[must_use]
pub const fn mix(value: u64) -> u64 {
    let mut z = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl Rng {
    /// A generator that depends on the seed only.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        let a = mix(seed);
        let b = mix(a ^ 0xa076_1d64_78bd_642f);
        let c = mix(b ^ 0xe703_7ed1_a0b4_28db);
        // `mix` is a bijection with a single zero, so the four words are never all zero.
        Self { state: [a, b, c, mix(c ^ 0x8ebc_6af0_9c88_c6e3)] }
    }

    /// The generator of one row: it depends on the seed, on a number for the table, and on the row's key.
    #[must_use]
    pub const fn for_row(seed: u64, table: u64, key: u64) -> Self {
        Self::new(mix(seed ^ mix(table)) ^ key)
    }

    /// 64 random bits.
    #[inline]
    pub const fn next_u64(&mut self) -> u64 {
        let [a, b, c, d] = self.state;
        let result = a.wrapping_add(d).rotate_left(23).wrapping_add(a);
        let (t, c, d) = (b << 17, c ^ a, d ^ b);
        self.state = [a ^ d, b ^ c, c ^ t, d.rotate_left(45)];
        result
    }

    /// A number in `0..bound`, every one equally likely (the bias is below bound / 2^64).
    ///
    /// # Panics
    /// If the bound is zero.
    #[inline]
    pub const fn below(&mut self, bound: u64) -> u64 {
        assert!(bound > 0, "nothing is below zero");
        ((self.next_u64() as u128 * bound as u128) >> 64) as u64
    }

    /// A number in `low..=high`, every one equally likely.
    ///
    /// # Panics
    /// If the range is empty.
    #[inline]
    pub const fn between(&mut self, low: u64, high: u64) -> u64 {
        assert!(low <= high, "the range is empty");
        low + self.below(high - low + 1)
    }

    /// A number in `[0, 1)`.
    #[inline]
    pub const fn unit(&mut self) -> f64 {
        (self.next_u64() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    /// True with the given probability, in percent.
    #[inline]
    pub const fn percent(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }

    /// True with the given probability, between 0 and 1.
    #[inline]
    pub fn chance(&mut self, probability: f64) -> bool {
        self.unit() < probability
    }

    /// Puts the items in a random order, every order equally likely.
    pub fn shuffle<T>(&mut self, items: &mut [T]) {
        for last in (1..items.len()).rev() {
            items.swap(last, self.below(last as u64 + 1) as usize);
        }
    }

    /// Fills the bytes with letters and digits (62 of them).
    pub fn alphanumeric(&mut self, bytes: &mut [u8]) {
        const LETTERS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
        self.fill(bytes, LETTERS);
    }

    /// Fills the bytes with digits.
    pub fn digits(&mut self, bytes: &mut [u8]) {
        self.fill(bytes, b"0123456789");
    }

    /// Four characters come from one draw: population spends most of its time here.
    fn fill(&mut self, bytes: &mut [u8], letters: &[u8]) {
        for four in bytes.chunks_mut(4) {
            let mut bits = self.next_u64();
            for byte in four {
                *byte = letters[((bits & 0xffff) as usize * letters.len()) >> 16];
                bits >>= 16;
            }
        }
    }
}

/// TPC-C's non-uniform random number `NURand(A, x, y)` with its run constant `C` (clause 2.1.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NuRand {
    /// The constant `A`: a power of two minus one that sets how strong the skew is.
    pub a: u32,
    /// The constant `C`, in `0..=A`: it says where in the range the skew falls.
    pub c: u32,
}

impl NuRand {
    /// A number in `x..=y`.
    #[inline]
    pub const fn draw(&self, rng: &mut Rng, x: u32, y: u32) -> u32 {
        let skewed = rng.between(0, self.a as u64) | rng.between(x as u64, y as u64);
        ((skewed + self.c as u64) % (y - x + 1) as u64) as u32 + x
    }
}

/// The three constants `C` that one population, or one run, uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NuConstants {
    /// For last names: A = 255.
    pub last_name: NuRand,
    /// For customer numbers: A = 1023.
    pub customer: NuRand,
    /// For item numbers: A = 8191.
    pub item: NuRand,
}

impl NuConstants {
    /// Constants for a population.
    #[must_use]
    pub fn for_load(rng: &mut Rng) -> Self {
        let mut constant = |a: u32| NuRand { a, c: rng.between(0, u64::from(a)) as u32 };
        Self { last_name: constant(255), customer: constant(1023), item: constant(8191) }
    }

    /// Constants for a run over data that were populated with `load`.
    ///
    /// Clause 2.1.6.1: for last names the two constants differ by 65 to 119, but not by 96 or 112, so that the names
    /// that were loaded often are not those that are asked for often.
    #[must_use]
    pub fn for_run(load: &Self, rng: &mut Rng) -> Self {
        let allowed: Vec<u32> = (0..=load.last_name.a).filter(|c| Self::run_may_use(load, *c)).collect();
        let mut constants = Self::for_load(rng);
        constants.last_name.c = allowed[rng.below(allowed.len() as u64) as usize];
        constants
    }

    /// Whether a run over data populated with `load` may use `c` for last names.
    #[must_use]
    pub const fn run_may_use(load: &Self, c: u32) -> bool {
        let distance = c.abs_diff(load.last_name.c);
        distance >= 65 && distance <= 119 && distance != 96 && distance != 112
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rng_matches_the_published_generator() {
        // xoshiro256++ by its definition, step by step.
        let mut rng = Rng::new(42);
        let mut s = rng.state;
        for _ in 0..1_000 {
            let expected = s[0].wrapping_add(s[3]).rotate_left(23).wrapping_add(s[0]);
            let t = s[1] << 17;
            s[2] ^= s[0];
            s[3] ^= s[1];
            s[1] ^= s[2];
            s[0] ^= s[3];
            s[2] ^= t;
            s[3] = s[3].rotate_left(45);
            assert_eq!(rng.next_u64(), expected);
            assert_eq!(rng.state, s);
        }
    }

    #[test]
    fn between_is_uniform_by_chi_square() {
        let mut rng = Rng::new(1);
        let mut counts = [0u64; 11];
        for _ in 0..110_000 {
            counts[rng.between(5, 15) as usize - 5] += 1;
        }
        let chi: f64 = counts.iter().map(|n| (*n as f64 - 10_000.0).powi(2) / 10_000.0).sum();
        // 10 degrees of freedom: 29.6 is the 99.9 % quantile.
        assert!(chi < 29.6, "{chi}");
    }

    #[test]
    fn alphanumeric_uses_every_character_about_equally() {
        let mut text = vec![0; 620_000];
        Rng::new(3).alphanumeric(&mut text);
        let mut counts = [0u64; 256];
        text.iter().for_each(|byte| counts[usize::from(*byte)] += 1);
        let used: Vec<u64> = counts.into_iter().filter(|n| *n > 0).collect();
        assert_eq!(used.len(), 62);
        assert!(used.iter().all(|n| (9_500..10_500).contains(n)), "{used:?}");
    }

    #[test]
    fn shuffle_keeps_the_items() {
        let mut items: Vec<u32> = (0..1_000).collect();
        Rng::new(5).shuffle(&mut items);
        assert_ne!(items, (0..1_000).collect::<Vec<_>>());
        items.sort_unstable();
        assert_eq!(items, (0..1_000).collect::<Vec<_>>());
    }

    /// How often NURand gives each value of `x..=y`, computed from its definition, with C = 0.
    fn exact(a: u32, x: u32, y: u32) -> Vec<f64> {
        let span = (y - x + 1) as usize;
        let mut weights = vec![0.0; span];
        for left in 0..=a {
            for right in x..=y {
                weights[(left | right) as usize % span] += 1.0;
            }
        }
        let total = f64::from(a + 1) * span as f64;
        weights.into_iter().map(|weight| weight / total).collect()
    }

    fn top_tenth(mut shares: Vec<f64>) -> f64 {
        shares.sort_by(f64::total_cmp);
        shares.iter().rev().take(shares.len() / 10).sum()
    }

    #[test]
    fn nurand_last_name_has_the_published_shape() {
        let shares = exact(255, 0, 999);
        let hottest = shares.iter().copied().fold(0.0, f64::max) * 1_000.0;
        assert!((hottest - 25.6).abs() < 0.1, "{hottest}");
        let top = top_tenth(shares);
        assert!((top - 0.542).abs() < 0.001, "{top}");
    }

    #[test]
    fn nurand_customer_has_the_published_shape() {
        let top = top_tenth(exact(1023, 1, 3_000));
        assert!((top - 0.6145).abs() < 0.002, "{top}");
    }

    #[test]
    fn nurand_item_has_the_published_shape() {
        let nurand = NuRand { a: 8191, c: 0 };
        let mut rng = Rng::new(11);
        let mut counts = vec![0.0; 100_000];
        for _ in 0..4_000_000 {
            counts[nurand.draw(&mut rng, 1, 100_000) as usize - 1] += 1.0 / 4_000_000.0;
        }
        let top = top_tenth(counts);
        assert!((top - 0.726).abs() < 0.01, "{top}");
    }

    #[test]
    fn nurand_draws_follow_the_exact_distribution_by_chi_square() {
        let (nurand, draws) = (NuRand { a: 255, c: 123 }, 2_000_000.0);
        let mut rng = Rng::new(13);
        let mut counts = vec![0.0; 1_000];
        for _ in 0..draws as u64 {
            counts[nurand.draw(&mut rng, 0, 999) as usize] += 1.0;
        }
        let shares = exact(255, 0, 999);
        let mut chi = 0.0;
        for (value, share) in shares.iter().enumerate() {
            // C rotates the distribution; values that can hardly occur are too few for the approximation.
            let seen: f64 = counts[(value + 123) % 1_000];
            if *share == 0.0 {
                assert!(seen == 0.0);
            } else if share * draws > 20.0 {
                chi += (seen - share * draws).powi(2) / (share * draws);
            }
        }
        // At most 999 degrees of freedom: mean 999, standard deviation 45.
        assert!(chi < 1_200.0, "{chi}");
    }

    #[test]
    fn run_constant_keeps_its_distance_from_the_load_constant() {
        for seed in 0..2_000 {
            let mut rng = Rng::new(seed);
            let load = NuConstants::for_load(&mut rng);
            let run = NuConstants::for_run(&load, &mut rng);
            let distance = run.last_name.c.abs_diff(load.last_name.c);
            assert!((65..=119).contains(&distance) && distance != 96 && distance != 112, "{distance}");
            assert!(run.last_name.c <= 255 && run.customer.c <= 1023 && run.item.c <= 8191);
        }
    }
}
