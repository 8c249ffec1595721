//! Which record a transaction asks for: uniform, zipfian, or YCSB's scrambled zipfian.
//!
//! Source: Gray et al., "Quickly Generating Billion-Record Synthetic Databases" (SIGMOD 1994), in the form that YCSB
//! gave it. The scrambled form draws from ten billion ranks with a precomputed constant, then hashes the rank onto the
//! records, so that the popular records are spread over the key space and do not depend on the number of records.

use crate::random::Rng;

/// The number of ranks behind the scrambled distribution, as in YCSB.
pub const SCRAMBLED_RANKS: u64 = 10_000_000_000;
/// The skew of YCSB's zipfian distributions.
pub const YCSB_THETA: f64 = 0.99;
/// zeta(10^10, 0.99): YCSB's constant, precomputed there because the sum takes minutes.
const SCRAMBLED_ZETA: f64 = 26.469_028_201_783_02;

/// FNV-1a over the eight bytes of a number, as YCSB hashes ranks and key numbers (with the sign bit cleared).
#[must_use]
pub const fn fnv64(value: u64) -> u64 {
    let mut hash = 0xcbf2_9ce4_8422_2325u64;
    let mut rest = value;
    let mut byte = 0;
    while byte < 8 {
        hash = (hash ^ (rest & 0xff)).wrapping_mul(0x0000_0100_0000_01b3);
        rest >>= 8;
        byte += 1;
    }
    // YCSB takes Java's absolute value of the signed result.
    (hash as i64).unsigned_abs()
}

/// A zipfian distribution over the ranks `0..n`: rank r is drawn with a probability proportional to 1/(r+1)^theta.
#[derive(Clone, Debug)]
pub struct Zipf {
    ranks: u64,
    theta: f64,
    zeta: f64,
    alpha: f64,
    eta: f64,
    half_pow_theta: f64,
}

impl Zipf {
    /// A distribution over `0..ranks`.
    ///
    /// Cost: one pass over all ranks, once.
    ///
    /// # Panics
    /// If there are no ranks, or theta is not in the open interval from 0 to 1.
    #[must_use]
    pub fn new(ranks: u64, theta: f64) -> Self {
        let zeta = (1..=ranks).map(|rank| (rank as f64).powf(-theta)).sum();
        Self::with_zeta(ranks, theta, zeta)
    }

    fn with_zeta(ranks: u64, theta: f64, zeta: f64) -> Self {
        assert!(ranks > 0 && theta > 0.0 && theta < 1.0, "zipf needs a rank, and a theta between 0 and 1");
        let half_pow_theta = 0.5f64.powf(theta);
        let eta = Self::eta(ranks, theta, zeta, half_pow_theta);
        Self { ranks, theta, zeta, alpha: 1.0 / (1.0 - theta), eta, half_pow_theta }
    }

    fn eta(ranks: u64, theta: f64, zeta: f64, half_pow_theta: f64) -> f64 {
        (1.0 - (2.0 / ranks as f64).powf(1.0 - theta)) / (1.0 - (1.0 + half_pow_theta) / zeta)
    }

    /// The same distribution over more ranks; it never shrinks.
    ///
    /// Cost: one step for each new rank.
    #[inline]
    pub fn grow(&mut self, ranks: u64) {
        if ranks > self.ranks {
            let new = self.ranks + 1..=ranks;
            self.zeta += new.map(|rank| (rank as f64).powf(-self.theta)).sum::<f64>();
            self.ranks = ranks;
            self.eta = Self::eta(ranks, self.theta, self.zeta, self.half_pow_theta);
        }
    }

    /// A rank; 0 is the most popular.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        let unit = rng.unit();
        let scaled = unit * self.zeta;
        if scaled < 1.0 {
            return 0;
        }
        if scaled < 1.0 + self.half_pow_theta {
            return 1.min(self.ranks - 1);
        }
        let rank = self.ranks as f64 * (self.eta * unit - self.eta + 1.0).powf(self.alpha);
        (rank as u64).min(self.ranks - 1)
    }
}

/// A way to choose one of `n` records.
#[derive(Clone, Debug)]
pub enum Distribution {
    /// Every record is equally likely.
    Uniform(u64),
    /// Record r is the r-th most popular.
    Zipf(Zipf),
    /// YCSB's default: popular records are anywhere.
    Scrambled {
        /// The distribution over [`SCRAMBLED_RANKS`].
        ranks: Zipf,
        /// The number of records.
        records: u64,
    },
}

impl Distribution {
    /// YCSB's scrambled zipfian over `0..records`. Theta 0 is the uniform distribution.
    ///
    /// With YCSB's theta of 0.99 the ranks are its ten billion, with YCSB's constant. Any other theta has as many
    /// ranks as there are records, because the sum over ten billion would take minutes.
    ///
    /// # Panics
    /// If there are no records, or theta is not in `[0, 1)`.
    #[must_use]
    pub fn ycsb(records: u64, theta: f64) -> Self {
        assert!(records > 0, "a distribution needs a record");
        if theta == 0.0 {
            return Self::Uniform(records);
        }
        let ranks = if theta == YCSB_THETA {
            Zipf::with_zeta(SCRAMBLED_RANKS, theta, SCRAMBLED_ZETA)
        } else {
            Zipf::new(records, theta)
        };
        Self::Scrambled { ranks, records }
    }

    /// The number of a record.
    #[inline]
    pub fn draw(&self, rng: &mut Rng) -> u64 {
        match self {
            Self::Uniform(records) => rng.below(*records),
            Self::Zipf(zipf) => zipf.draw(rng),
            Self::Scrambled { ranks, records } => fnv64(ranks.draw(rng)) % records,
        }
    }
}

/// YCSB's "latest": the newer a record, the more popular.
///
/// As in YCSB, the very first record is never drawn. Departure: all of the distribution follows the number of records,
/// where YCSB leaves one of its constants as it was at first.
#[derive(Clone, Debug)]
pub struct Latest {
    /// Nothing for the uniform distribution.
    zipf: Option<Zipf>,
}

impl Latest {
    /// A distribution over records that are numbered from 0 and will be at least `records`. Theta 0 is the uniform
    /// distribution.
    ///
    /// Cost: one pass over all records, once.
    ///
    /// # Panics
    /// If theta is not in `[0, 1)`.
    #[must_use]
    pub fn new(records: u64, theta: f64) -> Self {
        Self { zipf: (theta != 0.0).then(|| Zipf::new(Self::ranks(records), theta)) }
    }

    /// As many as there are records to draw.
    fn ranks(records: u64) -> u64 {
        records.saturating_sub(1).max(1)
    }

    /// The number of one of so many records, at least one.
    #[inline]
    pub fn draw(&mut self, rng: &mut Rng, records: u64) -> u64 {
        let ranks = Self::ranks(records);
        let age = match &mut self.zipf {
            None => rng.below(ranks),
            Some(zipf) => {
                zipf.grow(ranks);
                zipf.draw(rng)
            }
        };
        // Fewer records than at first would leave some ages unborn.
        (records - 1).saturating_sub(age)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zipf_that_grew_is_that_of_its_size() {
        let mut grown = Zipf::new(2, 0.99);
        [3, 3, 50, 49, 1_000].into_iter().for_each(|ranks| grown.grow(ranks));
        let fresh = Zipf::new(1_000, 0.99);
        assert_eq!(grown.ranks, fresh.ranks);
        assert!((grown.zeta - fresh.zeta).abs() < 1e-9 && (grown.eta - fresh.eta).abs() < 1e-9);
    }

    #[test]
    fn latest_record_is_the_most_popular_as_records_come() {
        let mut rng = Rng::new(37);
        let mut latest = Latest::new(1_000, YCSB_THETA);
        for records in [1_000, 1_001, 5_000] {
            let draws: Vec<u64> = (0..100_000).map(|_| latest.draw(&mut rng, records)).collect();
            assert!(draws.iter().all(|number| (1..records).contains(number)));
            let share = |number| draws.iter().filter(|drawn| **drawn == number).count() as f64 / 100_000.0;
            let zeta: f64 = (1..records).map(|rank| (rank as f64).powf(-YCSB_THETA)).sum();
            for age in 0..2 {
                let expected = ((age + 1) as f64).powf(-YCSB_THETA) / zeta;
                assert!((share(records - 1 - age) / expected - 1.0).abs() < 0.05, "{records}, {age}");
            }
        }
        assert!((0..100).all(|_| Latest::new(1, 0.5).draw(&mut rng, 1) == 0));
        let mut uniform = Latest::new(10, 0.0);
        let mut seen = [false; 20];
        (0..1_000).for_each(|_| seen[uniform.draw(&mut rng, 20) as usize] = true);
        assert!(!seen[0] && seen[1..].iter().all(|seen| *seen));
    }

    #[test]
    fn fnv64_matches_the_reference_on_zero() {
        // FNV-1a of eight zero bytes is the offset basis times prime^8.
        let mut expected = 0xcbf2_9ce4_8422_2325u64;
        for _ in 0..8 {
            expected = expected.wrapping_mul(0x0000_0100_0000_01b3);
        }
        assert_eq!(fnv64(0), (expected as i64).unsigned_abs());
        assert_ne!(fnv64(1), fnv64(256));
    }

    #[test]
    fn zipf_shares_match_their_definition() {
        for theta in [0.5, 0.9, 0.99] {
            let (ranks, draws) = (1_000u64, 1_000_000.0);
            let zipf = Zipf::new(ranks, theta);
            let mut rng = Rng::new(17);
            let mut counts = vec![0.0; ranks as usize];
            for _ in 0..draws as u64 {
                counts[zipf.draw(&mut rng) as usize] += 1.0;
            }
            // The two most popular ranks are exact; Gray's closed form approximates the others within a tenth.
            for (rank, seen) in counts.iter().enumerate().take(2) {
                let expected = draws * ((rank + 1) as f64).powf(-theta) / zipf.zeta;
                assert!(
                    (seen - expected).abs() < 5.0 * expected.sqrt(),
                    "theta {theta}, rank {rank}: {seen}"
                );
            }
            for decade in [2..10, 10..100, 100..1_000] {
                let share = |rank: usize| ((rank + 1) as f64).powf(-theta) / zipf.zeta;
                let expected: f64 = decade.clone().map(share).sum();
                let seen: f64 = counts[decade.clone()].iter().sum::<f64>() / draws;
                assert!(
                    (seen / expected - 1.0).abs() < 0.1,
                    "theta {theta}, ranks {decade:?}: {seen} {expected}"
                );
            }
        }
    }

    #[test]
    fn scrambled_hottest_record_has_the_share_of_rank_zero() {
        let distribution = Distribution::ycsb(1_000_000, YCSB_THETA);
        let mut rng = Rng::new(19);
        let hottest = fnv64(0) % 1_000_000;
        let draws = 400_000;
        let hits = (0..draws).filter(|_| distribution.draw(&mut rng) == hottest).count() as f64;
        let expected = f64::from(draws) / SCRAMBLED_ZETA;
        assert!((hits / expected - 1.0).abs() < 0.03, "{hits} {expected}");
    }

    #[test]
    fn scrambled_covers_all_records_and_stays_inside() {
        let distribution = Distribution::ycsb(100, 0.8);
        let mut rng = Rng::new(23);
        let mut seen = [false; 100];
        (0..100_000).for_each(|_| seen[distribution.draw(&mut rng) as usize] = true);
        assert!(
            seen.iter().filter(|hit| **hit).count() > 55,
            "hashing leaves about 1/e of the records unused"
        );
    }

    #[test]
    fn theta_zero_is_uniform_by_chi_square() {
        let distribution = Distribution::ycsb(50, 0.0);
        let mut rng = Rng::new(29);
        let mut counts = [0.0; 50];
        (0..100_000).for_each(|_| counts[distribution.draw(&mut rng) as usize] += 1.0);
        let chi: f64 = counts.iter().map(|seen: &f64| (seen - 2_000.0).powi(2) / 2_000.0).sum();
        // 49 degrees of freedom: 85.4 is the 99.9 % quantile.
        assert!(chi < 85.4, "{chi}");
    }

    #[test]
    fn one_rank_is_always_drawn() {
        let zipf = Zipf::new(1, 0.5);
        let mut rng = Rng::new(31);
        assert!((0..1_000).all(|_| zipf.draw(&mut rng) == 0));
    }
}
