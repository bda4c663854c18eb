//! A full disk, a store and a feed that do not answer: the process says what is wrong, since when
//! and why, writes few warnings, goes on by itself, and ends within its limit.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use serde_json::Value;

use crate::{
    command::{Place, told},
    http::{get, until, value},
    serving::{Running, flags, serving, started},
    tapeflow,
};

/// A small file system that only the process sees, half of it taken by a file. A market fills the
/// rest in seconds.
const SMALL_DISK: &str = "mount -t tmpfs -o size=6m tmpfs \"$0\" \
                          && head -c 3000000 /dev/zero > \"$0/filler\" && exec \"$@\"";
/// Another file of host names that only the process sees.
const HOSTS: &str = "mount --bind \"$0\" /etc/hosts && exec \"$@\"";

/// A command after `script`, in name spaces of its own, where it may mount. `None` where the system
/// does not allow that.
fn in_name_spaces(script: &str, of: &Path, command: &Command) -> Option<Command> {
    let wrap = || {
        let mut wrapped = Command::new("unshare");
        wrapped.args(["--user", "--map-root-user", "--mount", "sh", "-c", script]);
        wrapped.arg(of);
        wrapped
    };
    let allowed = wrap().arg("true").output().expect("unshare starts");
    if !allowed.status.success() {
        let why = told(&allowed);
        assert!(
            std::env::var("TAPEFLOW_REQUIRE_STACK").as_deref() != Ok("1"),
            "the system allows no mount in a name space: {why}"
        );
        println!("not run: the system allows no mount in a name space: {why}");
        return None;
    }
    let mut wrapped = wrap();
    wrapped.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => wrapped.env(name, value),
            None => wrapped.env_remove(name),
        };
    }
    Some(wrapped)
}

/// A run of a busy market on a small disk.
fn on_small_disk(place: &Place, more: &[&str]) -> Option<Running> {
    let disk = place.path("disk");
    fs::create_dir(&disk).expect("a folder");
    let store = format!("sqlite:{}", disk.join("t.db").display());
    let run = ["run", "--store", &store, "--rate", "5000"];
    let command = tapeflow(&[&run, more, &flags("127.0.0.1:0")].concat());
    in_name_spaces(SMALL_DISK, &disk, &command).map(|mut command| started(&mut command))
}

/// A file of the small disk, as this process sees it.
fn seen(running: &Running, path: &Path) -> PathBuf {
    let root = PathBuf::from(format!("/proc/{}/root", running.child.id()));
    root.join(path.strip_prefix("/").expect("an absolute path"))
}

fn status(running: &Running) -> Value {
    serde_json::from_str(&get(running, "/status").1).expect("JSON")
}

/// The longest outage: its part, its seconds and its reason.
fn outage(running: &Running) -> Option<(String, f64, String)> {
    let status = status(running);
    let first = status["outages"].as_array()?.first()?;
    let text = |name: &str| first[name].as_str().map(str::to_owned);
    Some((text("part")?, first["seconds"].as_f64()?, text("reason")?))
}

fn terminate(running: &Running) {
    let sent = Command::new("kill")
        .args(["-TERM", &running.child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(sent.success());
}

/// The exit code, once the process has ended, and the rest of its log.
fn ended(mut running: Running) -> (Option<i32>, String) {
    let status = until("it ends", || running.child.try_wait().expect("asked"));
    let mut said = String::new();
    running.said.read_to_string(&mut said).expect("text");
    (status.code(), said)
}

#[test]
fn a_full_disk_is_named_everywhere_and_holds_up_no_end() {
    let (place, begun) = (Place::new(), Instant::now());
    let Some(running) = on_small_disk(&place, &["--end-within", "1s"]) else {
        return;
    };
    let is_full = || outage(&running).filter(|(_, _, reason)| reason.contains("disk is full"));
    let (part, ..) = until("the disk is full", is_full);
    assert!(["log", "store"].contains(&part.as_str()), "{part}");
    let (code, body) = get(&running, "/readyz");
    assert_eq!(code, 503, "{body}");
    assert!(
        body.contains(", for ") && body.contains("disk is full"),
        "{body}"
    );
    assert_eq!(get(&running, "/livez").0, 200, "a restart would not help");

    // Each retry of three seconds and more would have written a line.
    until("it lasts", || {
        is_full().filter(|(_, seconds, _)| *seconds > 3.0)
    });
    let committed = || value(&get(&running, "/metrics").1, "tapeflow_epoch_committed");
    let before = committed();
    fs::remove_file(seen(&running, &place.path("disk/filler"))).expect("removed");
    until("it goes on by itself", || {
        (committed() > before).then_some(())
    });

    until("the disk is full again", is_full);
    terminate(&running);
    let (code, said) = ended(running);
    assert_eq!(code, Some(1), "{said}");
    for part in ["--end-within is over", "disk is full"] {
        assert!(said.contains(part), "{part} in {said}");
    }
    let warnings = said
        .lines()
        .filter(|line| line.contains("\"WARN\""))
        .count();
    let most = 1 + begun.elapsed().as_secs() / 10;
    assert!(
        u64::try_from(warnings).is_ok_and(|warnings| (1..=most).contains(&warnings)),
        "{warnings} warnings, at most {most}: {said}"
    );
}

#[test]
fn a_full_disk_holds_up_no_run_of_a_given_length() {
    let place = Place::new();
    // With the history the disk is full before the time is over.
    let flags = ["--duration", "4s", "--end-within", "1s"];
    let disk = place.path("disk");
    fs::create_dir(&disk).expect("a folder");
    let store = format!("sqlite:{}", disk.join("t.db").display());
    let mut command =
        tapeflow(&[&["run", "--store", &store, "--rate", "5000"], &flags[..]].concat());
    command.env_remove("TAPEFLOW_NO_HISTORY");
    let Some(mut command) = in_name_spaces(SMALL_DISK, &disk, &command) else {
        return;
    };
    let output = command.output().expect("it starts");
    let said = told(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    for part in ["--end-within is over", "disk is full"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[test]
fn a_store_that_does_not_answer_is_named_and_fails_readiness_alone() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store, "--end-within", "100ms"]);
    until("it is ready", || {
        (get(&running, "/readyz").0 == 200).then_some(())
    });
    let lock = rusqlite::Connection::open(place.path("t.db")).expect("opened");
    lock.execute_batch("BEGIN IMMEDIATE").expect("locked");
    let body = until("it is not ready", || {
        let (code, body) = get(&running, "/readyz");
        (code == 503).then_some(body)
    });
    assert!(
        body.contains("log, for ") || body.contains("store, for "),
        "{body}"
    );
    assert_eq!(get(&running, "/livez").0, 200, "a restart would not help");
    assert_eq!(get(&running, "/").0, 200, "the page is there");
    drop(lock);
    until("it is ready again", || {
        (get(&running, "/readyz").0 == 200).then_some(())
    });
}

#[test]
fn a_run_without_its_feed_is_not_ready_and_says_why() {
    let place = Place::new();
    let hosts = place.file("hosts", "127.0.0.1 localhost ws.finnhub.io\n");
    let token = place.file("token", "sesame\n");
    let run = ["run", "--store", &place.store, "--token-file", &token];
    let command = tapeflow(&[&run[..], &flags("127.0.0.1:0")].concat());
    let Some(mut command) = in_name_spaces(HOSTS, Path::new(&hosts), &command) else {
        return;
    };
    let running = started(&mut command);
    let body = until("it says why", || {
        let (code, body) = get(&running, "/readyz");
        (code == 503 && body.contains("feed, for ") && body.contains("cannot connect"))
            .then_some(body)
    });
    assert!(!body.contains("sesame"), "{body}");
    assert_eq!(get(&running, "/livez").0, 200);
    assert_eq!(status(&running)["feed"]["kind"], "finnhub");
}

#[test]
fn a_simulated_market_is_called_simulated() {
    let place = Place::new();
    let running = serving(&["run", "--store", &place.store]);
    assert_eq!(status(&running)["feed"]["kind"], "simulated");
    let silent = place.file("silent.jsonl", "");
    let other = format!("sqlite:{}", place.path("other.db").display());
    let replay = serving(&["run", "--store", &other, "--replay", &silent]);
    assert_eq!(status(&replay)["feed"]["kind"], "recording");
    until("a recording at rest is ready", || {
        (get(&replay, "/readyz").0 == 200).then_some(())
    });
}
