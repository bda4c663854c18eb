//! Attacks on the links between the processes of a job: what an attacker who reaches the listeners,
//! or sits between two processes, must not get.

use std::{
    io::{Read, Write},
    net::{Shutdown, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use tapeflow_schemas::Secret;

use super::handshake::{
    Cluster, ClusterConfig, ClusterError, connect,
    tests::{config, hosts},
};

type Connecting = thread::JoinHandle<Result<Option<Cluster>, ClusterError>>;

/// Starts a process that waits for the others until `end` is set.
fn start(config: ClusterConfig, end: &Arc<AtomicBool>) -> Connecting {
    let end = Arc::clone(end);
    thread::spawn(move || connect(&config, || end.load(Ordering::Acquire)))
}

fn connected(process: Connecting) -> Cluster {
    process
        .join()
        .expect("no panic")
        .expect("no error")
        .expect("not asked to stop")
}

fn reach(address: &str) -> TcpStream {
    loop {
        if let Ok(socket) = TcpStream::connect(address) {
            return socket;
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// What comes back for these bytes until the listener closes the connection.
fn said(address: &str, bytes: &[u8]) -> Vec<u8> {
    let mut socket = reach(address);
    let _ = socket.write_all(bytes);
    let mut heard = Vec::new();
    let _ = socket.read_to_end(&mut heard);
    heard
}

fn hello(purpose: &str, nonce: &str) -> Vec<u8> {
    format!(
        "{{\"tapeflow_cluster\":3,\"job\":\"test\",\"settings\":\"2 workers\",\"processes\":2,\
         \"from\":1,\"to\":0,\"purpose\":\"{purpose}\",\"nonce\":{nonce}}}\n"
    )
    .into_bytes()
}

#[test]
fn who_knows_job_and_settings_but_not_the_secret_becomes_no_process_and_hears_nothing() {
    let (hosts, end) = (hosts(2), Arc::default());
    let zero = start(config(&hosts, 0), &end);
    // The three hellos that once made anyone a process of the job.
    for bytes in [
        hello("Data", "null"),
        hello("Data", "\"nonce of 0\""),
        hello("Heartbeat", "\"nonce of 0\""),
    ] {
        assert_eq!(said(&hosts[0], &bytes), b"", "a refusal says nothing");
    }
    assert!(!zero.is_finished(), "process 0 still waits for process 1");
    let one = start(config(&hosts, 1), &end);
    assert_eq!(connected(zero).nonce, "nonce of 0");
    connected(one);
}

#[test]
fn the_same_hellos_do_make_a_process_without_a_secret_so_only_loopback_may_go_without() {
    let (hosts, end) = (hosts(2), Arc::default());
    let mut open = config(&hosts, 0);
    open.secret = None;
    let zero = start(open, &end);
    let mut sockets = Vec::new();
    for (purpose, nonce) in [("Data", "null"), ("Heartbeat", "\"nonce of 0\"")] {
        let mut socket = reach(&hosts[0]);
        socket.write_all(&hello(purpose, nonce)).expect("sent");
        let mut answer = [0; 9];
        socket.read_exact(&mut answer).expect("an answer");
        assert_eq!(&answer[..], b"{\"Welcome");
        sockets.push(socket);
    }
    connected(zero);
}

#[test]
fn another_secret_connects_no_one_and_the_error_names_the_flag() {
    let (hosts, end) = (hosts(2), Arc::default());
    let zero = start(config(&hosts, 0), &end);
    let error = connect(
        &ClusterConfig {
            secret: Some(Secret::new("another secret of 32 characters.")),
            timeout: Duration::from_secs(2),
            ..config(&hosts, 1)
        },
        || false,
    )
    .err()
    .expect("refused")
    .to_string();
    assert!(
        error.contains("does not prove this job's secret")
            && error.contains("--cluster-secret-file"),
        "{error}"
    );
    // The same without any secret.
    let error = connect(
        &ClusterConfig {
            secret: None,
            timeout: Duration::from_secs(2),
            ..config(&hosts, 1)
        },
        || false,
    )
    .err()
    .expect("refused")
    .to_string();
    assert!(error.contains("--cluster-secret-file"), "{error}");
    end.store(true, Ordering::Release);
    assert!(zero.join().expect("no panic").expect("no error").is_none());
}

/// Passes connections on to `target`, and keeps what the callers send.
fn recorder(target: &str, calls: &Arc<Mutex<Vec<Vec<u8>>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let (target, calls) = (target.to_owned(), Arc::clone(calls));
    thread::spawn(move || {
        for caller in listener.incoming() {
            let mut caller = caller.expect("a caller");
            let Ok(mut called) = TcpStream::connect(&target) else {
                continue;
            };
            let number = {
                let mut calls = calls.lock().expect("no panic");
                calls.push(Vec::new());
                calls.len() - 1
            };
            let (mut from, mut to) = (
                called.try_clone().expect("a handle"),
                caller.try_clone().expect("a handle"),
            );
            thread::spawn(move || {
                let _ = std::io::copy(&mut from, &mut to);
                let _ = to.shutdown(Shutdown::Both);
            });
            let calls = Arc::clone(&calls);
            thread::spawn(move || {
                let mut buffer = [0; 4_096];
                while let Ok(count @ 1..) = caller.read(&mut buffer) {
                    calls.lock().expect("no panic")[number].extend(&buffer[..count]);
                    if called.write_all(&buffer[..count]).is_err() {
                        break;
                    }
                }
                let _ = called.shutdown(Shutdown::Both);
            });
        }
    });
    address
}

#[test]
fn a_recorded_handshake_that_is_sent_again_makes_no_process() {
    let (hosts, calls, end) = (hosts(2), Arc::default(), Arc::default());
    let zero = start(config(&hosts, 0), &end);
    let mut theirs = config(&hosts, 1);
    theirs.hosts[0] = recorder(&hosts[0], &calls);
    let one = start(theirs, &end);
    drop((connected(zero), connected(one)));
    let calls = calls.lock().expect("no panic").clone();
    assert!(calls.len() >= 2, "data and heartbeat");
    let zero = start(config(&hosts, 0), &end);
    for bytes in calls {
        let heard = said(&hosts[0], &bytes);
        let text = String::from_utf8_lossy(&heard);
        assert!(!text.contains("nonce"), "{text}");
    }
    assert!(!zero.is_finished(), "process 0 still waits for process 1");
    let one = start(config(&hosts, 1), &end);
    drop((connected(zero), connected(one)));
}

#[test]
fn a_call_that_is_led_to_another_process_of_the_job_is_refused() {
    let (hosts, end) = (hosts(3), Arc::default());
    let processes = [0, 1].map(|process| start(config(&hosts, process), &end));
    let mut misled = config(&hosts, 2);
    misled.hosts[0] = hosts[1].clone();
    let error = connect(&misled, || false)
        .err()
        .expect("refused")
        .to_string();
    assert!(error.contains("it is process 1, not 0"), "{error}");
    end.store(true, Ordering::Release);
    for process in processes {
        assert!(
            process
                .join()
                .expect("no panic")
                .expect("no error")
                .is_none()
        );
    }
}
