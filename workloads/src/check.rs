//! The result of a consistency check.

use std::fmt::Display;

use serde::Serialize;

/// What a consistency check found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Check {
    /// A short name, the same in every report.
    pub name: String,
    /// Whether the state passed.
    pub ok: bool,
    /// How much was looked at; if the check failed, how often, and the first counter-example.
    pub detail: String,
}

/// Counts what a check looks at, and keeps its first counter-example.
pub(crate) struct Tally {
    name: &'static str,
    what: &'static str,
    note: &'static str,
    may_be_empty: bool,
    examined: u64,
    failed: u64,
    first: Option<(u64, String)>,
}

impl Tally {
    /// A check with its name and what it looks at, in the plural.
    pub(crate) const fn new(name: &'static str, what: &'static str) -> Self {
        Self { name, what, note: "", may_be_empty: false, examined: 0, failed: 0, first: None }
    }

    /// The same check with a remark for its detail.
    pub(crate) fn noting(self, note: &'static str) -> Self {
        Self { note, ..self }
    }

    /// The same check for things that need not exist.
    pub(crate) fn if_any(self) -> Self {
        Self { may_be_empty: true, ..self }
    }

    /// Looks at one thing. `rank` orders the counter-examples: the lowest is reported, whatever the order of visits.
    #[inline]
    pub(crate) fn see(&mut self, ok: bool, rank: u64, example: impl FnOnce() -> String) {
        self.examined += 1;
        if !ok {
            self.fail(rank, example);
        }
    }

    /// Compares one thing with what it should be.
    #[inline]
    pub(crate) fn equal<T: PartialEq + Display>(&mut self, at: &impl Display, rank: u64, is: T, should: T) {
        let ok = is == should;
        self.see(ok, rank, || format!("{at}: {is} instead of {should}"));
    }

    #[cold]
    fn fail(&mut self, rank: u64, example: impl FnOnce() -> String) {
        self.failed += 1;
        if self.first.as_ref().is_none_or(|(first, _)| rank < *first) {
            self.first = Some((rank, example()));
        }
    }

    /// The result. A check that looked at nothing has failed: everything that it needs is missing.
    pub(crate) fn check(&self) -> Check {
        let Self { name, what, note, may_be_empty, examined, failed, first } = self;
        let (ok, detail) = match first {
            Some((_, example)) => (false, format!("{failed} of {examined} {what} wrong; first: {example}")),
            None if *examined == 0 && !may_be_empty => (false, format!("no {what}")),
            None => (true, format!("{examined} {what}")),
        };
        let detail = if note.is_empty() { detail } else { format!("{detail} ({note})") };
        Check { name: (*name).to_owned(), ok, detail }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tally_reports_the_lowest_counter_example() {
        let mut tally = Tally::new("C1", "rows");
        tally.equal(&"row 9", 9, 1, 1);
        tally.equal(&"row 5", 5, 1, 2);
        tally.equal(&"row 3", 3, 1, 2);
        let check = tally.check();
        assert!(!check.ok);
        assert_eq!(check.detail, "2 of 3 rows wrong; first: row 3: 1 instead of 2");
    }

    #[test]
    fn tally_of_nothing_fails() {
        assert!(!Tally::new("C1", "rows").check().ok);
        assert!(Tally::new("C1", "rows").if_any().check().ok);
        let mut tally = Tally::new("C1", "rows").noting("as a remark");
        tally.see(true, 0, String::new);
        assert_eq!(tally.check().detail, "1 rows (as a remark)");
    }
}
