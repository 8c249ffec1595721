//! Which transaction must come before which.

use super::super::history::{Op, Status, Transaction};
use super::index::{Index, Map};
use super::reads::Order;

/// Kinds of edges, as a set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Edges(u8);

impl Edges {
    pub(super) const WW: Self = Self(1);
    pub(super) const WR: Self = Self(2);
    pub(super) const RW: Self = Self(4);
    pub(super) const REALTIME: Self = Self(8);

    pub(super) const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) const fn has(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::WW => "ww",
            Self::WR => "wr",
            Self::RW => "rw",
            _ => "rt",
        }
    }
}

/// An edge, by where it leads to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Edge {
    pub(super) to: u32,
    /// One kind.
    pub(super) kind: Edges,
    /// The key that it comes from, if it does not come from real time.
    pub(super) key: u64,
}

/// The dependencies between the transactions of a history: nodes below its length are transactions, the others are
/// joins, which make many-to-many edges linear in number.
pub(super) struct Graph {
    /// The edges from node n are those from `starts[n]` to `starts[n + 1]`.
    starts: Vec<u32>,
    edges: Vec<Edge>,
}

impl Graph {
    pub(super) fn new(history: &[&Transaction], index: &Index, order: &Order<'_>) -> Self {
        let mut building = Building { edges: Vec::new(), nodes: history.len() as u32 };
        let mut takes_part: Vec<bool> = history.iter().map(|one| one.status == Status::Ok).collect();
        building.versions(order, &mut takes_part);
        building.seen(order);
        building.unseen(history, &takes_part, index, order);
        building.realtime(history, &takes_part);
        building.finish()
    }

    pub(super) const fn nodes(&self) -> u32 {
        self.starts.len() as u32 - 1
    }

    pub(super) fn edges_of(&self, node: u32) -> &[Edge] {
        let [start, end] = [node, node + 1].map(|node| self.starts[node as usize] as usize);
        &self.edges[start..end]
    }
}

struct Building {
    edges: Vec<(u32, Edge)>,
    nodes: u32,
}

impl Building {
    fn add(&mut self, from: u32, to: u32, kind: Edges, key: u64) {
        if from != to {
            self.edges.push((from, Edge { to, kind, key }));
        }
    }

    fn join(&mut self) -> u32 {
        self.nodes += 1;
        self.nodes - 1
    }

    /// From each version to the next. A transaction of which nobody knows the outcome committed if it was read.
    fn versions(&mut self, order: &Order<'_>, takes_part: &mut [bool]) {
        for (key, versions) in &order.keys {
            let mut last = None;
            for by in versions.by.iter().flatten() {
                takes_part[*by as usize] = true;
                if let Some(last) = last {
                    self.add(last, *by, Edges::WW, *key);
                }
                last = Some(*by);
            }
        }
    }

    /// To each reader from whom it read, and from it to who wrote next.
    fn seen(&mut self, order: &Order<'_>) {
        for seen in &order.seen {
            let by = &order.keys[&seen.key].by;
            let (before, after) = by.split_at(seen.length.min(by.len()));
            if let Some(Some(writer)) = before.last() {
                self.add(*writer, seen.by, Edges::WR, seen.key);
            }
            if let Some(next) = after.iter().flatten().next() {
                self.add(seen.by, *next, Edges::RW, seen.key);
            }
        }
    }

    /// What was appended and never read comes after all that was read. Who saw all that was read, and who appended the
    /// last of it, come before all who appended more: through a join, except for those who would come before
    /// themselves.
    fn unseen(&mut self, history: &[&Transaction], takes_part: &[bool], index: &Index, order: &Order<'_>) {
        let mut unseen: Map<u64, Vec<u32>> = Map::default();
        let members = history.iter().zip(0..).zip(takes_part).filter(|(_, member)| **member);
        for ((transaction, by), _) in members {
            for op in &transaction.operations {
                let Op::Append { key, value } = *op else { continue };
                if index.get(key, value).is_some_and(|append| append.by == by && !append.is_seen) {
                    let list = unseen.entry(key).or_default();
                    if list.last() != Some(&by) {
                        list.push(by);
                    }
                }
            }
        }
        let mut before: Map<u64, Vec<(u32, Edges)>> = Map::default();
        for (key, versions) in order.keys.iter().filter(|(key, _)| unseen.contains_key(*key)) {
            let last = versions.by.iter().flatten().next_back();
            before.entry(*key).or_default().extend(last.map(|last| (*last, Edges::WW)));
        }
        for seen in &order.seen {
            if let Some(list) = before.get_mut(&seen.key)
                && seen.length == order.keys[&seen.key].list.len()
            {
                list.push((seen.by, Edges::RW));
            }
        }
        for (key, sources) in before {
            let after = &unseen[&key];
            let join = self.join();
            for to in after {
                self.add(join, *to, Edges::WW, key);
            }
            for (from, kind) in sources {
                // Transactions are in ascending order.
                if after.binary_search(&from).is_err() {
                    self.add(from, join, kind, key);
                } else {
                    after.iter().for_each(|to| self.add(from, *to, kind, key));
                }
            }
        }
    }

    /// Joins form a chain, one for each end of a transaction in the order of time: a transaction that ends leads to its
    /// own, and the last one before a transaction began leads to that.
    fn realtime(&mut self, history: &[&Transaction], takes_part: &[bool]) {
        let members = || history.iter().zip(0u32..).zip(takes_part).filter(|(_, member)| **member);
        // A transaction of which nobody knows the outcome may have taken effect after its client gave up.
        let mut ends: Vec<(u64, u32)> = members()
            .filter(|((transaction, _), _)| transaction.status == Status::Ok)
            .filter_map(|((transaction, number), _)| Some((transaction.completed_ns?, number)))
            .collect();
        ends.sort_unstable();
        let first = self.nodes;
        for (_, number) in &ends {
            let join = self.join();
            self.add(*number, join, Edges::REALTIME, 0);
            if join > first {
                self.add(join - 1, join, Edges::REALTIME, 0);
            }
        }
        for ((transaction, number), _) in members() {
            let ended = ends.partition_point(|(end, _)| *end < transaction.submitted_ns) as u32;
            if ended > 0 {
                self.add(first + ended - 1, number, Edges::REALTIME, 0);
            }
        }
    }

    /// Edges by where they start.
    fn finish(self) -> Graph {
        let mut starts = vec![0u32; self.nodes as usize + 2];
        for (from, _) in &self.edges {
            starts[*from as usize + 2] += 1;
        }
        for node in 2..starts.len() {
            starts[node] += starts[node - 1];
        }
        let mut edges = vec![Edge { to: 0, kind: Edges::WW, key: 0 }; self.edges.len()];
        for (from, edge) in self.edges {
            let place = &mut starts[from as usize + 1];
            edges[*place as usize] = edge;
            *place += 1;
        }
        starts.pop();
        Graph { starts, edges }
    }
}
