//! Cycles of dependencies, by class.

use std::collections::VecDeque;
use std::fmt;

use super::super::history::Transaction;
use super::graph::{Edge, Edges, Graph};
use super::index::Map;
use super::{Anomalies, Kind, Named};

/// The classes of cycles, from what the weakest isolation excludes to what only serializability does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Class {
    /// Of ww edges.
    G0,
    /// Of ww edges and at least one wr edge.
    G1c,
    /// With exactly one rw edge.
    GSingle,
    /// With two or more rw edges.
    G2,
}

impl fmt::Display for Class {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::G0 => "G0",
            Self::G1c => "G1c",
            Self::GSingle => "G-single",
            Self::G2 => "G2",
        })
    }
}

impl Class {
    const ALL: [Self; 4] = [Self::G0, Self::G1c, Self::GSingle, Self::G2];

    /// The edge that such a cycle must have, and those that lead back from its end to its start.
    const fn edges(self) -> (Edges, Edges) {
        let dependencies = Edges::WW.with(Edges::WR);
        match self {
            Self::G0 => (Edges::WW, Edges::WW),
            Self::G1c => (Edges::WR, dependencies),
            Self::GSingle => (Edges::RW, dependencies),
            Self::G2 => (Edges::RW, dependencies.with(Edges::RW)),
        }
    }
}

/// Ways back that are looked for in one knot and class before it is given up: each may cost a walk over all of it.
const ATTEMPTS: usize = 1_000;

/// Reports one cycle for each knot, of the lowest class that it has. Cycles that need real time come last.
pub(super) fn find(history: &[&Transaction], graph: &Graph, anomalies: &mut Anomalies) {
    let any = Edges::WW.with(Edges::WR).with(Edges::RW).with(Edges::REALTIME);
    if Knots::new(graph, any).members.is_empty() {
        return;
    }
    // A node of each cycle that was reported.
    let mut reported: Vec<u32> = Vec::new();
    for realtime in [false, true] {
        for class in Class::ALL {
            let (start, mut back) = class.edges();
            if realtime {
                back = back.with(Edges::REALTIME);
            }
            let knots = Knots::new(graph, back.with(start));
            for (knot, members) in &knots.members {
                if reported.iter().any(|node| knots.of[*node as usize] == *knot) {
                    continue;
                }
                if let Some(cycle) = cycle(graph, &knots, *knot, members, start, back) {
                    reported.push(cycle[0].0);
                    anomalies.add(Kind::Cycle { class, realtime }, || describe(history, &cycle));
                }
            }
        }
    }
}

/// A cycle with one edge of kind `start`, and a way back from there.
fn cycle(
    graph: &Graph,
    knots: &Knots,
    knot: u32,
    members: &[u32],
    start: Edges,
    back: Edges,
) -> Option<Vec<(u32, Edge)>> {
    let edges = members.iter().flat_map(|from| graph.edges_of(*from).iter().map(move |edge| (*from, *edge)));
    let inside = edges.filter(|(_, edge)| edge.kind == start && knots.of[edge.to as usize] == knot);
    inside.take(ATTEMPTS).find_map(|(from, edge)| {
        let mut cycle = vec![(from, edge)];
        cycle.extend(path(graph, knots, knot, edge.to, from, back)?);
        Some(cycle)
    })
}

/// The shortest way from one node to another inside a knot.
fn path(
    graph: &Graph,
    knots: &Knots,
    knot: u32,
    from: u32,
    to: u32,
    kinds: Edges,
) -> Option<Vec<(u32, Edge)>> {
    let mut came_by: Map<u32, (u32, Edge)> = Map::default();
    let mut queue = VecDeque::from([from]);
    while let Some(node) = queue.pop_front() {
        if node == to {
            let mut way = Vec::new();
            let mut at = to;
            while at != from {
                let step = came_by[&at];
                way.push(step);
                at = step.0;
            }
            way.reverse();
            return Some(way);
        }
        for edge in graph.edges_of(node) {
            let is_inside = kinds.has(edge.kind) && knots.of[edge.to as usize] == knot && edge.to != from;
            if is_inside && !came_by.contains_key(&edge.to) {
                came_by.insert(edge.to, (node, *edge));
                queue.push_back(edge.to);
            }
        }
    }
    None
}

/// `T1 -ww key 3-> T2 -rt-> T1`: joins are left out, and their edges named once.
fn describe(history: &[&Transaction], cycle: &[(u32, Edge)]) -> String {
    let is_transaction = |node: u32| (node as usize) < history.len();
    let first = cycle.iter().position(|(from, _)| is_transaction(*from)).expect("joins alone form no cycle");
    let mut text = String::new();
    for (from, edge) in cycle[first..].iter().chain(&cycle[..first]) {
        if is_transaction(*from) {
            let key = if edge.kind == Edges::REALTIME { String::new() } else { format!(" key {}", edge.key) };
            text += &format!("{} -{}{key}-> ", Named(history, *from), edge.kind.name());
        }
    }
    text + &Named(history, cycle[first].0).to_string()
}

/// The strongly connected parts of a graph that have more than one node.
struct Knots {
    /// The part of each node.
    of: Vec<u32>,
    /// The nodes of each part with more than one.
    members: Vec<(u32, Vec<u32>)>,
}

impl Knots {
    /// Tarjan's algorithm over the edges of these kinds, without recursion.
    fn new(graph: &Graph, kinds: Edges) -> Self {
        const UNSEEN: u32 = u32::MAX;
        let nodes = graph.nodes() as usize;
        let (mut number, mut low) = (vec![UNSEEN; nodes], vec![UNSEEN; nodes]);
        let mut knots = Self { of: vec![UNSEEN; nodes], members: Vec::new() };
        let (mut next, mut parts) = (0, 0);
        let (mut open, mut calls): (Vec<u32>, Vec<(u32, usize)>) = (Vec::new(), Vec::new());
        for root in 0..nodes as u32 {
            if number[root as usize] != UNSEEN {
                continue;
            }
            calls.push((root, 0));
            while let Some((node, place)) = calls.pop() {
                let at = node as usize;
                if place == 0 {
                    (number[at], low[at]) = (next, next);
                    next += 1;
                    open.push(node);
                }
                let edges = graph.edges_of(node);
                let mut descends = false;
                for (edge, place) in edges.iter().zip(0..).skip(place) {
                    let to = edge.to as usize;
                    if !kinds.has(edge.kind) || knots.of[to] != UNSEEN {
                        continue;
                    }
                    if number[to] == UNSEEN {
                        // Comes back to this edge, and finds the node numbered.
                        calls.push((node, place + 1));
                        calls.push((edge.to, 0));
                        descends = true;
                        break;
                    }
                    low[at] = low[at].min(number[to]);
                }
                if descends {
                    continue;
                }
                if low[at] == number[at] {
                    let start = open.iter().rposition(|open| *open == node).expect("it is open");
                    let members = open.split_off(start);
                    members.iter().for_each(|member| knots.of[*member as usize] = parts);
                    if members.len() > 1 {
                        knots.members.push((parts, members));
                    }
                    parts += 1;
                }
                if let Some((parent, _)) = calls.last() {
                    let parent = *parent as usize;
                    low[parent] = low[parent].min(low[at]);
                }
            }
        }
        knots
    }
}
