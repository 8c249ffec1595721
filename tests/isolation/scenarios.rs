//! The anomalies of Adya (PhD thesis, MIT 1999) in the scenarios of Hermitage (Kleppmann), some more with predicates,
//! and Fekete's read-only anomaly (SIGMOD Record 2004).
//!
//! Each has a check that names what it forbids, and histories that it must object to. Checks look at committed
//! transactions only, and know nothing of positions: they are about what users see.

use crate::history::{End, History, Ran};
use crate::script::Step::{self, Abort, Add, Append, Delete, DeleteWhere, Merge, Read, Scan, Write};
use crate::script::{Rows, Slot};

pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) before: &'static [(Slot, i64)],
    pub(crate) transactions: &'static [&'static [Step]],
    pub(crate) check: fn(&History) -> Result<(), &'static str>,
    /// The order of statements in Hermitage: each number is the next step of that transaction, and after its last
    /// step its commit. A transaction begins with its first step.
    pub(crate) steps: &'static [usize],
    /// Interactive transactions that must be refused in that order. All others commit.
    pub(crate) refused: &'static [usize],
    /// Histories to object to.
    pub(crate) forbidden: fn() -> Vec<History>,
}

const X: Slot = 1;
const Y: Slot = 2;
const Z: Slot = 3;
const A: Slot = 5;
const B: Slot = 6;

const XY: &[(Slot, i64)] = &[(X, 10), (Y, 20)];
const AB: &[(Slot, i64)] = &[(X, 10), (Y, 20), (A, 30), (B, 42)];

fn forbid(anomaly: bool, what: &'static str) -> Result<(), &'static str> {
    if anomaly { Err(what) } else { Ok(()) }
}

fn row(slot: Slot, value: i64) -> Rows {
    vec![(slot, value)]
}
fn none() -> Rows {
    Vec::new()
}
fn x(value: i64) -> Rows {
    row(X, value)
}
fn y(value: i64) -> Rows {
    row(Y, value)
}

/// A history in which all committed, by what each of them read.
fn all<const N: usize>(reads: [Vec<Rows>; N], left: &[(Slot, i64)]) -> History {
    let committed = |reads| Ran { end: End::Committed, reads, at: None, after: false };
    History { ran: reads.into_iter().map(committed).collect(), left: left.to_vec() }
}

/// The same, in which the first gave up.
fn first_aborted<const N: usize>(reads: [Vec<Rows>; N], left: &[(Slot, i64)]) -> History {
    let mut history = all(reads, left);
    history.ran[0].end = End::Aborted;
    history
}

pub(crate) const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "G0 dirty write",
        before: XY,
        transactions: &[&[Write(X, 11), Write(Y, 21)], &[Write(X, 12), Write(Y, 22)]],
        check: |h| {
            let of = |x, y| (h.left(X) == Some(x)) != (h.left(Y) == Some(y));
            forbid(of(11, 21) || of(12, 22), "rows of two writers")
        },
        steps: &[0, 1, 0, 0, 1, 1],
        refused: &[],
        forbidden: || {
            let of = |x, y| all([vec![], vec![]], &[(X, x), (Y, y)]);
            vec![of(11, 22), of(12, 21), of(11, 20)]
        },
    },
    Scenario {
        name: "G0 of lists",
        before: XY,
        transactions: &[&[Append(X, 1), Append(Y, 1)], &[Append(X, 2), Append(Y, 2)]],
        check: |h| {
            let behind = |slot, first: &str| {
                let list = h.left(slot).unwrap_or_default().to_string();
                list.strip_prefix(first).map(str::to_owned)
            };
            let (x, y) = (behind(X, "10"), behind(Y, "20"));
            let lost = (0..2).any(|i| {
                h.committed(i) && !x.as_ref().is_some_and(|list| list.contains(&(i + 1).to_string()))
            });
            forbid(x.is_none() || x != y || lost, "two orders of the same writers")
        },
        steps: &[0, 1, 0, 0, 1, 1],
        refused: &[1],
        forbidden: || {
            let of = |x, y| all([vec![], vec![]], &[(X, x), (Y, y)]);
            vec![of(1012, 2021), of(101, 202), of(101, 201), of(1012, 202), of(10, 20)]
        },
    },
    Scenario {
        name: "G1a aborted read",
        before: XY,
        transactions: &[&[Write(X, 101), Abort], &[Read(X), Read(X)]],
        check: |h| {
            let seen = (0..2).any(|read| h.saw_row(1, read, X, 101));
            forbid(seen || h.left(X) != Some(10), "a write of an aborted transaction is seen")
        },
        steps: &[0, 1, 0, 1, 1],
        refused: &[],
        forbidden: || {
            vec![
                first_aborted([vec![], vec![x(101), x(10)]], XY),
                first_aborted([vec![], vec![x(10), x(101)]], XY),
                first_aborted([vec![], vec![x(10), x(10)]], &[(X, 101), (Y, 20)]),
            ]
        },
    },
    Scenario {
        name: "G1a of a predicate",
        before: XY,
        transactions: &[&[Write(A, 30), Delete(X), Merge(Y, 1), Abort], &[Scan(3), Read(X), Scan(1)]],
        check: |h| {
            let seen = h.saw(1, 0).is_some_and(|rows| !rows.is_empty())
                || h.saw_none(1, 1)
                || h.saw(1, 2).is_some_and(|rows| rows != XY);
            forbid(seen || h.left != XY, "a change of an aborted transaction is seen")
        },
        steps: &[0, 0, 1, 1, 0, 0, 1, 1],
        refused: &[],
        forbidden: || {
            let all = XY.to_vec();
            vec![
                first_aborted([vec![], vec![vec![(A, 30)], x(10), all.clone()]], XY),
                first_aborted([vec![], vec![none(), none(), all.clone()]], XY),
                first_aborted([vec![], vec![none(), x(10), vec![(X, 10), (Y, 21)]]], XY),
                first_aborted([vec![], vec![none(), x(10), all]], &[(Y, 20)]),
            ]
        },
    },
    Scenario {
        name: "G1b intermediate read",
        before: XY,
        transactions: &[&[Write(X, 101), Write(X, 11)], &[Read(X), Read(X)]],
        check: |h| {
            forbid((0..2).any(|read| h.saw_row(1, read, X, 101)), "an intermediate write is seen")?;
            forbid(h.committed(1) && h.saw(1, 0) != h.saw(1, 1), "two reads of a row differ")
        },
        steps: &[0, 1, 0, 0, 1, 1],
        refused: &[],
        forbidden: || {
            let of = |first, second| all([vec![], vec![x(first), x(second)]], &[(X, 11), (Y, 20)]);
            vec![of(101, 11), of(10, 101), of(101, 101), of(10, 11)]
        },
    },
    Scenario {
        name: "G1b of a deleted row",
        before: XY,
        transactions: &[&[Delete(X), Write(A, 30), Write(X, 11), Delete(A)], &[Read(X), Scan(1), Scan(3)]],
        check: |h| {
            let seen = h.saw_none(1, 0)
                || h.saw(1, 1).is_some_and(|rows| rows.len() != 2)
                || h.saw(1, 2).is_some_and(|rows| !rows.is_empty());
            forbid(seen, "an intermediate state is seen")
        },
        steps: &[0, 0, 1, 1, 0, 0, 0, 1, 1],
        refused: &[],
        forbidden: || {
            let left = &[(X, 11), (Y, 20)];
            vec![
                all([vec![], vec![none(), XY.to_vec(), none()]], left),
                all([vec![], vec![x(10), y(20), none()]], left),
                all([vec![], vec![x(10), XY.to_vec(), row(A, 30)]], left),
            ]
        },
    },
    Scenario {
        name: "G1c circular information flow",
        before: XY,
        transactions: &[&[Write(X, 11), Read(Y)], &[Write(Y, 22), Read(X)]],
        check: |h| {
            forbid(h.saw_row(0, 0, Y, 22) && h.saw_row(1, 0, X, 11), "each saw the other's write")?;
            forbid(h.saw_row(0, 0, Y, 20) && h.saw_row(1, 0, X, 10), "neither saw the other's write")
        },
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            let left = &[(X, 11), (Y, 22)];
            vec![all([vec![y(22)], vec![x(11)]], left), all([vec![y(20)], vec![x(10)]], left)]
        },
    },
    Scenario {
        name: "OTV observed transaction vanishes",
        before: XY,
        transactions: &[
            &[Write(X, 11), Write(Y, 19)],
            &[Write(X, 12), Write(Y, 18)],
            &[Read(X), Read(Y), Read(X), Read(Y)],
        ],
        check: |h| {
            let pair =
                |read| [(10, 20), (11, 19), (12, 18)].into_iter().find(|&(x, _)| h.saw_row(2, read, X, x));
            let matches =
                |pair: Option<(i64, i64)>, read| pair.is_some_and(|(_, y)| h.saw_row(2, read, Y, y));
            let (first, second) = (pair(0), pair(2));
            forbid(h.committed(2) && !matches(first, 1), "rows of two writers are seen")?;
            forbid(h.committed(2) && (first != second || !matches(second, 3)), "what was seen vanished")
        },
        steps: &[0, 0, 1, 0, 2, 1, 2, 1, 2, 2, 2],
        refused: &[],
        forbidden: || {
            let of = |a, b, c, d| all([vec![], vec![], vec![x(a), y(b), x(c), y(d)]], &[(X, 12), (Y, 18)]);
            vec![of(12, 19, 12, 19), of(12, 18, 11, 19), of(11, 19, 11, 18), of(10, 19, 10, 19)]
        },
    },
    Scenario {
        name: "PMP predicate-many-preceders",
        before: XY,
        transactions: &[&[Scan(30), Scan(3)], &[Write(A, 30)]],
        check: |h| forbid(h.committed(0) && h.saw(0, 0) != h.saw(0, 1), "a row appeared in a predicate"),
        steps: &[0, 1, 1, 0, 0],
        refused: &[],
        forbidden: || {
            let left = &[(X, 10), (Y, 20), (A, 30)];
            vec![all([vec![none(), row(A, 30)], vec![]], left), all([vec![row(A, 30), none()], vec![]], left)]
        },
    },
    Scenario {
        name: "PMP for writes",
        before: XY,
        transactions: &[&[Write(X, 12), Write(Y, 21)], &[DeleteWhere(3)]],
        check: |h| {
            let found = h.saw(1, 0).map(Vec::len);
            forbid(found == Some(1), "half of a transaction matched a predicate")?;
            forbid(found == Some(2) && !h.left.is_empty(), "what was deleted is there")?;
            forbid(found == Some(0) && h.committed(0) && h.left.len() != 2, "what was not found is gone")
        },
        steps: &[0, 0, 1, 0, 1],
        refused: &[],
        forbidden: || {
            let moved = &[(X, 12), (Y, 21)];
            vec![
                all([vec![], vec![x(12)]], &[(Y, 21)]),
                all([vec![], vec![y(21)]], &[(X, 12)]),
                all([vec![], vec![moved.to_vec()]], &[(X, 12)]),
                all([vec![], vec![none()]], &[(Y, 21)]),
            ]
        },
    },
    Scenario {
        name: "P4 lost update",
        before: XY,
        transactions: &[&[Read(X), Add(X, 1)], &[Read(X), Add(X, 1)], &[Add(X, 1)]],
        check: |h| {
            let committed = (0..3).filter(|&i| h.committed(i)).count() as i64;
            forbid(h.left(X) != Some(10 + committed), "an update is lost")?;
            let torn = (0..2).any(|i| h.committed(i) && h.saw(i, 0) != h.saw(i, 1));
            forbid(torn, "two reads of a row differ")?;
            let seen = |i| h.saw(i, 0);
            let same = |i, j| seen(i).is_some() && seen(i) == seen(j);
            forbid(same(0, 1) || same(0, 2) || same(1, 2), "two updates of one value")
        },
        steps: &[0, 1, 2, 0, 1, 0, 1, 2],
        refused: &[1, 2],
        forbidden: || {
            let of =
                |a, b, c, left| all([vec![x(a), x(a)], vec![x(b), x(b)], vec![x(c)]], &[(X, left), (Y, 20)]);
            vec![
                of(10, 10, 11, 12),
                of(10, 10, 11, 13),
                of(10, 11, 12, 12),
                all([vec![x(10), x(11)], vec![x(11), x(11)], vec![x(12)]], &[(X, 13), (Y, 20)]),
            ]
        },
    },
    Scenario {
        name: "P4 lost merge",
        before: XY,
        transactions: &[&[Merge(X, 1)], &[Add(X, 10)], &[Merge(X, 100)]],
        check: |h| {
            let sum: i64 =
                [1, 10, 100].iter().zip(0..).filter(|&(_, i)| h.committed(i)).map(|(n, _)| n).sum();
            forbid(h.left(X) != Some(10 + sum), "a merge or an update is lost")?;
            let valid = [10, 11, 110, 111].iter().any(|&value| h.saw_row(1, 0, X, value));
            forbid(h.committed(1) && !valid, "a sum that never was is seen")
        },
        steps: &[0, 1, 2, 0, 1, 2],
        refused: &[1, 2],
        forbidden: || {
            let of = |seen, left| all([vec![], vec![x(seen)], vec![]], &[(X, left), (Y, 20)]);
            vec![of(10, 20), of(10, 21), of(10, 120), of(20, 121)]
        },
    },
    Scenario {
        name: "G-single read skew",
        before: XY,
        transactions: &[&[Read(X), Read(Y)], &[Read(X), Read(Y), Write(X, 12), Write(Y, 18)]],
        check: |h| {
            let of = |x, y| h.saw_row(0, 0, X, x) && h.saw_row(0, 1, Y, y);
            forbid(h.committed(0) && !of(10, 20) && !of(12, 18), "rows of two states are seen")
        },
        steps: &[0, 1, 1, 1, 1, 1, 0, 0],
        refused: &[],
        forbidden: || {
            let of = |a, b| all([vec![x(a), y(b)], vec![x(10), y(20)]], &[(X, 12), (Y, 18)]);
            vec![of(10, 18), of(12, 20)]
        },
    },
    Scenario {
        name: "G-single with a write",
        before: XY,
        transactions: &[&[Read(X), Read(Y), Delete(Y)], &[Read(X), Read(Y), Write(X, 12), Write(Y, 18)]],
        check: |h| {
            let of = |x, y| h.saw_row(0, 0, X, x) && h.saw_row(0, 1, Y, y);
            forbid(h.committed(0) && !of(10, 20) && !of(12, 18), "rows of two states are seen")?;
            let both = h.committed(0) && h.committed(1);
            forbid(both && of(10, 20) && h.left(Y) != Some(18), "the second write is lost")?;
            forbid(both && of(10, 20) && !h.saw_none(1, 1), "neither saw the other's write")?;
            forbid(both && of(12, 18) && h.left(Y).is_some(), "the delete is lost")
        },
        steps: &[0, 1, 1, 1, 1, 1, 0, 0, 0],
        refused: &[0],
        forbidden: || {
            let of =
                |a, b, seen: Rows, left: &[(Slot, i64)]| all([vec![x(a), y(b)], vec![x(10), seen]], left);
            let left = &[(X, 12), (Y, 18)];
            vec![
                of(10, 18, y(20), left),
                of(10, 20, none(), &[(X, 12)]),
                of(10, 20, y(20), left),
                of(12, 18, y(20), left),
            ]
        },
    },
    Scenario {
        name: "G-single of predicates",
        before: XY,
        transactions: &[&[Scan(5), Scan(3)], &[Write(X, 12)]],
        check: |h| {
            let has_x =
                |read| h.saw(0, read).is_some_and(|rows: &Rows| rows.iter().any(|(slot, _)| *slot == X));
            forbid(h.committed(0) && has_x(0) == has_x(1), "two predicates saw two states")
        },
        steps: &[0, 1, 1, 0, 0],
        refused: &[],
        forbidden: || {
            let left = &[(X, 12), (Y, 20)];
            vec![all([vec![XY.to_vec(), x(12)], vec![]], left), all([vec![y(20), none()], vec![]], left)]
        },
    },
    Scenario {
        name: "G-single of merges",
        before: XY,
        transactions: &[
            &[Merge(X, 1), Merge(Y, 1)],
            &[Merge(Y, 2), Merge(X, 2)],
            &[Read(X), Read(Y)],
            &[Scan(1)],
        ],
        check: |h| {
            let sum: i64 = [1, 2].iter().zip(0..).filter(|&(_, i)| h.committed(i)).map(|(n, _)| n).sum();
            forbid(h.left != [(X, 10 + sum), (Y, 20 + sum)], "a merge is lost")?;
            let torn = |rows: &[(Slot, i64)]| rows.len() != 2 || rows[1].1 - rows[0].1 != 10;
            let reads = h.saw(2, 0).zip(h.saw(2, 1)).map(|(x, y)| [&x[..], y].concat());
            forbid(reads.is_some_and(|rows| torn(&rows)), "half of a merging transaction is read")?;
            forbid(h.saw(3, 0).is_some_and(|rows| torn(rows)), "half of a merging transaction is in a scan")
        },
        steps: &[0, 1, 0, 2, 0, 3, 2, 1, 2, 1, 3],
        refused: &[1],
        forbidden: || {
            let of = |a, b, scan: &[(Slot, i64)], left: &[(Slot, i64)]| {
                all([vec![], vec![], vec![x(a), y(b)], vec![scan.to_vec()]], left)
            };
            let left = &[(X, 13), (Y, 23)];
            vec![
                of(11, 20, XY, left),
                of(10, 20, &[(X, 10), (Y, 22)], left),
                of(10, 20, XY, &[(X, 13), (Y, 22)]),
            ]
        },
    },
    Scenario {
        name: "G2-item write skew",
        before: XY,
        transactions: &[&[Read(X), Read(Y), Write(X, 11)], &[Read(X), Read(Y), Write(Y, 21)]],
        check: |h| {
            forbid(h.saw_row(0, 1, Y, 20) && h.saw_row(1, 0, X, 10), "neither saw the other's write")?;
            forbid(h.saw_row(0, 1, Y, 21) && h.saw_row(1, 0, X, 11), "each saw the other's write")
        },
        steps: &[0, 0, 1, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            let of = |a, b| all([vec![x(10), y(a)], vec![x(b), y(20)]], &[(X, 11), (Y, 21)]);
            vec![of(20, 10), of(21, 11)]
        },
    },
    Scenario {
        name: "G2-item of three",
        before: &[(X, 10), (Y, 20), (Z, 40)],
        transactions: &[&[Read(X), Write(Y, 21)], &[Read(Y), Write(Z, 41)], &[Read(Z), Write(X, 11)]],
        check: |h| {
            let old = [h.saw_row(0, 0, X, 10), h.saw_row(1, 0, Y, 20), h.saw_row(2, 0, Z, 40)];
            let new = [h.saw_row(0, 0, X, 11), h.saw_row(1, 0, Y, 21), h.saw_row(2, 0, Z, 41)];
            forbid(old == [true; 3], "none saw the next one's write")?;
            forbid(new == [true; 3], "each saw the next one's write")
        },
        steps: &[0, 1, 2, 0, 1, 2, 0, 1, 2],
        refused: &[1],
        forbidden: || {
            let of = |a, b, c| all([vec![x(a)], vec![y(b)], vec![row(Z, c)]], &[(X, 11), (Y, 21), (Z, 41)]);
            vec![of(10, 20, 40), of(11, 21, 41)]
        },
    },
    Scenario {
        name: "G2 phantoms by insert",
        before: XY,
        transactions: &[&[Scan(3), Write(A, 30)], &[Scan(3), Write(B, 42)]],
        check: neither_saw_the_other,
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            vec![all([vec![none()], vec![none()]], AB), all([vec![row(B, 42)], vec![row(A, 30)]], AB)]
        },
    },
    Scenario {
        name: "G2 phantoms by an update into the predicate",
        before: XY,
        transactions: &[&[Scan(3), Write(X, 30)], &[Scan(3), Write(Y, 42)]],
        check: neither_saw_the_other,
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            let left = &[(X, 30), (Y, 42)];
            vec![all([vec![none()], vec![none()]], left), all([vec![y(42)], vec![x(30)]], left)]
        },
    },
    Scenario {
        name: "G2 phantoms by merges",
        before: XY,
        transactions: &[&[Scan(3), Merge(A, 30)], &[Scan(3), Merge(B, 42)]],
        check: neither_saw_the_other,
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            vec![all([vec![none()], vec![none()]], AB), all([vec![row(B, 42)], vec![row(A, 30)]], AB)]
        },
    },
    Scenario {
        name: "G2 phantoms by delete",
        before: AB,
        transactions: &[&[Scan(3), Delete(A)], &[Scan(3), Delete(B)]],
        check: |h| {
            let found = |i| h.saw(i, 0).map(Vec::len);
            forbid(found(0) == Some(2) && found(1) == Some(2), "neither saw the other's delete")?;
            forbid(found(0) == Some(1) && found(1) == Some(1), "each saw the other's delete")
        },
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            let both = || vec![(A, 30), (B, 42)];
            vec![all([vec![both()], vec![both()]], XY), all([vec![row(A, 30)], vec![row(B, 42)]], XY)]
        },
    },
    Scenario {
        name: "G2 own merges in a predicate",
        before: XY,
        transactions: &[&[Merge(A, 30), Scan(3)], &[Merge(B, 42), Scan(3)]],
        check: |h| {
            let sees = |i, slot| h.saw(i, 0).is_some_and(|rows: &Rows| rows.iter().any(|(s, _)| *s == slot));
            let own = (!h.committed(0) || sees(0, A)) && (!h.committed(1) || sees(1, B));
            forbid(!own, "a transaction does not see its own merge")?;
            let both = h.committed(0) && h.committed(1);
            forbid(both && !sees(0, B) && !sees(1, A), "neither saw the other's merge")?;
            forbid(both && sees(0, B) && sees(1, A), "each saw the other's merge")
        },
        steps: &[0, 1, 0, 1, 0, 1],
        refused: &[1],
        forbidden: || {
            let both = || vec![(A, 30), (B, 42)];
            vec![
                all([vec![none()], vec![both()]], AB),
                all([vec![row(A, 30)], vec![row(B, 42)]], AB),
                all([vec![both()], vec![both()]], AB),
            ]
        },
    },
    Scenario {
        name: "Fekete's read-only anomaly",
        before: XY,
        transactions: &[&[Read(X), Read(Y), Write(X, 0)], &[Add(Y, 5)], &[Read(X), Read(Y)]],
        check: |h| {
            let between = h.saw_row(2, 0, X, 10) && h.saw_row(2, 1, Y, 25);
            forbid(
                between && h.saw_row(0, 1, Y, 20),
                "the reader saw a state between two that did not see each other",
            )
        },
        steps: &[0, 0, 1, 1, 2, 2, 2, 0, 0],
        refused: &[0],
        forbidden: || vec![all([vec![x(10), y(20)], vec![y(20)], vec![x(10), y(25)]], &[(X, 0), (Y, 25)])],
    },
    Scenario {
        name: "Fekete's read-only anomaly of predicates",
        before: XY,
        transactions: &[&[Scan(1), Write(X, 0)], &[Write(A, 30)], &[Scan(1)]],
        check: |h| {
            let a = |i| h.saw(i, 0).map(|rows| rows.iter().any(|(slot, _)| *slot == A));
            let between = a(2) == Some(true) && h.saw(2, 0).is_some_and(|rows| rows.contains(&(X, 10)));
            forbid(
                between && a(0) == Some(false),
                "the reader saw a state between two that did not see each other",
            )
        },
        steps: &[0, 1, 1, 2, 2, 0, 0],
        refused: &[0],
        forbidden: || {
            let between = vec![(X, 10), (Y, 20), (A, 30)];
            vec![all([vec![XY.to_vec()], vec![], vec![between]], &[(X, 0), (Y, 20), (A, 30)])]
        },
    },
];

/// Two transactions that each look for rows of a predicate, of which there are none, and make one.
fn neither_saw_the_other(h: &History) -> Result<(), &'static str> {
    forbid(h.saw_none(0, 0) && h.saw_none(1, 0), "neither saw the other's row")?;
    let saw = |i| h.saw(i, 0).is_some_and(|rows| !rows.is_empty());
    forbid(saw(0) && saw(1), "each saw the other's row")
}
