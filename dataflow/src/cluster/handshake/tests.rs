//! The processes of a job find each other, and no other program becomes one of them.

use timely::communication::allocator::zero_copy::stream::Stream;

use super::*;

const SECRET: &str = "0123456789abcdef0123456789abcdef";

fn keys() -> Option<Keys> {
    Some(Keys::derive(&Secret::new(SECRET)).expect("keys"))
}

/// Free ports of loopback. If another program takes one first, the test fails to listen.
pub(in crate::cluster) fn hosts(count: usize) -> Vec<String> {
    let listeners: Vec<TcpListener> = (0..count)
        .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
        .collect();
    listeners
        .iter()
        .map(|listener| listener.local_addr().expect("an address").to_string())
        .collect()
}

pub(in crate::cluster) fn config(hosts: &[String], process: usize) -> ClusterConfig {
    ClusterConfig {
        job: "test".into(),
        settings: "2 workers".into(),
        process,
        hosts: hosts.to_vec(),
        nonce: format!("nonce of {process}"),
        secret: Some(Secret::new(SECRET)),
        timeout: Duration::from_secs(20),
    }
}

fn start(config: ClusterConfig) -> thread::JoinHandle<Result<Cluster, ClusterError>> {
    thread::spawn(move || {
        connect(&config, || false).map(|cluster| cluster.expect("no stop was requested"))
    })
}

/// Every pair can send done both of its connections, each way, and reaches the right process.
fn check(mut clusters: Vec<Cluster>) {
    let count = clusters.len();
    for from in 0..count {
        for to in (0..count).filter(|to| *to != from) {
            for purpose in [Purpose::Data, Purpose::Heartbeat] {
                let pick = |cluster: &mut Cluster, other: usize| {
                    let side = if purpose == Purpose::Data {
                        &mut cluster.data
                    } else {
                        &mut cluster.heartbeat
                    };
                    side[other]
                        .as_ref()
                        .expect("connected")
                        .try_clone()
                        .expect("a handle")
                };
                let sent = [u8::try_from(10 * from + to).expect("small")];
                pick(&mut clusters[from], to)
                    .write_all(&sent)
                    .expect("sent");
                let mut received = [0];
                pick(&mut clusters[to], from)
                    .read_exact(&mut received)
                    .expect("received");
                assert_eq!(received, sent, "{from} to {to}, {purpose:?}");
            }
        }
    }
    assert!(
        (0..count)
            .all(|own| clusters[own].data[own].is_none() && clusters[own].heartbeat[own].is_none())
    );
}

#[test]
fn processes_started_in_any_order_find_each_other() {
    for order in [[0, 1, 2], [2, 1, 0], [1, 2, 0]] {
        let hosts = hosts(3);
        let mut started: Vec<_> = order
            .iter()
            .map(|process| (*process, start(config(&hosts, *process))))
            .collect();
        started.sort_by_key(|(process, _)| *process);
        check(
            started
                .into_iter()
                .map(|(_, thread)| thread.join().expect("no panic").expect("connected"))
                .collect(),
        );
    }
}

#[test]
fn unknown_peers_are_disconnected_and_do_no_harm() {
    let hosts = hosts(2);
    let zero = start(config(&hosts, 0));
    let mut unknown_peers = Vec::new();
    let reach = |words: &[u8]| {
        loop {
            if let Ok(mut socket) = TcpStream::connect(&hosts[0]) {
                let _ = socket.write_all(words);
                return socket;
            }
            thread::sleep(Duration::from_millis(5));
        }
    };
    for words in [
        &b""[..],
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0; 8],
        &[0xFF; 8_192],
        b"{\"tapeflow_cluster\":3}\n",
    ] {
        unknown_peers.push(reach(words));
    }
    let one = start(config(&hosts, 1));
    check(vec![
        zero.join().expect("no panic").expect("connected"),
        one.join().expect("no panic").expect("connected"),
    ]);
}

#[test]
fn slow_callers_block_no_others() {
    let hosts = hosts(2);
    let zero = start(config(&hosts, 0));
    let done = Arc::new(AtomicBool::new(false));
    let slow: Vec<_> = (0..MAX_CALLERS)
        .map(|_| {
            let (host, done) = (hosts[0].clone(), Arc::clone(&done));
            thread::spawn(move || {
                while !done.load(Ordering::Acquire) {
                    if let Ok(mut socket) = TcpStream::connect(&host) {
                        while !done.load(Ordering::Acquire) && socket.write_all(b"x").is_ok() {
                            thread::sleep(Duration::from_millis(100));
                        }
                    }
                    thread::sleep(Duration::from_millis(100));
                }
            })
        })
        .collect();
    thread::sleep(Duration::from_millis(300));
    let one = start(config(&hosts, 1));
    let connected = vec![
        zero.join().expect("no panic").expect("connected"),
        one.join().expect("no panic").expect("connected"),
    ];
    done.store(true, Ordering::Release);
    slow.into_iter()
        .for_each(|slow| slow.join().expect("no panic"));
    check(connected);
}

/// Starts a process that waits until `end` is set.
fn start_until(
    config: ClusterConfig,
    end: &Arc<AtomicBool>,
) -> thread::JoinHandle<Result<Option<Cluster>, ClusterError>> {
    let end = Arc::clone(end);
    thread::spawn(move || connect(&config, || end.load(Ordering::Acquire)))
}

#[test]
fn another_job_other_settings_and_a_wrong_address_are_refused_with_the_reason() {
    type Change = fn(&mut ClusterConfig);
    let cases: [(Change, &str); 3] = [
        (|config| config.job = "other".into(), "belongs to job"),
        (|config| config.settings = "3 workers".into(), "settings"),
        (|config| config.hosts.push("127.0.0.1:1".into()), "settings"),
    ];
    for (change, want) in cases {
        let (hosts, end) = (hosts(2), Arc::default());
        let zero = start_until(config(&hosts, 0), &end);
        let mut one = config(&hosts, 1);
        change(&mut one);
        let error = start(one)
            .join()
            .expect("no panic")
            .err()
            .expect("refused")
            .to_string();
        assert!(error.contains("refuses") && error.contains(want), "{error}");
        end.store(true, Ordering::Release);
        assert!(
            zero.join().expect("no panic").expect("no error").is_none(),
            "a refused process is not connected"
        );
    }
}

#[test]
fn a_process_that_stays_alone_names_the_missing_ones() {
    let hosts = hosts(3);
    for (process, missing) in [(0, &hosts[1..]), (2, &hosts[..1])] {
        let error = connect(
            &ClusterConfig {
                timeout: Duration::from_millis(300),
                ..config(&hosts, process)
            },
            || false,
        )
        .err()
        .expect("alone");
        assert!(
            missing.iter().all(|host| error.to_string().contains(host)),
            "{error}"
        );
    }
}

#[test]
fn a_waiting_process_logs_once_and_not_before_two_seconds() {
    let mut said = 0;
    let timeout = Duration::from_secs(20);
    let mut early = WaitLog {
        since: Instant::now(),
        is_logged: false,
    };
    early.check(|| unreachable!("too early"), timeout);
    let since = Instant::now()
        .checked_sub(SILENT_WAIT)
        .expect("the machine runs longer");
    let mut late = WaitLog {
        since,
        is_logged: false,
    };
    for _ in 0..3 {
        let missing = || {
            said += 1;
            "process 1 at b:1".into()
        };
        late.check(missing, timeout);
    }
    assert_eq!(said, 1);
}

#[test]
fn a_restarted_process_replaces_its_earlier_connection() {
    let hosts = hosts(3);
    let zero = start(config(&hosts, 0));
    // An earlier process 1 connects and exits.
    let hello = Hello {
        tapeflow_cluster: VERSION,
        job: "test".into(),
        settings: "2 workers".into(),
        processes: 3,
        from: 1,
        to: 0,
        purpose: Purpose::Data,
        nonce: None,
    };
    loop {
        if let Ok((_, Answer::Welcome { nonce })) = send_hello(&hosts[0], keys().as_ref(), &hello) {
            assert_eq!(nonce, "nonce of 0");
            break;
        }
        thread::sleep(Duration::from_millis(5));
    }
    let others: Vec<_> = [1, 2].map(|process| start(config(&hosts, process))).into();
    let mut clusters = vec![zero.join().expect("no panic").expect("connected")];
    clusters.extend(
        others
            .into_iter()
            .map(|thread| thread.join().expect("no panic").expect("connected")),
    );
    check(clusters);
}

#[test]
fn a_process_that_is_asked_to_stop_does_not_wait() {
    let hosts = hosts(2);
    for process in [0, 1] {
        let connected = connect(&config(&hosts, process), || true).expect("no error");
        assert!(connected.is_none());
    }
}

#[test]
fn a_process_of_another_incarnation_is_rejected() {
    let (hosts, end) = (hosts(2), Arc::default());
    let zero = start_until(config(&hosts, 0), &end);
    let hello = Hello {
        tapeflow_cluster: VERSION,
        job: "test".into(),
        settings: "2 workers".into(),
        processes: 2,
        from: 1,
        to: 0,
        purpose: Purpose::Heartbeat,
        nonce: Some("of an earlier process 0".into()),
    };
    let answer = loop {
        if let Ok((_, answer)) = send_hello(&hosts[0], keys().as_ref(), &hello) {
            break answer;
        }
        thread::sleep(Duration::from_millis(5));
    };
    assert!(matches!(answer, Answer::Outdated), "{answer:?}");
    end.store(true, Ordering::Release);
    assert!(zero.join().expect("no panic").expect("no error").is_none());
}

#[test]
fn a_refusal_is_never_longer_than_its_caller_reads() {
    let config = config(&hosts(2), 0);
    let hello = |job: &str, settings: &str| Hello {
        tapeflow_cluster: VERSION,
        job: job.into(),
        settings: settings.into(),
        processes: 2,
        from: 1,
        to: 0,
        purpose: Purpose::Data,
        nonce: None,
    };
    // Each character becomes six or seven bytes of the answer.
    let long = "\u{7f}\u{1}".repeat(MAX_LINE_BYTES / 4);
    for hello in [hello(&long, "2 workers"), hello("test", &long)] {
        let answer = answer_to(&hello, &config, None);
        assert!(matches!(answer, Answer::Refused { .. }), "{answer:?}");
        let line = to_line(&answer).expect("JSON");
        assert!(line.len() <= MAX_LINE_BYTES, "{} bytes", line.len());
    }
}
