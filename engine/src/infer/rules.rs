//! Rules: how a procedure's footprint follows from its arguments.

use mixlog_log::Position;
use mixlog_mixer::Mode;

use super::affine::Sum;
use super::leaves::{Kind, Leaf, Leaves, Names, Reach};
use crate::codec;
use crate::footprint::Footprint;

/// What a number of a key can be made of, counted through: the element's leaves, the element's place in its list, the
/// leaves outside of lists, the time and the position.
pub(super) const INDEX: u16 = super::leaves::MOST_INNER as u16;
pub(super) const OUTER: u16 = INDEX + 1;
pub(super) const TIME: u16 = OUTER + super::leaves::MOST_OUTER as u16;
pub(super) const POSITION: u16 = TIME + 1;

/// A transaction's arguments, and where and when it stands in the log.
#[derive(Clone, Copy)]
pub(super) struct At<'a> {
    pub(super) leaves: &'a Leaves,
    pub(super) position: Position,
    pub(super) time_us: u64,
    /// The leaves of an element of a list, and its place there.
    pub(super) element: Option<(&'a [Leaf], u32)>,
}

impl At<'_> {
    /// The leaf of this column, if there is one.
    #[inline]
    pub(super) fn leaf(&self, column: u16) -> Option<Leaf> {
        if column < INDEX {
            let (leaves, _) = self.element?;
            return leaves.get(usize::from(column)).copied();
        }
        self.leaves.outer.get(usize::from(column.checked_sub(OUTER)?)).copied()
    }

    /// The number in this column. 0 where there is none: rules are for the shapes that they were found for.
    #[inline]
    pub(super) fn number(&self, column: u16) -> u64 {
        // As most are.
        if column < INDEX {
            return self.leaf(column).map_or(0, |leaf| leaf.number);
        }
        match column {
            INDEX => self.element.map_or(0, |(_, index)| u64::from(index)),
            TIME => self.time_us,
            POSITION => self.position.0,
            _ => self.leaf(column).map_or(0, |leaf| leaf.number),
        }
    }
}

/// Where a part of a key comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Number(Sum),
    /// The text in a column.
    Text(u16),
    /// The same text always.
    Constant(Vec<u8>),
}

/// What a rule declares an access to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Target {
    /// The row whose key has these parts.
    Row(Vec<(Kind, Source)>),
    /// The granule of this number.
    Granule(Sum),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) table: u16,
    pub(super) mode: Mode,
    pub(super) target: Target,
}

impl Rule {
    /// Whether a number that it gives is, in part, the same always.
    pub(super) fn has_constant(&self) -> bool {
        match &self.target {
            Target::Granule(sum) => sum.constant != 0,
            Target::Row(parts) => {
                parts.iter().any(|(_, source)| matches!(source, Source::Number(sum) if sum.constant != 0))
            }
        }
    }

    /// The columns that it uses.
    fn columns(&self) -> Vec<u16> {
        let of_sum = |sum: &Sum| sum.terms.iter().map(|&(column, _)| column).collect();
        match &self.target {
            Target::Granule(sum) => of_sum(sum),
            Target::Row(parts) => parts
                .iter()
                .flat_map(|(_, source)| match source {
                    Source::Number(sum) => of_sum(sum),
                    Source::Text(column) => vec![*column],
                    Source::Constant(_) => Vec::new(),
                })
                .collect(),
        }
    }

    /// Declares the access. Tells whether there is such a key.
    #[inline]
    fn declare(&self, at: &At<'_>, f: &mut Footprint<'_>, bytes: &mut Vec<u8>) -> bool {
        // One word, as most keys are.
        if let Target::Row(parts) = &self.target
            && let [(Kind::Native(8), Source::Number(sum))] = &**parts
        {
            let key = sum.of(|column| at.number(column)).to_ne_bytes();
            return f.store().any(self.table).declare_bytes(&key, self.mode, f).is_ok();
        }
        self.declare_any(at, f, bytes)
    }

    fn declare_any(&self, at: &At<'_>, f: &mut Footprint<'_>, bytes: &mut Vec<u8>) -> bool {
        let table = f.store().any(self.table);
        match &self.target {
            Target::Granule(sum) => {
                table.declare_granule(sum.of(|column| at.number(column)), self.mode, f);
                true
            }
            Target::Row(parts) => {
                bytes.clear();
                parts.iter().all(|(kind, source)| put(*kind, source, at, bytes))
                    && table.declare_bytes(bytes, self.mode, f).is_ok()
            }
        }
    }
}

/// Appends a part of a key to its bytes. Tells whether it is such a part.
#[inline]
fn put(kind: Kind, source: &Source, at: &At<'_>, bytes: &mut Vec<u8>) -> bool {
    let sum = match source {
        Source::Number(sum) => sum,
        Source::Text(column) => {
            let text = at.leaf(*column).filter(|leaf| leaf.kind == Kind::Text);
            return text.map(|leaf| put_text(at.leaves.text(leaf), bytes)).is_some();
        }
        Source::Constant(text) => {
            put_text(text, bytes);
            return true;
        }
    };
    let number = sum.of(|column| at.number(column));
    let fits = |bytes: u8| bytes == 8 || number >> (8 * bytes) == 0;
    match kind {
        Kind::Byte => {
            bytes.push(number as u8);
            // Below zero all higher bits are set.
            fits(1) || (number as i64) < 0 && number as i64 >= i64::from(i8::MIN)
        }
        Kind::Unsigned => {
            codec::encode(&number, bytes);
            true
        }
        Kind::Signed => {
            codec::encode(&(number as i64), bytes);
            true
        }
        Kind::Char => {
            let character = u32::try_from(number).ok().and_then(char::from_u32);
            character.map(|character| codec::encode(&character, bytes)).is_some()
        }
        Kind::Little(size) => {
            bytes.extend_from_slice(&number.to_le_bytes()[..usize::from(size)]);
            fits(size)
        }
        Kind::Native(size) => {
            match size {
                2 => bytes.extend_from_slice(&(number as u16).to_ne_bytes()),
                4 => bytes.extend_from_slice(&(number as u32).to_ne_bytes()),
                _ => bytes.extend_from_slice(&number.to_ne_bytes()),
            }
            fits(size)
        }
        Kind::Text | Kind::Other => false,
    }
}

fn put_text(text: &[u8], bytes: &mut Vec<u8>) {
    codec::encode(&text.len(), bytes);
    bytes.extend_from_slice(text);
}

/// The rules for the elements of one list that have one shape.
#[derive(Clone, Debug)]
pub(super) struct OfElements {
    pub(super) list: usize,
    pub(super) shape: u64,
    pub(super) rules: Vec<Rule>,
    /// What makes the shape, and what the leaves are called.
    pub(super) when: Vec<String>,
    pub(super) names: Vec<&'static str>,
}

/// The rules for arguments of one shape.
#[derive(Clone, Debug)]
pub(super) struct OfShape {
    pub(super) shape: u64,
    pub(super) outer: Vec<Rule>,
    /// Of the lists that have any.
    pub(super) elements: Vec<OfElements>,
    /// Those lists, each with all shapes of its elements among the above.
    pub(super) lists: Vec<usize>,
    pub(super) when: Vec<String>,
    pub(super) names: Names,
}

impl OfShape {
    /// How much of such arguments as these counts.
    pub(super) fn reach(&self, leaves: &Leaves) -> Reach {
        let rules = self.outer.iter().chain(self.elements.iter().flat_map(|of| &of.rules));
        let mut reach = Reach::default();
        for column in rules.flat_map(Rule::columns) {
            if column < INDEX {
                reach.inner = reach.inner.max(usize::from(column) + 1);
            } else if (OUTER..TIME).contains(&column) {
                reach.until = reach.until.max(leaves.seen_with(usize::from(column - OUTER)));
            }
        }
        let lists = self.lists.iter().map(|&list| leaves.lists[list].seen);
        reach.until = lists.chain([leaves.shaped]).fold(reach.until, u32::max);
        reach
    }

    /// Declares the footprint that follows from the arguments. Tells whether one does; if not, part of it may be
    /// declared.
    pub(super) fn declare(&self, at: &At<'_>, f: &mut Footprint<'_>, bytes: &mut Vec<u8>) -> bool {
        if !self.outer.iter().all(|rule| rule.declare(at, f, bytes)) {
            return false;
        }
        let mut at = *at;
        for &list in &self.lists {
            if at.leaves.lists.get(list).is_none_or(|list| list.is_cut) {
                return false;
            }
            for (index, element) in (0u32..).zip(at.leaves.list(list)) {
                let known = |of: &&OfElements| of.list == list && of.shape == element.shape;
                let Some(of) = self.elements.iter().find(known) else { return false };
                at.element = Some((at.leaves.inner(element), index));
                if !of.rules.iter().all(|rule| rule.declare(&at, f, bytes)) {
                    return false;
                }
            }
        }
        true
    }
}

/// See the module's documentation.
#[derive(Clone, Debug, Default)]
pub(crate) struct Rules {
    pub(super) shapes: Vec<OfShape>,
    /// How much of the arguments counts.
    pub(super) reach: Reach,
}

impl Rules {
    /// How much of the arguments counts.
    pub(crate) const fn reach(&self) -> Reach {
        self.reach
    }

    /// Declares the footprint of a transaction whose arguments were taken apart. Tells whether it could be told; if not,
    /// part of it may be declared.
    pub(crate) fn declare(&self, leaves: &Leaves, f: &mut Footprint<'_>, bytes: &mut Vec<u8>) -> bool {
        let Some(of) = self.shapes.iter().find(|of| of.shape == leaves.shape) else { return false };
        let (position, time_us) = (f.position(), f.time_us());
        of.declare(&At { leaves, position, time_us, element: None }, f, bytes)
    }
}
