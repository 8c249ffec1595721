//! Contenders against each other, in one run.
//!
//! Machines differ, and one machine differs from minute to minute, so a rate by itself means little. Each round runs
//! every contender once, one after another; a ratio of two is taken in each round, and the median of those is what
//! counts. Beside it stand the lowest and the highest, which tell how much the machine changed meanwhile, and the
//! ratio of the best runs: what disturbs a run only makes it slower.
//!
//! `ROUNDS=5` sets how many rounds there are. For profilers, `CONTENDER=TEXT` runs only the one of that name, or those
//! that have it in their names.

use std::str::FromStr;

/// What the environment says of `name`.
pub(crate) fn setting<T: FromStr>(name: &str, default: T) -> T {
    std::env::var(name).ok().and_then(|text| text.parse().ok()).unwrap_or(default)
}

/// The number of rounds.
pub(crate) fn rounds() -> usize {
    setting("ROUNDS", 5).max(1)
}

/// The one in the middle, the upper one of two; of none it is no number.
pub(crate) fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// A name, and one run, which tells something per second.
pub(crate) struct Contender<'a> {
    name: String,
    run: Box<dyn FnMut() -> f64 + 'a>,
}

impl<'a> Contender<'a> {
    pub(crate) fn new(name: impl Into<String>, run: impl FnMut() -> f64 + 'a) -> Self {
        Self { name: name.into(), run: Box::new(run) }
    }

    /// The same under a longer name.
    #[allow(dead_code, reason = "each bench uses what it needs")]
    pub(crate) fn named(mut self, more: &str) -> Self {
        self.name += more;
        self
    }
}

/// What is to be told of contenders, by their places.
#[allow(dead_code, reason = "each bench uses what it needs")]
pub(crate) enum Aim {
    /// So much per second is to be reached.
    Rate(usize, f64),
    /// So much of another one's rate is to be reached.
    Ratio(usize, usize, f64),
    /// The ratio alone.
    Told(usize, usize),
}

/// What an aim came to.
fn verdict(reached: f64, wanted: f64) -> String {
    format!("to reach: {wanted}, {}", if reached >= wanted { "reached" } else { "MISSED" })
}

/// Runs all contenders in each round, and prints their rates, and what is aimed at.
pub(crate) fn compare(title: &str, unit: &str, mut contenders: Vec<Contender<'_>>, aims: &[Aim]) {
    let wanted: String = setting("CONTENDER", String::new());
    let is_name = contenders.iter().any(|contender| contender.name == wanted);
    let runs = |name: &str| if is_name { name == wanted } else { name.contains(&wanted) };
    if !contenders.iter().any(|contender| runs(&contender.name)) {
        return;
    }
    println!("{title}: {unit}, medians of {} rounds (best)", rounds());
    let mut all: Vec<Vec<f64>> = contenders.iter().map(|_| Vec::new()).collect();
    for _ in 0..rounds() {
        for (contender, rates) in contenders.iter_mut().zip(&mut all) {
            if runs(&contender.name) {
                // What one left to be written is not to be waited for by the next one.
                rustix::fs::sync();
                rates.push((contender.run)());
            }
        }
    }
    let best = |i: usize| all[i].iter().copied().fold(0.0, f64::max);
    for (i, (contender, rates)) in contenders.iter().zip(&all).enumerate() {
        if !rates.is_empty() {
            let (median, best) = (median(rates.iter().copied()), best(i));
            println!("  {:<56} {median:>14.3} ({best:.3})", contender.name);
        }
    }
    for aim in aims {
        match *aim {
            Aim::Rate(i, wanted) => {
                if !all[i].is_empty() {
                    let rate = median(all[i].iter().copied());
                    println!("  {}: {}", contenders[i].name, verdict(rate, wanted));
                }
            }
            Aim::Ratio(a, b, _) | Aim::Told(a, b) => {
                if all[a].is_empty() || all[b].is_empty() {
                    continue;
                }
                let mut ratios: Vec<f64> = all[a].iter().zip(&all[b]).map(|(a, b)| a / b).collect();
                ratios.sort_by(f64::total_cmp);
                let (lowest, highest) = (ratios[0], ratios[ratios.len() - 1]);
                let (ratio, best) = (median(ratios), best(a) / best(b));
                let told = match *aim {
                    Aim::Ratio(.., wanted) => format!("; {}", verdict(ratio, wanted)),
                    _ => String::new(),
                };
                println!(
                    "  {} : {} = {ratio:.2} ({lowest:.2} to {highest:.2}; best runs {best:.2}{told})",
                    contenders[a].name, contenders[b].name
                );
            }
        }
    }
    println!();
}
