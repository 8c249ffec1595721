//! The generic store as its users meet it, through the command: against an oracle that knows nothing of the engine.

mod answers;
mod command;
mod equivalence;
mod failures;
mod limits;
mod oracle;
mod random;
