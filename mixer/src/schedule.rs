//! What the mixer decided about a window.

/// A node of the schedule: a transaction by its index in the window, or, from
/// [`Schedule::transactions`] on, a join.
///
/// A join carries no work. It stands between many transactions that share a key and the many that wait for all
/// of them, so that `n` readers before `m` merges cost `n + m` edges instead of `n * m`.
pub type NodeId = u32;

const NONE: u32 = u32::MAX;

#[derive(Clone, Copy, Debug)]
struct Edge {
    to: NodeId,
    next: u32,
}

/// The order in which a window's transactions may run: a directed acyclic graph whose edges point from earlier
/// to later ones, and the batches that follow from it.
///
/// Shape: nodes `0..transactions` are the transactions in log order, nodes `transactions..nodes` are joins.
/// Reuse one schedule for many windows: its buffers stay.
#[derive(Debug, Default)]
pub struct Schedule {
    transactions: u32,
    batches: u32,
    batch: Vec<u32>,
    /// For each node the newest edge that leaves it, or `NONE`.
    first_edge: Vec<u32>,
    edges: Vec<Edge>,
    waits_for: Vec<u32>,
}

impl Schedule {
    /// How many transactions the window holds.
    #[must_use]
    pub const fn transactions(&self) -> u32 {
        self.transactions
    }

    /// How many nodes there are: transactions and joins.
    #[must_use]
    pub const fn nodes(&self) -> u32 {
        self.first_edge.len() as u32
    }

    /// How many batches there are: the length of the critical path, in transactions.
    #[must_use]
    pub const fn batches(&self) -> u32 {
        self.batches
    }

    /// The batch of a transaction, from 0.
    ///
    /// # Panics
    /// When the window holds no such transaction.
    #[must_use]
    pub fn batch(&self, transaction: u32) -> u32 {
        self.batch[transaction as usize]
    }

    /// For each node, how many edges lead to it: it may run when as many of its predecessors have finished.
    #[must_use]
    pub fn waits_for(&self) -> &[u32] {
        &self.waits_for
    }

    /// The nodes that wait for `node`, the latest first.
    ///
    /// # Panics
    /// When there is no such node.
    #[must_use]
    pub fn successors(&self, node: NodeId) -> Successors<'_> {
        Successors { edges: &self.edges, at: self.first_edge[node as usize] }
    }

    /// Work over critical path, in transactions: on how many cores the window could be kept busy.
    #[must_use]
    pub fn parallelism(&self) -> f64 {
        if self.batches == 0 { 1.0 } else { f64::from(self.transactions) / f64::from(self.batches) }
    }

    /// For each node, how many transactions the longest path that begins there has: what has to run one after another from
    /// it on. Drivers that start the highest first are done together (list scheduling by levels: Hu, Operations Research
    /// 1961).
    ///
    /// Shape: [`nodes`](Self::nodes) heights, from 1 to [`batches`](Self::batches), in a buffer that is reused.
    ///
    /// Cost: one pass over the edges.
    pub fn heights(&self, heights: &mut Vec<u32>) {
        heights.clear();
        heights.resize(self.first_edge.len(), 0);
        let above = |node, heights: &[u32]| {
            self.successors(node).map(|successor| heights[successor as usize]).max().unwrap_or(0)
        };
        // Whatever follows a transaction, also behind a join, is later than it.
        for transaction in (0..self.transactions).rev() {
            for successor in self.successors(transaction) {
                if successor >= self.transactions && heights[successor as usize] == 0 {
                    heights[successor as usize] = above(successor, heights);
                }
            }
            heights[transaction as usize] = above(transaction, heights) + 1;
        }
    }

    pub(crate) fn reset(&mut self, transactions: u32) {
        self.transactions = transactions;
        self.batches = 0;
        self.edges.clear();
        self.batch.clear();
        self.batch.resize(transactions as usize, 0);
        self.first_edge.clear();
        self.first_edge.resize(transactions as usize, NONE);
        self.waits_for.clear();
        self.waits_for.resize(transactions as usize, 0);
    }

    pub(crate) fn add_join(&mut self) -> NodeId {
        self.first_edge.push(NONE);
        self.waits_for.push(0);
        self.nodes() - 1
    }

    pub(crate) fn has_successor(&self, node: NodeId) -> bool {
        self.first_edge[node as usize] != NONE
    }

    /// Adds the edge unless it is there. Edges to one node must be added in one go, which makes the newest edge
    /// of `from` the only one to look at.
    pub(crate) fn add_edge(&mut self, from: NodeId, to: NodeId) {
        let first = &mut self.first_edge[from as usize];
        if *first != NONE && self.edges[*first as usize].to == to {
            return;
        }
        self.edges.push(Edge { to, next: *first });
        *first = self.edges.len() as u32 - 1;
        self.waits_for[to as usize] += 1;
    }

    pub(crate) fn set_batch(&mut self, transaction: u32, batch: u32) {
        self.batch[transaction as usize] = batch;
        self.batches = self.batches.max(batch + 1);
    }
}

/// Iterator over the nodes that wait for a node.
#[derive(Clone, Debug)]
pub struct Successors<'a> {
    edges: &'a [Edge],
    at: u32,
}

impl Iterator for Successors<'_> {
    type Item = NodeId;

    #[inline]
    fn next(&mut self) -> Option<NodeId> {
        if self.at == NONE {
            return None;
        }
        let edge = self.edges[self.at as usize];
        self.at = edge.next;
        Some(edge.to)
    }
}
