//! What stands in a log: for people, and for programs that look before they open it.

use mixlog_log::{Entry, Position, SharedLog};
use serde_json::{Value, json};

use crate::checkpoint::{self, Shelf};
use crate::clients::{ANSWERS, Forget};
use crate::entry::{self, Call, Catalog};
use crate::error::OpenError;
use crate::interactive::Intention;
use crate::procedure::{Procedure, Procedures};

/// The procedures, name and version, that the first entry of a log names, or, if that was trimmed, the newest checkpoint
/// beside it that can be read; `None` for an empty log. Enough to know which program wrote it. Entries that are nobody's
/// transactions do not count: junk, and what replicas append to a log before any engine does, padding and votes. Nor do
/// engines in which nothing was registered: what all engines have of their own tells of no program.
///
/// # Errors
/// [`OpenError::Entry`] when the log was not begun by an engine, [`OpenError::Read`] when it cannot be read, and those of
/// opening a log that was trimmed.
pub fn procedures_in(log: &dyn SharedLog) -> Result<Option<Vec<(String, u32)>>, OpenError> {
    let shelf = checkpoint::Config::default().shelf(log);
    checkpoint::start(shelf.as_ref(), || first_procedures(log, shelf.as_ref()))
}

fn first_procedures(
    log: &dyn SharedLog,
    shelf: Option<&Shelf>,
) -> Result<Option<Vec<(String, u32)>>, OpenError> {
    let mut position = log.tail()?.head;
    let mut is_begun = false;
    if position > Position::ZERO {
        let catalog = checkpoint::catalog_of(log, shelf)?;
        if is_of_a_program(&catalog) {
            return Ok(Some(catalog.procedures));
        }
        is_begun = true;
    }
    loop {
        let Some(block) = log.read(position)? else { return Ok(None) };
        for (at, entry) in block.iter().filter(|(at, _)| *at >= position) {
            // A writer that died before it wrote leaves junk, on a cluster also at the start.
            let Entry::Data(bytes) = entry else { continue };
            let bad = |detail: String| Err(OpenError::Entry { position: at, detail });
            match entry::decode(bytes) {
                Ok(entry::Content::Catalog(catalog)) if is_of_a_program(&catalog) => {
                    return Ok(Some(catalog.procedures));
                }
                Ok(entry::Content::Catalog(_)) => is_begun = true,
                Ok(entry::Content::Padding | entry::Content::Vote(_)) => {}
                Ok(entry::Content::Call(_)) if is_begun => {}
                Ok(entry::Content::Call(_)) => {
                    return bad("it is no catalog, where one was expected".to_owned());
                }
                Err(detail) => return bad(detail),
            }
        }
        position = block.end();
    }
}

/// Whether it names anything but what all engines have.
fn is_of_a_program(catalog: &Catalog) -> bool {
    let own = [Intention::NAME, Forget::NAME];
    catalog.procedures.iter().any(|(name, _)| !own.contains(&name.as_str()))
        || catalog.tables.iter().any(|name| name != ANSWERS.name())
}

pub(super) fn describe(procedures: &Procedures, position: Position, entry: Entry<'_>) -> Value {
    let position = position.0;
    let Entry::Data(bytes) = entry else { return json!({"position": position, "kind": "junk"}) };
    match entry::decode(bytes) {
        Ok(entry::Content::Catalog(catalog)) => {
            json!({"position": position, "kind": "catalog", "catalog": catalog})
        }
        Ok(entry::Content::Vote(vote)) => json!({
            "position": position,
            "kind": "vote",
            "member": vote.member,
            "on": vote.position,
            "digest": vote.digest().to_string(),
        }),
        Ok(entry::Content::Padding) => json!({"position": position, "kind": "padding"}),
        Ok(entry::Content::Call(Call { procedure, origin, time_us, client, arguments })) => {
            let mut line = json!({
                "position": position,
                "kind": "call",
                "origin": format!("{:016x}", origin.engine),
                "sequence": origin.sequence,
                "time_us": time_us,
            });
            if let Some((client, number)) = client {
                line["client"] = json!(client);
                line["client_sequence"] = json!(number);
            }
            match procedures.index_of(procedure).map(|index| procedures.get(index)) {
                Some(registered) => {
                    line["procedure"] = json!(registered.name);
                    line["version"] = json!(registered.version);
                    match (registered.to_json)(arguments) {
                        Ok(arguments) => line["arguments"] = arguments,
                        Err(error) => line["error"] = json!(error.to_string()),
                    }
                }
                None => line["error"] = json!(format!("unknown procedure id {:08x}", procedure.0)),
            }
            line
        }
        Err(error) => json!({"position": position, "kind": "unknown", "error": error, "bytes": bytes.len()}),
    }
}
