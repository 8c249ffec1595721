//! The command as its users meet it: what it prints, its exit codes, and what it says to wrong input.

use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[path = "support/run.rs"]
mod run;

use mixlog::log::{FileLog, file};
use mixlog::{Engine, Position, Replica};
use run::{path, refused, run};

/// A log of transfers, and the digest that the run reported.
fn transfers(log: &Path) -> serde_json::Value {
    let (code, stdout, stderr) = run(&[
        "run",
        "transfer",
        "--accounts",
        "500",
        "--transactions",
        "3000",
        "--hot",
        "0.2",
        "--log",
        path(log),
        "--durability",
        "buffered",
        "--json",
        "-",
    ]);
    assert_eq!(code, 0, "{stderr}");
    serde_json::from_str(&stdout).expect("stdout is one JSON object")
}

#[test]
fn run_with_json_reports_everything_that_programs_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let report = transfers(&directory.path().join("log"));
    for key in [
        "workload",
        "threads",
        "window",
        "mode",
        "durability",
        "footprints",
        "transactions",
        "seconds",
        "throughput_per_second",
        "latency_us",
        "aborts",
        "violations",
        "replays",
        "batches",
        "parallelism",
        "position",
        "digest",
        "checks",
    ] {
        assert!(!report[key].is_null(), "{key} is missing");
    }
    for key in ["p50", "p90", "p99", "p999", "max"] {
        assert!(report["latency_us"][key].as_u64().is_some_and(|us| us > 0), "{key} is missing");
    }
    assert_eq!(report["transactions"], 3000);
    assert!(report["checks"].as_array().expect("a list").iter().all(|check| check["ok"] == true));
}

#[test]
fn every_workload_runs_and_passes_its_checks() {
    for arguments in [
        &["ycsb-a", "--records", "2000", "--value-size", "100"][..],
        &["ycsb-b", "--records", "2000", "--operations", "3"],
        &["ycsb-c", "--records", "500", "--value-size", "250", "--theta", "0"],
        &["ycsb-d", "--records", "1000", "--operations", "2", "--clients", "2"],
        &["ycsb-e", "--records", "1000", "--operations", "2", "--clients", "2", "--value-size", "100"],
        &["ycsb-f", "--records", "2000", "--value-size", "100", "--mode", "parallel", "--threads", "3"],
        &["transfer", "--hot", "1", "--accounts", "10", "--mode", "sequential"],
        &["transfer", "--accounts", "1000", "--paranoid"],
        &["ycsb-f", "--records", "500", "--value-size", "100", "--paranoid", "3", "--mode", "parallel"],
        &["smallbank", "--accounts", "300"],
        &["smallbank", "--accounts", "2000", "--hot", "0.9", "--hot-accounts", "20", "--mode", "parallel"],
        &["ycsb-a", "--records", "2000", "--value-size", "100", "--footprints", "found", "--operations", "3"],
        &["ycsb-e", "--records", "1000", "--value-size", "100", "--footprints", "found", "--clients", "2"],
        &["smallbank", "--accounts", "300", "--footprints", "found", "--mode", "parallel", "--threads", "2"],
        &["list-append", "--keys", "5", "--footprints", "found", "--mode", "parallel", "--threads", "2"],
        &["list-append", "--keys", "3"],
        &["list-append", "--max-ops", "8", "--max-writes-per-key", "9", "--abort", "0.2", "--clients", "3"],
    ] {
        let all = [&["run"], arguments, &["--transactions", "2000", "--log", "memory"]].concat();
        let (code, stdout, stderr) = run(&all);
        assert_eq!(code, 0, "{all:?}: {stderr}{stdout}");
        assert!(stdout.contains("ok ") && !stdout.contains("FAIL"), "{stdout}");
        assert!(stderr.contains("durability memory"), "the durability in force is printed: {stderr}");
    }
}

/// Footprints change speed and no result: the same transactions have the same digest.
#[test]
fn run_with_footprints_found_ends_as_with_declared_ones_and_its_log_needs_no_option() {
    let directory = tempfile::tempdir().expect("a directory");
    let run_with = |footprints| {
        let log = directory.path().join(footprints);
        let (code, stdout, stderr) = run(&[
            &["run", "transfer", "--accounts", "500", "--transactions", "3000", "--log", path(&log)][..],
            &["--durability", "buffered", "--threads", "2", "--mode", "parallel", "--explain", "--json", "-"],
            &["--footprints", footprints],
        ]
        .concat());
        assert_eq!(code, 0, "{stderr}");
        let report: serde_json::Value = serde_json::from_str(&stdout).expect("stdout is one JSON object");
        assert_eq!(report["footprints"], footprints);
        assert_eq!(stderr.contains("transfer, footprints found"), footprints == "found", "{stderr}");
        let transfers = &report["explanation"]["procedures"][0];
        assert_eq!(transfers["transactions"], 3000);
        let of = |what: &str| transfers[what].as_u64().expect("a count");
        (report["digest"].clone(), of("reconnoitred") + of("inferred"), log)
    };
    let (declared, none, _) = run_with("declared");
    let (found, all, log) = run_with("found");
    assert_eq!((none, all), (0, 3000));
    assert_eq!(declared, found);
    let expected = found.as_str().expect("text");
    let (code, _, stderr) = run(&["replay", "--log", path(&log), "--expect", expected]);
    assert_eq!(code, 0, "{stderr}");
    refused(2, &["run", "transfer", "--footprints", "inferred"], "--footprints");
}

#[test]
fn list_append_writes_a_history_that_checkers_can_read() {
    let directory = tempfile::tempdir().expect("a directory");
    let (log, file) = (directory.path().join("log"), directory.path().join("history.jsonl"));
    let all = [
        &["run", "list-append", "--keys", "4", "--clients", "2", "--abort", "0.1", "--threads", "2"][..],
        &["--transactions", "3000", "--in-flight", "100", "--durability", "buffered"],
        &["--log", path(&log), "--history", path(&file)],
    ]
    .concat();
    let (code, stdout, stderr) = run(&all);
    assert_eq!(code, 0, "{stderr}{stdout}");
    for check in ["L1", "L2", "L3", "L4"] {
        assert!(stdout.contains(&format!("ok   {check}")), "{stdout}");
    }
    let text = fs::read_to_string(&file).expect("a history");
    assert_eq!(text.lines().count(), 3000);
    let mut free_at = std::collections::BTreeMap::new();
    for line in text.lines() {
        let one: serde_json::Value = serde_json::from_str(line).expect("each line is JSON");
        let [process, start, end, _] =
            ["p", "t0", "t1", "pos"].map(|field| one[field].as_u64().expect("a number"));
        assert!(free_at.insert(process, end).is_none_or(|free| free <= start), "{process} has two in flight");
        assert!(start < end && (one["st"] == "ok" || one["st"] == "fail"), "{line}");
        for op in one["ops"].as_array().expect("a list") {
            let is_right = match op[0].as_str() {
                Some("a") => op[1].is_u64() && op[2].is_u64(),
                Some("r") => op[1].is_u64() && op[2].is_array() == (one["st"] == "ok"),
                _ => false,
            };
            assert!(is_right, "{line}");
        }
    }
    // A log that lists were written to is executed again as any other, and run on with keys of its own.
    let (code, ..) = run(&["replay", "--log", path(&log), "--mode", "sequential"]);
    assert_eq!(code, 0);
    let (code, stdout, stderr) = run(&all);
    assert_eq!(code, 0, "{stderr}{stdout}");
    refused(4, &["run", "list-append", "--history", "/nonexistent/history"], "cannot write the history");
    refused(2, &["run", "tpcc", "--history", "history"], "is an option of list-append, not of tpcc");
    refused(2, &["run", "list-append", "--keys", "0"], "1 to 1000000 keys");
}

/// What it prints when nothing is wrong. Beside it, it may say how far it is: some machines are slow.
fn prints(arguments: &[&str]) -> String {
    let (code, stdout, stderr) = run(arguments);
    assert_eq!(code, 0, "{arguments:?}: {stderr}");
    stdout
}

#[test]
fn replay_gives_the_digest_of_the_run_in_every_mode_and_at_every_position() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let report = transfers(&log);
    let digest = report["digest"].as_str().expect("text").to_owned();
    let expected = format!("position {}\ndigest {digest}\n", report["position"]);
    for options in
        [&["--threads", "1", "--mode", "sequential"][..], &["--threads", "4", "--window", "7"], &[]]
    {
        let all = [&["replay", "--log", path(&log), "--expect", &digest], options].concat();
        assert_eq!(prints(&all), expected, "{options:?}");
    }
    let at = |mode| run(&["replay", "--log", path(&log), "--to", "1234", "--mode", mode]).1;
    assert!(at("parallel").starts_with("position 1234\n"));
    assert_eq!(at("parallel"), at("sequential"));
    for paranoid in [&["--paranoid"][..], &["--paranoid", "7", "--mode", "parallel", "--threads", "2"]] {
        let all = [&["replay", "--log", path(&log), "--expect", &digest], paranoid].concat();
        assert_eq!(prints(&all), expected, "{paranoid:?}");
    }
    refused(2, &["replay", "--log", path(&log), "--paranoid", "0"], "--paranoid");
    refused(5, &["replay", "--log", path(&log), "--expect", "0-0"], "the digest is");
    refused(2, &["replay", "--log", path(&log), "--to", "1000000"], "ends before position 1000000");
    refused(2, &["replay", "--log", path(&log), "--to", "-1"], "--to");
}

#[test]
fn run_again_on_the_same_log_goes_on_where_it_ended() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let first = transfers(&log);
    let second = transfers(&log);
    let position = |report: &serde_json::Value| report["position"].as_u64().expect("a number");
    assert_eq!(position(&second), position(&first) + 3000, "no second population, no second catalog");
}

#[test]
fn log_dump_prints_one_decoded_entry_a_line() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let report = transfers(&log);
    let (code, stdout, stderr) = run(&["log", "dump", path(&log)]);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("each line is JSON")).collect();
    assert_eq!(lines.len() as u64, report["position"].as_u64().expect("a number") + 1);
    assert!(lines.iter().zip(0..).all(|(line, position)| line["position"] == position));
    assert_eq!(lines[0]["kind"], "catalog");
    let last = lines.last().expect("there are lines");
    assert_eq!(last["procedure"], "transfer");
    assert!(last["arguments"]["amount"].is_number(), "{last}");
    let (_, some, _) = run(&["log", "dump", path(&log), "--from", "10", "--to", "12"]);
    assert_eq!(some.lines().count(), 3);
}

/// Whoever follows a log may be there before any engine begins it.
#[test]
fn a_log_of_nothing_but_padding_is_not_taken_for_an_empty_one() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = FileLog::open(directory.path(), file::Config::default()).expect("it opens");
    let replica = Replica::follow(Engine::builder, Arc::new(log)).expect("it follows");
    assert_eq!(replica.pad().expect("it is padded"), Position(4095));
    replica.close().expect("nothing is wrong with it");
    let (code, stdout, stderr) = run(&["log", "dump", path(directory.path())]);
    assert_eq!((code, stdout.lines().count()), (0, 4096), "{stderr}");
    for command in ["replay", "digest"] {
        let (code, stdout, stderr) = run(&[command, "--log", path(directory.path())]);
        assert_eq!(code, 0, "{stderr}");
        assert!(stdout.contains("4095"), "{command}: {stdout}");
    }
    assert_eq!(prints(&["dump", "--log", path(directory.path())]), "");
    for command in ["checkpoint", "replica"] {
        let (code, stdout, stderr) = run(&[command, "--log", path(directory.path())]);
        assert_eq!(code, 0, "{command}: {stderr}");
        assert!(stdout.starts_with("position "), "{command}: {stdout}");
    }
    // Whoever begins it afterwards is known by what was registered, also when the start is gone.
    let run_on = |arguments: &[&str]| {
        let (code, stdout, stderr) = run(&[arguments, &["--log", path(directory.path())]].concat());
        assert_eq!(code, 0, "{arguments:?}: {stderr}");
        stdout
    };
    run_on(&["checkpoint", "--keep-checkpoints", "1"]);
    run_on(&["run", "transfer", "--accounts", "500", "--transactions", "10"]);
    assert!(run_on(&["replay", "--from-checkpoint"]).starts_with("position "));
    assert!(run_on(&["checkpoint"]).starts_with("position "));
}

#[test]
fn log_verify_names_the_first_bad_entry_of_a_damaged_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    transfers(&log);
    let (code, stdout, _) = run(&["log", "verify", path(&log)]);
    assert_eq!((code, stdout.lines().last()), (0, Some("ok")));
    let segment = fs::read_dir(&log)
        .expect("a directory")
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.is_file())
        .max_by_key(|path| fs::metadata(path).expect("a file").len())
        .expect("a segment");
    let mut bytes = fs::read(&segment).expect("it can be read");
    let middle = 60_000;
    assert_ne!(bytes[middle..middle + 16], [0; 16], "there is something to damage");
    bytes[middle] ^= 0x40;
    fs::write(&segment, &bytes).expect("it can be written");
    refused(3, &["log", "verify", path(&log)], "corrupt at position");
    refused(3, &["replay", "--log", path(&log)], "corrupt at position");
    refused(3, &["run", "transfer", "--accounts", "500", "--log", path(&log)], "corrupt at position");
    assert_eq!(fs::read(&segment).expect("it can be read"), bytes, "evidence is kept");
}

#[test]
fn wrong_usage_gets_one_clear_line_and_exit_code_2() {
    refused(2, &["run", "tpcd"], "tpcc");
    refused(2, &["run", "tpcc", "--threads", "0"], "1 to 1024 threads");
    refused(2, &["run", "tpcc", "--window", "0"], "1 to 4096 entries");
    refused(2, &["run", "tpcc", "--window", "4097"], "1 to 4096 entries");
    refused(2, &["run", "tpcc", "--warehouses", "0"], "at least 1 warehouse");
    refused(2, &["run", "tpcc", "--hot", "1"], "--hot is an option of transfer");
    refused(2, &["run", "ycsb-a", "--theta", "1"], "theta");
    refused(2, &["run", "ycsb-a", "--value-size", "7"], "multiple of 10");
    refused(2, &["run", "transfer", "--accounts", "1"], "two accounts");
    refused(2, &["run", "smallbank", "--accounts", "1"], "two accounts");
    refused(2, &["run", "smallbank", "--hot", "2"], "from 0 to 1");
    refused(2, &["run", "smallbank", "--hot-accounts", "1"], "two accounts are hot");
    refused(2, &["run", "transfer", "--hot-accounts", "2"], "is an option of smallbank, not of transfer");
    refused(2, &["run", "transfer", "--in-flight", "0"], "in flight");
    refused(2, &["run", "transfer", "--seconds", "1", "--transactions", "1"], "cannot be used with");
    refused(2, &["run", "transfer", "--seconds", "-1"], "seconds");
    refused(
        2,
        &["run", "transfer", "--log", "memory", "--durability", "flushed"],
        "neither buffered nor flushed",
    );
    refused(2, &["run", "transfer", "--log", "/tmp/x", "--durability", "memory"], "--log memory");
    refused(2, &["replay", "--log", "/nonexistent/log"], "no log at");
    refused(2, &["log", "verify", "/nonexistent/log"], "no log at");
    refused(2, &[], "Usage");
}

#[test]
fn foreign_directories_and_logs_are_refused_and_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    fs::write(directory.path().join("letter.txt"), "dear reader").expect("a file");
    refused(2, &["run", "transfer", "--log", path(directory.path())], "is not a mixlog log");
    refused(2, &["replay", "--log", path(directory.path())], "is not a mixlog log");
    assert_eq!(fs::read_dir(directory.path()).expect("a directory").count(), 1);

    let log = directory.path().join("log");
    transfers(&log);
    refused(2, &["run", "ycsb-a", "--log", path(&log)], "the log needs procedure \"transfer");
    refused(2, &["run", "transfer", "--accounts", "600", "--log", path(&log)], "does not hold the data");
}

#[test]
fn a_log_in_use_is_refused() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    transfers(&log);
    let held = mixlog::log::FileLog::open(&log, mixlog::log::file::Config::default()).expect("it opens");
    refused(2, &["run", "transfer", "--accounts", "500", "--log", path(&log)], "in use by another process");
    drop(held);
    transfers(&log);
}

#[test]
fn log_is_run_on_again_with_another_seed() {
    let directory = tempfile::tempdir().expect("a directory");
    for workload in [
        &["tpcc", "--small", "--warehouses", "1"][..],
        &["ycsb-d", "--records", "1000"],
        &["ycsb-f", "--records", "1000"],
        &["smallbank", "--accounts", "1000", "--hot-accounts", "100"],
        &["transfer", "--accounts", "1000"],
        &["list-append"],
    ] {
        let log = directory.path().join(workload[0]);
        for seed in ["1", "2"] {
            let on = ["--seed", seed, "--transactions", "300", "--log", path(&log)];
            let (code, stdout, stderr) = run(&[&["run"], workload, &on].concat());
            assert_eq!(code, 0, "{workload:?} with seed {seed}: {stderr}{stdout}");
        }
    }
}

#[test]
fn history_on_stdout_is_nothing_but_the_history() {
    let run_list = ["run", "list-append", "--transactions", "50", "--log", "memory", "--history", "-"];
    let (code, stdout, stderr) = run(&run_list);
    assert_eq!(code, 0, "{stderr}");
    let lines: Vec<serde_json::Value> =
        stdout.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
    assert_eq!(lines.len(), 50);
    assert!(lines.iter().all(|line| line["ops"].is_array()) && stderr.contains("list-append:"), "{stderr}");
    refused(2, &[&run_list[..], &["--json", "-"]].concat(), "cannot both go to stdout");
}

#[test]
fn reports_that_cannot_be_written_are_refused_before_the_run() {
    refused(
        4,
        &["run", "transfer", "--seconds", "1000", "--json", "/nonexistent/report.json"],
        "cannot write",
    );
}

#[test]
fn checkpoints_are_taken_every_so_many_seconds_if_that_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let count = || match fs::read_dir(log.join("checkpoints")) {
        Ok(files) => files
            .filter_map(|file| file.expect("a file").file_name().into_string().ok())
            .filter(|name| name.starts_with("checkpoint-"))
            .count(),
        Err(_) => 0,
    };
    let transfer = ["run", "transfer", "--accounts", "500", "--durability", "buffered", "--log", path(&log)];
    let (code, _, stderr) =
        run(&[&transfer[..], &["--checkpoint-bytes", "0", "--transactions", "5000"]].concat());
    assert_eq!((code, count()), (0, 0), "none of itself: {stderr}");
    let often = ["--checkpoint-bytes", "0", "--checkpoint-seconds", "0.01", "--seconds", "1000"];
    let mut running = run::command(&[&transfer[..], &often].concat());
    let mut running =
        running.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the command starts");
    let begun = Instant::now();
    // Two are kept, the first of which was taken some time before the other one.
    while count() < 2 {
        assert!(begun.elapsed() < Duration::from_secs(60), "there are {} checkpoints", count());
        assert!(running.try_wait().expect("it is our child").is_none(), "it has ended");
        std::thread::sleep(Duration::from_millis(5));
    }
    running.kill().and_then(|()| running.wait()).expect("it is our child");
    let (code, stdout, stderr) = run(&["digest", "--log", path(&log)]);
    assert!(code == 0 && !stdout.is_empty(), "{stderr}");
}

#[test]
fn run_that_needs_more_memory_than_it_may_use_is_refused_and_says_so() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let ycsb = ["run", "ycsb-a", "--log", path(&log), "--durability", "buffered", "--value-size", "1000"];
    // Nobody gets by with a mebibyte.
    let little = [&ycsb[..], &["--records", "10", "--seconds", "100", "--max-memory", "1048576"]].concat();
    refused(4, &little, " bytes of memory, and may use 1048576");
    // The population alone takes far more.
    let large =
        [&ycsb[..], &["--records", "2000000", "--seconds", "100", "--max-memory", "67108864"]].concat();
    refused(4, &large, " bytes of memory, and may use 67108864");
    // What it wrote until then is there.
    let (code, stdout, stderr) = run(&["digest", "--log", path(&log)]);
    assert!(code == 0 && stdout.starts_with("position "), "{stderr}");
}

#[test]
fn files_that_may_not_grow_are_an_error_like_any_other() {
    let directory = tempfile::tempdir().expect("a directory");
    let command = "ulimit -f 1000 && exec \"$@\"";
    let output = std::process::Command::new("sh")
        .args([
            "-c",
            command,
            "sh",
            env!("CARGO_BIN_EXE_mixlog"),
            "run",
            "transfer",
            "--transactions",
            "10",
            "--log",
        ])
        .arg(directory.path().join("log"))
        .output()
        .expect("sh starts");
    let (code, _, stderr) = run::ends(&output);
    assert_eq!(code, 4, "{stderr}");
    assert!(
        stderr.contains("cannot create the first segment in") && stderr.contains("File too large"),
        "{stderr}"
    );
}

#[test]
fn help_shows_examples_and_exit_codes() {
    let (code, stdout, _) = run(&["--help"]);
    assert!(code == 0 && stdout.contains("Exit codes:"), "{stdout}");
    let (code, stdout, _) = run(&["run", "--help"]);
    assert!(code == 0 && stdout.contains("Examples:"), "{stdout}");
}

#[test]
fn explain_prints_the_hot_table_and_its_key() {
    let directory = tempfile::tempdir().expect("a directory");
    let log = directory.path().join("log");
    let options = ["--accounts", "500", "--transactions", "3000", "--hot", "1", "--durability", "buffered"];
    let engine = ["--threads", "2", "--mode", "parallel", "--explain"];
    let (code, stdout, stderr) =
        run(&[&["run", "transfer", "--log", path(&log), "--json", "-"], &options[..], &engine].concat());
    assert_eq!(code, 0, "{stderr}");
    let json: serde_json::Value = serde_json::from_str(&stdout).expect("stdout is one JSON object");
    let explanation = &json["explanation"];
    assert_eq!(explanation["tables"][0]["name"], "transfer.accounts");
    assert_eq!(explanation["procedures"][0]["transactions"], 3000, "the population is not explained");
    let hot = explanation["keys"][0]["key"].as_str().expect("text").to_owned();
    assert!(hot.parse::<u64>().is_ok_and(|account| account < 500), "{hot}");
    assert!(stderr.contains("transfer.accounts"), "people can read it, too: {stderr}");

    let (code, stdout, stderr) = run(&[&["replay", "--log", path(&log)], &engine[..]].concat());
    assert_eq!(code, 0, "{stderr}");
    let report = stdout.split_once("waits by key").expect("there is a list").1;
    let first = report.lines().nth(1).expect("it is not empty");
    assert!(
        first.starts_with("transfer.accounts") && first.split_whitespace().nth(1) == Some(&hot),
        "{stdout}"
    );
    assert!(!run(&["replay", "--log", path(&log)]).1.contains("waits"), "only if asked for");
    refused(2, &["replay", "--log", path(&log), "--explain=0"], "--explain");
}

#[cfg(not(feature = "etcd"))]
#[test]
fn cluster_in_etcd_is_refused_by_a_build_without_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let unused = directory.path().join("unused");
    for arguments in [
        ["cluster", "status", "--log", "corfu+etcd://127.0.0.1:2379/bank"].as_slice(),
        &["run", "transfer", "--log", "corfu+etcd://127.0.0.1:2379/bank"],
        &["cluster", "up", "--dir", path(&unused), "--etcd", "127.0.0.1:2379/bank"],
    ] {
        refused(2, arguments, "--features etcd");
    }
    assert!(!unused.exists());
}
