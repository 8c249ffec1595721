//! Every option that a command takes does something, or is refused where it would not: with a clear error, before any work
//! is done.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Stdio};

/// Exit code, stdout, stderr.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_mixlog"));
    let output = command.args(arguments).stdin(Stdio::null()).output().expect("the command starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code().expect("it was not killed"), text(&output.stdout), text(&output.stderr))
}

fn succeeds(arguments: &[&str]) -> (String, String) {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}{stdout}");
    (stdout, stderr)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

const ENGINE: &[&str] = &["--threads", "--window", "--mode", "--paranoid", "--explain"];
const RETAIN: &[&str] = &["--keep-checkpoints", "--keep-log"];
const KEEP: &[&str] =
    &["--checkpoint-bytes", "--checkpoint-seconds", "--segment-bytes", "--max-memory", "--wait-for-space"];
const CLUSTER: &[&str] = &["--patience", "--beside"];
const MEMBER: &[&str] = &["--member", "--members"];
const ROLE: &[&str] = &["--log", "--listen", "--announce"];

/// The options of each command. Whoever adds one says here that it was thought of where it means nothing: it is refused
/// there, and [`VAIN`] shows it.
const OPTIONS: &[(&[&str], &[&[&str]])] = &[
    (
        &["run"],
        &[
            ENGINE,
            RETAIN,
            KEEP,
            CLUSTER,
            MEMBER,
            &["--agree", "--within", "--log", "--durability", "--seconds", "--transactions", "--seed"],
            &["--clients", "--in-flight", "--json", "--progress", "--footprints"],
            &[
                "--warehouses",
                "--small",
                "--records",
                "--value-size",
                "--operations",
                "--theta",
                "--accounts",
            ],
            &[
                "--hot",
                "--hot-accounts",
                "--keys",
                "--max-ops",
                "--max-writes-per-key",
                "--abort",
                "--history",
            ],
        ],
    ),
    (&["apply"], &[ENGINE, RETAIN, KEEP, CLUSTER, MEMBER, &["--agree", "--within", "--log", "--durability"]]),
    (&["dump"], &[ENGINE, CLUSTER, &["--log", "--at"]]),
    (&["digest"], &[ENGINE, CLUSTER, &["--log", "--at"]]),
    (&["replay"], &[ENGINE, CLUSTER, &["--log", "--to", "--from-checkpoint", "--expect"]]),
    (&["checkpoint"], &[ENGINE, RETAIN, CLUSTER, &["--log"]]),
    (&["replica"], &[ENGINE, RETAIN, KEEP, CLUSTER, MEMBER, &["--log", "--replicas", "--once", "--within"]]),
    (&["backup"], &[]),
    (&["log", "dump"], &[CLUSTER, &["--from", "--to"]]),
    (&["log", "verify"], &[]),
    (&["unit"], &[ROLE, &["--number", "--dir", "--durability", "--quota"]]),
    (&["sequencer"], &[ROLE, &["--number"]]),
    (&["projections"], &[&["--dir", "--listen"]]),
    (
        &["cluster", "up"],
        &[&["--units", "--replicas", "--spares", "--dir", "--durability", "--listen", "--etcd"]],
    ),
    (&["cluster", "found"], &[&["--log", "--chain", "--sequencer"]]),
    (&["cluster", "status"], &[&["--log"]]),
    (&["cluster", "add"], &[&["--log", "--unit", "--beside", "--chain"]]),
    (&["cluster", "remove"], &[&["--log", "--unit", "--replacement"]]),
    (&["cluster", "trim"], &[&["--log", "--before"]]),
    (&["cluster", "monitor"], &[&["--log", "--replicas"]]),
];

/// The names behind two dashes at the start of a line of help.
fn options_of(command: &[&str]) -> Vec<String> {
    let (help, _) = succeeds(&[command, &["--help"]].concat());
    let names = help.lines().map(str::trim_start).filter_map(|line| {
        let line = line.strip_prefix("-h, ").or_else(|| line.strip_prefix("-V, ")).unwrap_or(line);
        let is_part = |c: char| c == '-' || c.is_ascii_alphanumeric();
        let name: String = line.chars().take_while(|c| is_part(*c)).collect();
        (name.starts_with("--") && name.len() > 2).then_some(name)
    });
    let mut names: Vec<_> = names.filter(|name| name != "--help" && name != "--version").collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// The subcommands in a command's help.
fn commands_of(command: &[&str]) -> Vec<String> {
    let (help, _) = succeeds(&[command, &["--help"]].concat());
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let names = lines.take_while(|line| !line.is_empty()).filter_map(|line| line.split_whitespace().next());
    names.filter(|name| *name != "help").map(str::to_owned).collect()
}

#[test]
fn options_of_all_commands_are_in_the_table() {
    let mut known = BTreeMap::<String, Vec<String>>::new();
    for (command, options) in OPTIONS {
        let mut options: Vec<_> = options.concat().into_iter().map(str::to_owned).collect();
        options.sort_unstable();
        known.insert(command.join(" "), options);
    }
    let mut found = BTreeMap::new();
    for name in commands_of(&[]) {
        let below = commands_of(&[&name]);
        if below.is_empty() {
            found.insert(name.clone(), options_of(&[&name]));
        }
        for sub in below {
            found.insert(format!("{name} {sub}"), options_of(&[&name, &sub]));
        }
    }
    assert_eq!(found, known);
}

/// Where nobody listens: what is refused there was refused before anybody was asked.
const NOWHERE: &str = "corfu://127.0.0.1:1";

/// Options where they mean nothing, and what is said then. `DIR` stands for a log in a directory, `NEW` for one that is not
/// there.
const VAIN: &[(&str, &str)] = &[
    // Checkpoints on clusters need a place.
    ("run transfer --log CLUSTER --checkpoint-bytes 1000", "--checkpoint-bytes needs --beside DIR"),
    ("run transfer --log CLUSTER --checkpoint-seconds 1", "--checkpoint-seconds needs --beside DIR"),
    ("run transfer --log CLUSTER --keep-checkpoints 3", "--keep-checkpoints needs --beside DIR"),
    ("run transfer --log CLUSTER --keep-log", "--keep-log needs --beside DIR"),
    ("apply --log CLUSTER --checkpoint-bytes 1000", "--checkpoint-bytes needs --beside DIR"),
    ("apply --log CLUSTER --checkpoint-seconds 1", "--checkpoint-seconds needs --beside DIR"),
    ("apply --log CLUSTER --keep-checkpoints 3", "--keep-checkpoints needs --beside DIR"),
    ("apply --log CLUSTER --keep-log", "--keep-log needs --beside DIR"),
    ("replica --log CLUSTER --keep-log", "--keep-log needs --beside DIR"),
    ("replica --log CLUSTER --checkpoint-bytes 1000", "--checkpoint-bytes needs --beside DIR"),
    ("checkpoint --log CLUSTER", "--beside"),
    ("replay --log CLUSTER --from-checkpoint", "--from-checkpoint needs --beside DIR"),
    // Files of a cluster are its units'.
    (
        "run transfer --log CLUSTER --segment-bytes 100000",
        "--segment-bytes does not go with a log on a cluster",
    ),
    ("apply --log CLUSTER --segment-bytes 100000", "--segment-bytes does not go with a log on a cluster"),
    ("replica --log CLUSTER --segment-bytes 100000", "--segment-bytes does not go with a log on a cluster"),
    (
        "replica --log CLUSTER --member a --members a,b --segment-bytes 100000",
        "--segment-bytes does not go with a log on a cluster",
    ),
    // Memory has neither.
    (
        "run transfer --log memory --checkpoint-bytes 1000",
        "--checkpoint-bytes does not go with a log in memory",
    ),
    ("run transfer --log memory --checkpoint-seconds 1", "--checkpoint-seconds does not go with"),
    ("run transfer --log memory --keep-checkpoints 3", "--keep-checkpoints does not go with a log in memory"),
    ("run transfer --durability memory --keep-log", "--keep-log does not go with a log in memory"),
    ("run transfer --log memory --segment-bytes 100000", "--segment-bytes does not go with a log in memory"),
    ("apply --log memory --keep-log", "--keep-log does not go with a log in memory"),
    ("apply --log memory --segment-bytes 100000", "--segment-bytes does not go with a log in memory"),
    // Nobody is asked over a network for what is here.
    ("run transfer --patience 5", "--patience is for logs on clusters"),
    ("run transfer --log memory --patience 5", "--patience is for logs on clusters"),
    ("apply --log NEW --patience 5", "--patience is for logs on clusters"),
    ("dump --log DIR --patience 5", "--patience is for logs on clusters"),
    ("digest --log DIR --patience 5", "--patience is for logs on clusters"),
    ("replay --log DIR --patience 5", "--patience is for logs on clusters"),
    ("checkpoint --log DIR --patience 5", "--patience is for logs on clusters"),
    ("replica --log DIR --patience 5", "--patience is for logs on clusters"),
    ("log dump DIR --patience 5", "--patience is for logs on clusters"),
    ("run transfer --beside NEW", "--beside is for logs on clusters"),
    ("apply --log NEW --beside NEW", "--beside is for logs on clusters"),
    ("dump --log DIR --beside NEW", "--beside is for logs on clusters"),
    ("digest --log DIR --beside NEW", "--beside is for logs on clusters"),
    ("replay --log DIR --beside NEW", "--beside is for logs on clusters"),
    ("checkpoint --log DIR --beside NEW", "--beside is for logs on clusters"),
    ("replica --log DIR --beside NEW", "--beside is for logs on clusters"),
    ("log dump DIR --beside NEW", "--beside is for logs on clusters"),
    // One checkpoint is taken now.
    ("checkpoint --log DIR --checkpoint-bytes 1000", "--checkpoint-bytes"),
    ("checkpoint --log DIR --checkpoint-seconds 1", "--checkpoint-seconds"),
    ("checkpoint --log DIR --segment-bytes 100000", "--segment-bytes"),
    ("checkpoint --log DIR --max-memory 1000000000", "--max-memory"),
    ("checkpoint --log DIR --wait-for-space 1", "--wait-for-space"),
    ("run transfer --log memory --wait-for-space 1", "--wait-for-space is for logs in files"),
    ("apply --log corfu://127.0.0.1:1 --wait-for-space 1", "--wait-for-space is for logs in files"),
    ("run transfer --checkpoint-bytes 0 --keep-checkpoints 3", "--keep-checkpoints does not go with"),
    // Replicas take no transactions, and some of them no checkpoints.
    ("replica --log DIR --max-memory 1000000000", "--max-memory does not go with replicas"),
    ("replica --log DIR --wait-for-space 1", "--wait-for-space does not go with replicas"),
    (
        "replica --log DIR --member a --members a,b --max-memory 1000000000",
        "--max-memory does not go with replicas",
    ),
    (
        "replica --log DIR --member a --members a,b --checkpoint-bytes 1",
        "--checkpoint-bytes does not go with --member",
    ),
    ("replica --log DIR --member a --members a,b --keep-log", "--keep-log does not go with --member"),
    ("replica --log DIR --member a --members a,b --explain", "--explain goes with --member if --once does"),
    ("replica --log DIR --member a --members a,b --replicas 3", "cannot be used with"),
    ("replica --log DIR --once", "--member"),
    ("replica --log DIR --member a --members a,b --within 5", "--once"),
    (
        "replica --log DIR --member a --members a,b --once",
        "--once does not go with a log in a directory: no other member can vote",
    ),
    // Nobody else is there.
    ("run transfer --log memory --member a --members a,b", "--member does not go with a log in memory"),
    ("apply --log memory --member a --members a,b", "--member does not go with a log in memory"),
    ("run transfer --member a --members a,b --agree 2", "--agree 2 does not go with a log in a directory"),
    ("apply --log NEW --member a --members a,b --agree 2", "--agree 2 does not go with a log in a directory"),
    ("apply --log NEW --agree 1", "--member"),
    ("apply --log NEW --member a --members a,b --within 1", "--agree"),
    ("apply --log NEW --members a,b", "--member"),
    ("run transfer --log CLUSTER --member a", "--members"),
    // What belongs to roles.
    ("unit --number 1 --durability flushed", "without --dir"),
    ("unit --number 1 --dir NEW --durability memory", "buffered or flushed"),
    ("cluster add --log CLUSTER --chain 1,2 --beside 3", "cannot be used with"),
    ("cluster add --log CLUSTER --beside 3", "--unit"),
];

#[test]
fn options_that_would_be_ignored_are_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, new) = (directory.path().join("log"), directory.path().join("new"));
    let few = ["--accounts", "10", "--transactions", "100", "--durability", "buffered"];
    succeeds(&[&["run", "transfer", "--log", path(&log)], &few[..]].concat());
    for (command, says) in VAIN {
        let word = |word| match word {
            "DIR" => path(&log),
            "NEW" => path(&new),
            "CLUSTER" => NOWHERE,
            word => word,
        };
        let arguments: Vec<_> = command.split(' ').map(word).collect();
        let (code, stdout, stderr) = run(&arguments);
        assert_eq!(code, 2, "{command}: {stderr}{stdout}");
        assert!(stderr.contains(says), "{command} says {stderr:?}, and not {says:?}");
        assert!(!new.exists(), "{command}: nothing was done");
    }
}

#[test]
fn explain_is_heeded_by_every_command_that_takes_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    // The statistics of windows stand there whatever was executed.
    let explains = |text: &str| text.contains(" windows, ") && text.contains(" mixed, ");
    let apply = ["apply", "--log", path(&log), "--durability", "buffered"];
    let (stdout, stderr) = succeeds(&[&apply[..], &["--explain"]].concat());
    assert!(explains(&stderr) && stdout.is_empty(), "{stderr}{stdout}");
    let mut child = Command::new(env!("CARGO_BIN_EXE_mixlog"))
        .args(apply)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the command starts");
    let transactions = "{\"ops\": [[\"add\", \"t\", \"k\", 1]]}\n".repeat(100);
    let mut stdin = child.stdin.take().expect("it is piped");
    std::io::Write::write_all(&mut stdin, transactions.as_bytes()).expect("it reads");
    drop(stdin);
    assert!(child.wait().expect("it is our child").success());
    let log = ["--log", path(&log)];
    let with = |command: &str, options: &[&str]| succeeds(&[&[command], &log[..], options].concat());
    for command in ["digest", "replay", "checkpoint", "replica"] {
        let (plain, _) = with(command, &[]);
        let (stdout, _) = with(command, &["--explain"]);
        assert!(explains(&stdout) && !explains(&plain), "{command}: {stdout}");
    }
    // What programs read stays as it is.
    let (plain, _) = with("dump", &[]);
    let (stdout, stderr) = with("dump", &["--explain"]);
    assert!(explains(&stderr) && stdout == plain && !plain.is_empty(), "{stderr}{stdout}");
    let (stdout, _) =
        succeeds(&["run", "transfer", "--accounts", "10", "--transactions", "100", "--explain"]);
    assert!(explains(&stdout), "{stdout}");
}
