//! The search for rules: from what transactions were seen to touch.
//!
//! For each table and each shape of arguments: if all transactions touch so many rows of it, the first of each belong
//! together, the second, and so on. If they touch as many as a list has elements, or elements of certain shapes, the
//! rows belong to these in their order. From rows that belong together the parts of the keys are told, each as a text of
//! the arguments or as a sum of their numbers. Where that fails, the granules that the rows lie in may follow from the
//! arguments all the same.
//!
//! None of this has to be understood to be trusted: whatever came out is compared with all that was seen, and counts
//! only if it covers everything and declares little in vain.

use mixlog_mixer::Mode;

use super::Example;
use super::affine::{Examples, Sum};
use super::leaves::{Element, Kind, Leaf, MOST_INNER, MOST_OUTER};
use super::rules::{At, INDEX, OUTER, OfElements, OfShape, POSITION, Rule, Source, TIME, Target};
use crate::footprint::{Access, Declarations, Footprint};
use crate::store::Store;

/// From how many transactions of a shape its rules are told.
const FEWEST: usize = 12;
/// How many rows of a table a transaction touches at most besides those of lists.
const MOST_ROWS: usize = 16;
/// How many shapes elements of a list have at most.
const MOST_SHAPES: usize = 6;

/// What a row that was touched is known by.
#[derive(Clone, Debug)]
pub(super) struct Touch {
    pub(super) table: u16,
    pub(super) mode: Mode,
    /// The parts of its key, and its texts; none if the key cannot be taken apart.
    pub(super) key: Vec<Leaf>,
    pub(super) texts: Vec<Vec<u8>>,
    pub(super) key_hash: u64,
    /// The number of its granule, if it is a unit of conflict or can be read as one.
    pub(super) granule: Option<u64>,
}

/// A row, and what it may follow from.
type Sample<'a> = (At<'a>, &'a Touch);

/// The rules for a shape of which these are the examples.
pub(super) fn search(store: &Store, examples: &[&Example]) -> Option<OfShape> {
    let committed: Vec<_> = examples.iter().copied().filter(|example| example.committed).collect();
    let first = *committed.first().filter(|_| committed.len() >= FEWEST)?;
    let lists = first.leaves.lists.len();
    let mut tables: Vec<u16> = Vec::new();
    for touch in committed.iter().flat_map(|example| &example.touched) {
        if !tables.contains(&touch.table) {
            tables.push(touch.table);
        }
    }
    // All shapes that elements have been seen with, so that those that touch nothing are known, too.
    let mut elements: Vec<OfElements> = Vec::new();
    for list in 0..lists {
        let mut shapes: Vec<(u64, &Example, u32, &Element)> = Vec::new();
        for example in examples {
            let numbered = (example.leaves.start_of(list)..).zip(example.leaves.list(list));
            shapes.extend(numbered.map(|(number, element)| (element.shape, *example, number, element)));
        }
        shapes.sort_by_key(|(shape, ..)| *shape);
        shapes.dedup_by_key(|(shape, ..)| *shape);
        elements.extend(shapes.into_iter().map(|(shape, example, number, element)| {
            let names = &example.leaves.names;
            let (when, names) = (names.shape(Some(number)), names.inner(element).to_vec());
            OfElements { list, shape, rules: Vec::new(), when, names }
        }));
    }
    // In an order that does not depend on which driver saw what first.
    elements.sort_by(|a, b| (a.list, &a.when).cmp(&(b.list, &b.when)));
    let (shape, names) = (first.leaves.shape, first.leaves.names.clone());
    let when = names.shape(None);
    let mut of = OfShape { shape, outer: Vec::new(), elements, lists: Vec::new(), when, names };
    for table in tables {
        let is_grouped = store.any(table).domain().is_some();
        let by_granule = || by_granule(&committed, table, is_grouped);
        match by_rank(&committed, table) {
            // A number that is the same in all that was seen may yet change: the granule knows it already.
            Some(rules) if is_grouped && rules.iter().any(Rule::has_constant) => {
                of.outer.extend(by_granule().unwrap_or(rules));
            }
            Some(rules) => of.outer.extend(rules),
            None if by_element(&committed, table, &mut of.elements) => {}
            None => of.outer.extend(by_granule().unwrap_or_default()),
        }
    }
    of.lists = (0..lists)
        .filter(|&list| of.elements.iter().any(|of| of.list == list && !of.rules.is_empty()))
        .collect();
    of.elements.retain(|elements| of.lists.contains(&elements.list));
    // In the order in which they are used: whoever compares an access with them looks at the next one first.
    let order = |rule: &Rule| {
        let is_it = |touch: &Touch| touch.table == rule.table;
        committed.iter().filter_map(|example| example.touched.iter().position(is_it)).min()
    };
    of.outer.sort_by_key(order);
    of.elements.iter_mut().for_each(|of| of.rules.sort_by_key(order));
    if !covers(store, &of, examples) {
        return None;
    }
    // Tables that share granules need not declare them again.
    for number in (0..of.outer.len()).rev() {
        if matches!(of.outer[number].target, Target::Granule(_)) {
            let rule = of.outer.remove(number);
            if !covers(store, &of, examples) {
                of.outer.insert(number, rule);
            }
        }
    }
    Some(of)
}

/// A transaction without its list elements.
const fn at(example: &Example) -> At<'_> {
    let Example { leaves, position, time_us, .. } = example;
    At { leaves, position: *position, time_us: *time_us, element: None }
}

fn rows_of(example: &Example, table: u16) -> impl Iterator<Item = &Touch> {
    example.touched.iter().filter(move |touch| touch.table == table)
}

/// The rules for a table of which every transaction touches the same number of rows, or none.
fn by_rank(examples: &[&Example], table: u16) -> Option<Vec<Rule>> {
    let rows: Vec<Vec<&Touch>> = examples.iter().map(|example| rows_of(example, table).collect()).collect();
    let most = rows.iter().map(Vec::len).max().filter(|&most| most <= MOST_ROWS)?;
    let full = || rows.iter().zip(examples).filter(|(rows, _)| rows.len() == most);
    // A transaction that meets the same row twice touches one less, now and then.
    let fewer = rows.iter().filter(|rows| !rows.is_empty() && rows.len() < most).count();
    if most > 1 && fewer > full().count() / 2 {
        return None;
    }
    let rule = |rank: usize| {
        let samples: Vec<Sample<'_>> = full().map(|(rows, example)| (at(example), rows[rank])).collect();
        rule(table, &samples)
    };
    (0..most).map(rule).collect()
}

/// The rules for a table whose rows belong to the elements of a list, or to those of some shapes.
fn by_element(examples: &[&Example], table: u16, elements: &mut [OfElements]) -> bool {
    let lists = elements.iter().map(|of| of.list + 1).max().unwrap_or(0);
    for list in 0..lists {
        let shapes: Vec<u64> = elements.iter().filter(|of| of.list == list).map(|of| of.shape).collect();
        if shapes.len() > MOST_SHAPES {
            continue;
        }
        // All of them first, then any.
        for mask in (1..1u32 << shapes.len()).rev() {
            let chosen = |element: &Element| {
                (0..).zip(&shapes).any(|(bit, &shape)| mask >> bit & 1 == 1 && shape == element.shape)
            };
            let chosen_of =
                |example: &'_ Example| example.leaves.list(list).iter().filter(|e| chosen(e)).count();
            let matching = |example: &&&Example| rows_of(example, table).count() == chosen_of(example);
            let matches: Vec<&Example> = examples.iter().filter(matching).copied().collect();
            if matches.len() < FEWEST || matches.len() * 4 < examples.len() * 3 {
                continue;
            }
            let samples_of = |shape: u64| {
                let mut samples: Vec<Sample<'_>> = Vec::new();
                for example in &matches {
                    let of_list = (0u32..).zip(example.leaves.list(list)).filter(|(_, e)| chosen(e));
                    for ((index, element), touch) in of_list.zip(rows_of(example, table)) {
                        if element.shape == shape {
                            samples.push((
                                At { element: Some((example.leaves.inner(element), index)), ..at(example) },
                                touch,
                            ));
                        }
                    }
                }
                samples
            };
            let rules: Option<Vec<_>> = (0..)
                .zip(&shapes)
                .filter(|(bit, _)| mask >> bit & 1 == 1)
                .map(|(_, &shape)| rule(table, &samples_of(shape)).map(|rule| (shape, rule)))
                .collect();
            if let Some(rules) = rules {
                for (shape, rule) in rules {
                    let of = elements.iter_mut().find(|of| of.list == list && of.shape == shape);
                    of.expect("its shape is known").rules.push(rule);
                }
                return true;
            }
        }
    }
    false
}

/// The rules for a table in which the granules follow from the arguments, whatever the rows. `grouped`: if not, granules
/// can be read only.
fn by_granule(examples: &[&Example], table: u16, grouped: bool) -> Option<Vec<Rule>> {
    let mut of_each: Vec<(At<'_>, Vec<u64>)> = Vec::new();
    let mut mode = None;
    for example in examples {
        let mut granules: Vec<u64> = Vec::new();
        for touch in rows_of(example, table) {
            let granule = touch.granule?;
            if !granules.contains(&granule) {
                granules.push(granule);
            }
            mode = Some(joined(mode, if touch.mode == Mode::Read { Mode::Read } else { Mode::Write }));
        }
        if !grouped && mode == Some(Mode::Write) {
            return None;
        }
        of_each.push((at(example), granules));
    }
    let most = of_each.iter().map(|(_, granules)| granules.len()).max().filter(|&most| most <= MOST_ROWS)?;
    of_each.retain(|(_, granules)| granules.len() == most);
    let rule = |rank: usize| {
        let numbers: Vec<_> = of_each.iter().map(|(at, granules)| (*at, granules[rank])).collect();
        Some(Rule { table, mode: mode?, target: Target::Granule(sum(&numbers, false)?) })
    };
    (0..most).map(rule).collect()
}

/// What allows both.
fn joined(one: Option<Mode>, other: Mode) -> Mode {
    match one {
        None => other,
        Some(one) if one == other => one,
        Some(_) => Mode::Write,
    }
}

/// The rule by which these rows follow from what they belong to.
fn rule(table: u16, samples: &[Sample<'_>]) -> Option<Rule> {
    let (_, first) = samples.first()?;
    let alike = |(_, touch): &Sample<'_>| {
        touch.key.len() == first.key.len() && touch.key.iter().zip(&first.key).all(|(a, b)| a.kind == b.kind)
    };
    if first.key.is_empty() || !samples.iter().all(alike) {
        return None;
    }
    let mut text = 0;
    let parts: Option<Vec<(Kind, Source)>> = (0..)
        .zip(&first.key)
        .map(|(part, leaf)| {
            let source = match leaf.kind {
                Kind::Other => None,
                Kind::Text => {
                    text += 1;
                    text_source(samples, text - 1)
                }
                kind => {
                    let numbers: Vec<_> =
                        samples.iter().map(|(at, touch)| (*at, touch.key[part].number)).collect();
                    sum(&numbers, kind == Kind::Signed).map(Source::Number)
                }
            };
            Some((leaf.kind, source?))
        })
        .collect();
    let mode = samples.iter().fold(None, |mode, (_, touch)| Some(joined(mode, touch.mode)));
    Some(Rule { table, mode: mode?, target: Target::Row(parts?) })
}

/// The column that holds the text with this number of all keys.
fn text_source(samples: &[Sample<'_>], number: usize) -> Option<Source> {
    let (_, first) = samples.first()?;
    let holds = |column: u16| {
        samples.iter().all(|(at, touch)| {
            let leaf = at.leaf(column).filter(|leaf| leaf.kind == Kind::Text);
            leaf.is_some_and(|leaf| at.leaves.text(leaf) == touch.texts[number])
        })
    };
    if let Some(column) = (0..TIME).find(|&column| holds(column)) {
        return Some(Source::Text(column));
    }
    let same = samples.iter().all(|(_, touch)| touch.texts[number] == first.texts[number]);
    same.then(|| Source::Constant(first.texts[number].clone()))
}

/// The sum that gives these numbers.
fn sum(samples: &[(At<'_>, u64)], signed: bool) -> Option<Sum> {
    let (first, _) = samples.first()?;
    let is_number = |leaf: Leaf| !matches!(leaf.kind, Kind::Text | Kind::Other);
    let inner = (0..MOST_INNER as u16).filter(|&column| first.leaf(column).is_some_and(is_number));
    let outer =
        (OUTER..OUTER + MOST_OUTER as u16).filter(|&column| first.leaf(column).is_some_and(is_number));
    let index = first.element.map(|_| INDEX);
    let columns: Vec<u16> = inner.chain(index).chain(outer).chain([TIME, POSITION]).collect();
    let is_signed = |&column: &u16| first.leaf(column).is_some_and(|leaf| leaf.kind == Kind::Signed);
    let mut examples = Examples {
        signed: columns.iter().map(is_signed).collect(),
        signed_number: signed,
        ..Examples::default()
    };
    for (at, number) in samples {
        examples.rows.push(columns.iter().map(|&column| at.number(column)).collect());
        examples.numbers.push(*number);
    }
    let mut sum = examples.solve()?;
    sum.terms.iter_mut().for_each(|(column, _)| *column = columns[usize::from(*column)]);
    Some(sum)
}

/// Whether the rules cover all that was touched, and declare little that was not.
fn covers(store: &Store, of: &OfShape, examples: &[&Example]) -> bool {
    let (mut declared, mut touched) = (0, 0);
    let mut bytes = Vec::new();
    let all = examples.iter().all(|example| {
        let mut declarations = Declarations::default();
        let mut footprint = Footprint::new(store, &mut declarations, example.position, example.time_us, None);
        if !of.declare(&at(example), &mut footprint, &mut bytes) {
            return false;
        }
        declared += declarations.accesses.len();
        touched += example.accesses.len();
        let accesses = &declarations.accesses;
        let declares = |key, mode| accesses.iter().any(|own| own.covers(key, mode));
        let is_covered = |access: &Access| {
            declares(access.key, access.mode) || {
                let is_it = |touch: &&Touch| access.is_row() && touch.key_hash == access.key;
                let granule = example.touched.iter().find(is_it).and_then(|touch| touch.granule);
                let hash = |number| store.any(access.table).granule_hash(number);
                access.mode == Mode::Read && granule.is_some_and(|number| declares(hash(number), Mode::Read))
            }
        };
        example.accesses.iter().all(is_covered)
    });
    all && declared <= 2 * touched + examples.len()
}
