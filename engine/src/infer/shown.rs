//! Rules as people read them.

use mixlog_mixer::Mode;

use super::affine::Sum;
use super::leaves::Names;
use super::rules::{INDEX, OUTER, OfElements, OfShape, POSITION, Rule, Rules, Source, TIME, Target};
use crate::explanation::{Inferred, InferredAccess};
use crate::store::Store;

/// The rules of a procedure, one item for each shape of its arguments.
pub(super) fn shown(procedure: &'static str, rules: &Rules, store: &Store) -> Vec<Inferred> {
    let of_shape = |of: &OfShape| Inferred {
        procedure,
        when: of.when.clone(),
        accesses: of
            .outer
            .iter()
            .map(|rule| access(rule, &of.names, None, store))
            .chain(of.elements.iter().flat_map(|elements| {
                elements.rules.iter().map(move |rule| access(rule, &of.names, Some(elements), store))
            }))
            .collect(),
    };
    rules.shapes.iter().map(of_shape).collect()
}

fn access(rule: &Rule, names: &Names, elements: Option<&OfElements>, store: &Store) -> InferredAccess {
    let column = |column: u16| {
        let named = |name: Option<&&'static str>, number: u16| {
            name.filter(|name| !name.is_empty())
                .map_or_else(|| format!("#{number}"), |name| (*name).to_owned())
        };
        match column {
            INDEX => "index".to_owned(),
            TIME => "time_us".to_owned(),
            POSITION => "position".to_owned(),
            _ if column < INDEX => named(elements.and_then(|of| of.names.get(usize::from(column))), column),
            _ => named(names.outer.get(usize::from(column - OUTER)), column - OUTER),
        }
    };
    let sum = |sum: &Sum| {
        let term = |&(at, factor): &(u16, u64)| match factor {
            1 => column(at),
            _ => format!("{} * {}", factor as i64, column(at)),
        };
        let mut terms: Vec<_> = sum.terms.iter().map(term).collect();
        if sum.constant != 0 || terms.is_empty() {
            terms.push((sum.constant as i64).to_string());
        }
        terms.join(" + ")
    };
    let (key, is_granule) = match &rule.target {
        Target::Granule(number) => (sum(number), true),
        Target::Row(parts) => {
            let part = |source: &Source| match source {
                Source::Number(number) => sum(number),
                Source::Text(at) => column(*at),
                Source::Constant(text) => format!("{:?}", String::from_utf8_lossy(text)),
            };
            (parts.iter().map(|(_, source)| part(source)).collect::<Vec<_>>().join(", "), false)
        }
    };
    let of_list = |of: &OfElements| {
        let name = names.lists.get(of.list).filter(|name| !name.is_empty());
        name.map_or_else(|| format!("list {}", of.list), |name| (*name).to_owned())
    };
    InferredAccess {
        mode: match rule.mode {
            Mode::Read => "read",
            Mode::Merge => "merge",
            Mode::Write => "write",
        },
        table: store.any(rule.table).name(),
        is_granule,
        key,
        each: elements.map(of_list),
        when: elements.map(|of| of.when.clone()).unwrap_or_default(),
    }
}
