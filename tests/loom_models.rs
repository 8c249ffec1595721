//! Runs the loom models of the hand-synchronized parts. They need the crates compiled with `--cfg loom`, which a
//! plain `cargo test` does not do, so this test starts another cargo with a target directory of its own.
//!
//! The models stand beside the code they check: `log/src/commit_queue`, and in `engine/src` the tickets, the
//! hand-over, the release of transactions and the latch of a row.

use std::process::Command;

fn models(package: &str, at_least: usize) {
    let root = env!("CARGO_MANIFEST_DIR");
    let output = Command::new(env!("CARGO"))
        .args(["test", "--release", "--package", package, "--lib", "loom_"])
        .current_dir(root)
        .env("RUSTFLAGS", "--cfg loom")
        .env("CARGO_TARGET_DIR", format!("{root}/target/loom"))
        // The models want optimized code, not a minute of link-time optimization.
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_DEBUG", "false")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .output()
        .expect("cargo starts");
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "models of {package} failed:\n{out}\n{err}");
    // An empty run would pass, too: a renamed module or a forgotten cfg must not go unnoticed.
    let passed = out.lines().filter(|line| line.starts_with("test ") && line.ends_with(" ... ok")).count();
    assert!(passed >= at_least, "{passed} models of {package} ran, {at_least} were expected:\n{out}");
}

#[test]
fn loom_models_of_the_log_pass() {
    models("mixlog-log", 4);
}

#[test]
fn loom_models_of_the_engine_pass() {
    models("mixlog-engine", 7);
}
