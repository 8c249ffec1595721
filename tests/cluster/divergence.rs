//! Replicas in processes of their own, one of which starts from a wrong state: a checkpoint of which every checksum is
//! right. It must be found and named, repaired or stopped, and rebuilt, while the others go on.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use rustix::process::Signal;

use crate::forge;
use crate::processes::{Cluster, PATIENCE};
use crate::replicas::{Follower, Writer, mixlog, says};

/// Key k17 gets this last.
const RIGHT: &str = r#""results":[2717]"#;

const READ: &str = r#"{"ops": [["get", "t", "k17"]]}"#;

/// Writes 300 keys, each ten times; nobody compares yet.
fn fill(cluster: &Cluster) {
    let mut apply = Command::new(env!("CARGO_BIN_EXE_mixlog"))
        .args(["apply", "--log", &cluster.name()])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("the command starts");
    let mut stdin = apply.stdin.take().expect("it is piped");
    for n in 0..3000 {
        writeln!(stdin, r#"{{"ops": [["put", "t", "k{}", {n}]]}}"#, n % 300).expect("it reads");
    }
    drop(stdin);
    assert!(apply.wait().expect("it is our child").success());
}

/// Takes a checkpoint of all that is in the log, below a directory; tells its position.
fn checkpoint(cluster: &Cluster, beside: &Path, arguments: &[&str]) -> u64 {
    let beside = beside.to_str().expect("UTF-8");
    let text = says(mixlog(cluster, &[&["checkpoint", "--beside", beside], arguments].concat()));
    let position = text.lines().find_map(|line| line.strip_prefix("position ")).expect("it prints one");
    position.parse().expect("a number")
}

/// Gives up the log up to a position, that included.
fn trim(cluster: &Cluster, last: u64) {
    says(mixlog(cluster, &["cluster", "trim", "--before", &(last + 1).to_string()]));
}

/// The newest checkpoint below a directory, if there is one.
fn newest(beside: &Path) -> Option<PathBuf> {
    let names = fs::read_dir(beside.join("checkpoints")).ok()?.map(|entry| entry.expect("a name").path());
    let is_one = |path: &PathBuf| path.to_str().is_some_and(|path| path.contains("/checkpoint-"));
    names.filter(is_one).max()
}

/// Puts the newest checkpoint below one directory, and no other, below another one; tells where. Who keeps checkpoints
/// there may replace them meanwhile.
fn copy(from: &Path, to: &Path) -> PathBuf {
    let (to, begun) = (to.join("checkpoints"), Instant::now());
    let _ = fs::remove_dir_all(&to);
    fs::create_dir_all(&to).expect("a directory");
    loop {
        if let Some(path) = newest(from) {
            let copy = to.join(path.file_name().expect("a name"));
            if fs::copy(&path, &copy).is_ok() {
                return copy;
            }
        }
        assert!(begun.elapsed() < PATIENCE, "nobody takes a checkpoint");
    }
}

/// Makes the only checkpoint below a directory one of a wrong state: of the row of key k17.
fn forge(cluster: &Cluster, beside: &Path) {
    forge_row(cluster, beside, &postcard::to_stdvec(&("t", "k17")).expect("a key"));
}

/// The same, of the row with this key.
fn forge_row(cluster: &Cluster, beside: &Path, key: &[u8]) {
    let path = newest(beside).expect("it was taken");
    forge::flip_row(&path, key);
    // The engine knows the digest of what it finds.
    let found = mixlog(cluster, &["digest", "--beside", beside.to_str().expect("UTF-8")]);
    let error = String::from_utf8(found.stderr).expect("UTF-8");
    let digest = error.split_once("its rows have the digest ").and_then(|(_, rest)| rest.split(',').next());
    let digest = digest.and_then(|digest| u128::from_str_radix(digest, 16).ok());
    forge::set_digest(&path, digest.unwrap_or_else(|| panic!("it tells no digest: {error}")));
    // Nothing betrays it but votes.
    let loaded = mixlog(cluster, &["digest", "--beside", beside.to_str().expect("UTF-8")]);
    assert!(loaded.status.success(), "{}", String::from_utf8_lossy(&loaded.stderr));
}

/// The digest at the end of the log, executed from its start or from a checkpoint.
fn digest(cluster: &Cluster, arguments: &[&str]) -> String {
    let text = says(mixlog(cluster, &[&["digest"], arguments].concat()));
    text.lines().find_map(|line| line.strip_prefix("digest ")).expect("it prints one").to_owned()
}

fn assert_says(text: &str, wanted: &[&str]) {
    for wanted in wanted {
        assert!(text.contains(wanted), "{wanted:?} is not in {text:?}");
    }
}

/// Names the member, a position that was voted on, and the table.
fn assert_named(text: &str, member: &str) {
    let named = format!("\"{member}\" diverged at or before position ");
    let position =
        text.split_once(&named).and_then(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    let position: u64 =
        position.and_then(|position| position.parse().ok()).unwrap_or_else(|| panic!("{text}"));
    assert!((position + 1).is_multiple_of(mixlog::WINDOW_GRID), "{text}");
    assert_says(text, &["table \"kv.rows\" differs in buckets ["]);
}

/// All three stand for the next answer, and the replica has the log's digest.
fn assert_whole(cluster: &Cluster, replica: &Follower, arguments: &[&str], beside: &[&str]) {
    let mut writer = Writer::start(cluster, "3", arguments);
    writer.asks(READ);
    assert_says(&writer.answer(), &[RIGHT]);
    let (code, _, said) = writer.ends();
    assert_eq!(code, Some(0), "{said}");
    let digest = digest(cluster, beside);
    replica.prints(&digest, |line| line.ends_with(&digest));
}

fn noticed_nothing(replica: &Follower) {
    let said = replica.said();
    assert!(!said.contains("diverged"), "{said}");
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

pub(crate) fn is_repaired_from_the_log(cluster: &Cluster, directory: &Path) {
    let of_c = directory.join("of-c");
    fill(cluster);
    checkpoint(cluster, &of_c, &["--keep-log"]);
    forge(cluster, &of_c);
    let b = Follower::start(cluster, "b");
    let c = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]);
    let mut a = Writer::start(cluster, "2", &[]);
    a.asks(READ);
    assert_says(&a.answer(), &[RIGHT]);
    // The position, the replica, the table, and the one key.
    let repaired = c.prints("a repair", |line| line.starts_with("repaired: "));
    assert_named(&repaired, "c");
    assert_says(&repaired, &["keys [\"t\",\"k17\"]"]);
    assert!(!repaired.contains(", [\"t\""), "{repaired}");
    let (code, _, said) = a.ends();
    assert_eq!(code, Some(0), "{said}");
    assert_whole(cluster, &c, &[], &[]);
    assert_says(&c.said(), &["on which nobody voted", "it executes the log from its start"]);
    noticed_nothing(&b);
}

pub(crate) fn stops_and_is_rebuilt_from_the_checkpoint_of_another(cluster: &Cluster, directory: &Path) {
    let [of_a, of_b, of_c] = ["of-a", "of-b", "of-c"].map(|name| directory.join(name));
    fill(cluster);
    // The log before it is gone.
    checkpoint(cluster, &of_a, &["--keep-checkpoints", "1"]);
    let first = newest(&of_a);
    copy(&of_a, &of_b);
    copy(&of_a, &of_c);
    forge(cluster, &of_c);
    let mut a = Writer::start(cluster, "2", &["--beside", text(&of_a), "--checkpoint-bytes", "0"]);
    let b = Follower::start_with(cluster, "b", &["--beside", text(&of_b)]);
    let c = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]);
    a.asks(READ);
    assert_says(&a.answer(), &[RIGHT]);
    let (code, said) = c.ends();
    assert_eq!(code, Some(5), "{said}");
    assert_named(&said, "c");
    let why = ["cannot be repaired", "on which nobody voted", "the log starts at position"];
    assert_says(&said, &why);
    assert_says(&said, &["newest checkpoint of one that agrees", "--beside DIR"]);
    // Nothing tells which row it is, but which ones it can be.
    assert_says(&said, &["in which it has no rows but those of [", "[\"t\",\"k17\"]"]);
    // The others go on.
    a.asks(READ);
    assert_says(&a.answer(), &[RIGHT]);
    // Nothing is better when it is only started again: the votes are there.
    let again = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]);
    let (code, said) = again.ends();
    assert_eq!(code, Some(5), "{said}");
    let (code, _, said) = a.ends();
    assert_eq!(code, Some(0), "{said}");
    // Checkpoints of what was agreed, as often as can be.
    let keeps = ["--beside", text(&of_a), "--checkpoint-bytes", "1"];
    let mut a = Writer::start(cluster, "2", &keeps);
    a.asks(READ);
    assert_says(&a.answer(), &[RIGHT]);
    let begun = Instant::now();
    while newest(&of_a) <= first {
        assert!(begun.elapsed() < PATIENCE, "a takes no checkpoint of what was agreed");
    }
    let (code, _, said) = a.ends();
    assert_eq!(code, Some(0), "{said}");
    // Now the log goes that follows from the wrong one. Whoever trims it so far waits for no follower, and b is one: it has
    // to read the end of it first, its own vote above all.
    let last = checkpoint(cluster, &of_a, &["--keep-checkpoints", "1", "--keep-log"]);
    b.reaches(last);
    trim(cluster, last);
    let (code, said) = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]).ends();
    assert_eq!(code, Some(2), "{said}");
    assert_says(&said, &["the log was trimmed", "newest checkpoint of one that agrees"]);
    // As it was told.
    copy(&of_a, &of_c);
    let rebuilt = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]);
    // Who takes checkpoints trims the log, and waits for nobody beyond a majority.
    let beside = ["--beside", text(&of_a)];
    assert_whole(cluster, &rebuilt, &[&beside[..], &["--checkpoint-bytes", "0"]].concat(), &beside);
    assert_says(&rebuilt.said(), &["it starts from the checkpoint of position "]);
    noticed_nothing(&b);
}

pub(crate) fn is_refused_by_name_where_it_was_voted_on(cluster: &Cluster, directory: &Path) {
    let [of_a, of_c] = ["of-a", "of-c"].map(|name| directory.join(name));
    fill(cluster);
    let b = Follower::start(cluster, "b");
    let mut a =
        Writer::start(cluster, "2", &["--beside", text(&of_a), "--checkpoint-bytes", "1", "--keep-log"]);
    a.asks(READ);
    assert_says(&a.answer(), &[RIGHT]);
    let copied = copy(&of_a, &of_c);
    forge(cluster, &of_c);
    let c = Follower::start_with(cluster, "c", &["--beside", text(&of_c)]);
    let (code, _, said) = a.ends();
    assert_eq!(code, Some(0), "{said}");
    assert_whole(cluster, &c, &[], &[]);
    let name = copied.file_name().and_then(|name| name.to_str()).expect("a name");
    let refused = format!("{name} cannot be used: its digest is ");
    let why = "and the members agreed on";
    assert_says(&c.said(), &[&refused, why, "it executes the log from its start"]);
    // Nor does anybody else use it, or give it the log.
    let taken = mixlog(cluster, &["checkpoint", "--beside", text(&of_c), "--keep-log"]);
    assert_says(&String::from_utf8_lossy(&taken.stderr), &[&refused, why]);
    assert!(taken.status.success() && newest(&of_c) > Some(copied.clone()));
    assert_eq!(digest(cluster, &["--beside", text(&of_c)]), digest(cluster, &[]));
    noticed_nothing(&b);
}

pub(crate) fn gives_no_answer(cluster: &Cluster, directory: &Path) {
    let of_a = directory.join("of-a");
    fill(cluster);
    checkpoint(cluster, &of_a, &["--keep-log"]);
    forge(cluster, &of_a);
    let [b, c] = ["b", "c"].map(|member| Follower::start(cluster, member));
    let mut a = Writer::start(cluster, "2", &["--beside", text(&of_a), "--checkpoint-bytes", "0"]);
    a.asks(READ);
    let (code, answers, said) = a.ends();
    assert_eq!((code, answers), (Some(5), vec![]), "{said}");
    assert_named(&said, "a");
    assert_says(&said, &["newest checkpoint of one that agrees"]);
    // Without that checkpoint it gives the right one.
    assert_whole(cluster, &c, &[], &[]);
    [b, c].iter().for_each(noticed_nothing);
}

/// Who submits learns only that the engine has stopped.
pub(crate) fn ends_a_run(cluster: &Cluster, directory: &Path) {
    let of_a = directory.join("of-a");
    let run = ["run", "transfer", "--accounts", "500"];
    says(mixlog(cluster, &[&run[..], &["--transactions", "1000"]].concat()));
    checkpoint(cluster, &of_a, &["--keep-log"]);
    forge_row(cluster, &of_a, &17u64.to_le_bytes());
    let followers = ["b", "c"].map(|member| Follower::start(cluster, member));
    let member = ["--member", "a", "--members", "a,b,c", "--beside", text(&of_a), "--checkpoint-bytes", "0"];
    let run = mixlog(cluster, &[&run[..], &["--seconds", "600"], &member].concat());
    let said = String::from_utf8_lossy(&run.stderr);
    assert_eq!(run.status.code(), Some(5), "{said}");
    assert_says(&said, &["\"a\" diverged at or before position ", "newest checkpoint of one that agrees"]);
    followers.iter().for_each(noticed_nothing);
}

/// One that stands still while a checkpoint is taken of more than it has executed, by somebody who compares with nobody,
/// and the log is trimmed before that.
pub(crate) fn ends_and_says_how_to_start_when_the_log_is_trimmed_past_it(
    cluster: &Cluster,
    directory: &Path,
) {
    let [of_a, of_b] = ["of-a", "of-b"].map(|name| directory.join(name));
    fill(cluster);
    let b = Follower::start_with(cluster, "b", &["--beside", text(&of_b)]);
    b.reaches(checkpoint(cluster, &of_a, &["--keep-log"]));
    b.signal(Signal::STOP);
    fill(cluster);
    checkpoint(cluster, &of_a, &["--keep-checkpoints", "1"]);
    b.signal(Signal::CONT);
    let (code, said) = b.ends();
    assert_eq!(code, Some(2), "{said}");
    assert_says(&said, &["trimmed", "newest checkpoint of one that agrees", "--beside DIR"]);
    // As it was told.
    copy(&of_a, &of_b);
    let b = Follower::start_with(cluster, "b", &["--beside", text(&of_b)]);
    let digest = digest(cluster, &["--beside", text(&of_a)]);
    b.prints(&digest, |line| line.ends_with(&digest));
}
