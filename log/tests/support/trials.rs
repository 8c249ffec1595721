//! Tests that need what not every machine has: named as ignored where it is missing, and failed on CI.

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};

/// Trials of these functions, under their names.
#[allow(unused_macros, reason = "not all who run trials have functions without arguments")]
macro_rules! trials {
    ($($test:ident)*) => {
        vec![$(libtest_mimic::Trial::test(stringify!($test), || { $test(); Ok(()) })),*]
    };
}
#[allow(unused_imports, reason = "as above")]
pub(crate) use trials;

/// Runs the trials, unless something is `missing`.
pub(crate) fn run(mut trials: Vec<Trial>, missing: Option<&str>) -> ExitCode {
    if let Some(missing) = missing {
        if std::env::var_os("CI").is_some() {
            eprintln!("{missing}");
            return ExitCode::FAILURE;
        }
        trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    }
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}
