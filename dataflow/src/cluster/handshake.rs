//! The cluster handshake: connects the processes of a job with each other.
//!
//! Timely's own handshake is one raw integer. A port scan can crash its listener, two jobs can be
//! connected with each other, and so can a process of an earlier incarnation with a new one. Here
//! every connection begins with one line of JSON that names the caller, the called process, the job
//! and its incarnation:
//!
//! ```text
//!  process 0                              draws a nonce n when it starts to listen
//!  process i to process 0:                hello(job, i → 0)     ◀── welcome(n)
//!  process i to process j, 0 < j < i:     hello(job, i → j, n)  ◀── welcome(n), or a refusal
//!                                                                   if j has another nonce
//! ```
//!
//! Each pair of processes has two connections: one for timely's data and one for the
//! [heartbeat](super::heartbeat). An unknown peer, which sends no valid hello within
//! [`HELLO_TIMEOUT`], is disconnected and logged. A process that was restarted meanwhile and
//! connects again replaces its earlier connection. All steps have a common deadline; after it the
//! process exits, and a supervisor restarts all processes of the job.
//!
//! The handshake has no secret, and the connections are not encrypted: restrict the listener to a
//! network that only the job uses.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::{TcpListener, TcpStream, ToSocketAddrs},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use serde::{Deserialize, Serialize};

/// The version of the handshake.
const VERSION: u32 = 1;
/// The time that a caller has for its hello, and a listener for its answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest line of the handshake, in bytes.
const MAX_LINE_BYTES: usize = 4_096;
/// The time between two attempts of a caller.
const RETRY_INTERVAL: Duration = Duration::from_millis(50);
/// The most callers that are answered at once. Further ones are disconnected.
const MAX_CALLERS: usize = 64;
/// The time after which a process logs which processes it waits for.
const SILENT_WAIT: Duration = Duration::from_secs(2);

/// The settings of one process.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    pub(crate) job: String,
    /// The settings that all processes must agree on, as text.
    pub(crate) settings: String,
    /// The number of this process.
    pub(crate) process: usize,
    /// Where each process listens.
    pub(crate) hosts: Vec<String>,
    /// A random nonce; that of process 0 identifies the incarnation of the job.
    pub(crate) nonce: String,
    /// How long the processes wait for each other.
    pub(crate) timeout: Duration,
}

/// The connections to all other processes, by their number; `None` at the own number.
pub(crate) struct Cluster {
    pub(crate) data: Vec<Option<TcpStream>>,
    pub(crate) heartbeat: Vec<Option<TcpStream>>,
}

/// Why the processes could not connect.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("cannot listen at {address} for the other processes: {error}; see --hosts")]
    Listen {
        address: String,
        error: std::io::Error,
    },
    #[error("process {process} at {address} refuses the connection: {reason}")]
    Refused {
        process: usize,
        address: String,
        reason: String,
    },
    #[error("process {process} at {address} was restarted meanwhile")]
    Restarted { process: usize, address: String },
    #[error(
        "no connection within {} s to {missing}; start all processes of the job",
        .timeout.as_secs()
    )]
    Timeout { missing: String, timeout: Duration },
    #[error("cannot set up a connection: {0}")]
    Broken(#[from] std::io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Purpose {
    Data,
    Heartbeat,
}

/// The first line of a connection, from the caller.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    tapeflow_cluster: u32,
    job: String,
    settings: String,
    processes: usize,
    from: usize,
    to: usize,
    purpose: Purpose,
    /// `None` in the first hello to process 0, whose answer contains it.
    nonce: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome {
        nonce: String,
    },
    /// Try again soon: the called process does not know the nonce yet, or has another one.
    NotYet,
    /// The caller belongs to an earlier incarnation.
    Outdated,
    Refused {
        reason: String,
    },
}

/// The state that the listener and the threads that answer callers share.
struct State {
    config: ClusterConfig,
    /// The nonce of process 0, once it is known.
    nonce: Mutex<Option<String>>,
    callers: AtomicUsize,
    done: AtomicBool,
    arrived: Sender<(Purpose, usize, TcpStream)>,
}

impl State {
    fn nonce(&self) -> MutexGuard<'_, Option<String>> {
        self.nonce.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Logs once, after [`SILENT_WAIT`], which processes are missing.
struct WaitLog {
    since: Instant,
    is_logged: bool,
}

impl WaitLog {
    fn check(&mut self, missing: impl FnOnce() -> String, timeout: Duration) {
        if !self.is_logged && self.since.elapsed() >= SILENT_WAIT {
            self.is_logged = true;
            let missing = missing();
            tracing::info!(
                missing,
                give_up_after_s = timeout.as_secs(),
                "waiting for the other processes of the job: start them, or see --processes and \
                 --hosts"
            );
        }
    }
}

/// Connects this process with all others; `None` if `stop_requested` becomes true first.
pub(crate) fn connect(
    config: &ClusterConfig,
    stop_requested: impl Fn() -> bool,
) -> Result<Option<Cluster>, ClusterError> {
    let deadline = Instant::now() + config.timeout;
    let (arrived, arrivals) = channel();
    let state = Arc::new(State {
        config: config.clone(),
        nonce: Mutex::new((config.process == 0).then(|| config.nonce.clone())),
        callers: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        arrived,
    });
    let Some(listener) = listen(&state, deadline, &stop_requested)? else {
        return Ok(None);
    };
    let joined = join_all(&state, &arrivals, deadline, &stop_requested);
    state.done.store(true, Ordering::Release);
    let _ = listener.join();
    let Some(cluster) = joined? else {
        return Ok(None);
    };
    for socket in cluster.data.iter().chain(&cluster.heartbeat).flatten() {
        socket.set_nodelay(true)?;
        socket.set_read_timeout(None)?;
        socket.set_write_timeout(None)?;
    }
    Ok(Some(cluster))
}

/// Calls the processes with lower numbers, and waits for the calls of the others.
fn join_all(
    state: &State,
    arrivals: &Receiver<(Purpose, usize, TcpStream)>,
    deadline: Instant,
    stop_requested: &impl Fn() -> bool,
) -> Result<Option<Cluster>, ClusterError> {
    let config = &state.config;
    let mut connected: BTreeMap<(usize, Purpose), TcpStream> = BTreeMap::new();
    let mut log = WaitLog {
        since: Instant::now(),
        is_logged: false,
    };
    for to in 0..config.process {
        for purpose in [Purpose::Data, Purpose::Heartbeat] {
            let Some(socket) = call(state, to, purpose, deadline, &mut log, stop_requested)? else {
                return Ok(None);
            };
            connected.insert((to, purpose), socket);
        }
    }
    let expected = 2 * (config.hosts.len() - 1);
    let missing = |connected: &BTreeMap<(usize, Purpose), TcpStream>| {
        (0..config.hosts.len())
            .filter(|other| {
                *other != config.process && !connected.contains_key(&(*other, Purpose::Heartbeat))
            })
            .map(|other| format!("process {other} at {}", config.hosts[other]))
            .collect::<Vec<_>>()
            .join(", ")
    };
    while connected.len() < expected {
        log.check(|| missing(&connected), config.timeout);
        match arrivals.recv_timeout(RETRY_INTERVAL) {
            // The second call of a process replaces the first: the process was restarted.
            Ok((purpose, from, socket)) => drop(connected.insert((from, purpose), socket)),
            Err(RecvTimeoutError::Timeout) if stop_requested() => return Ok(None),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(ClusterError::Timeout {
                    missing: missing(&connected),
                    timeout: config.timeout,
                });
            }
        }
    }
    let mut take = |purpose| {
        (0..config.hosts.len())
            .map(|other| connected.remove(&(other, purpose)))
            .collect()
    };
    Ok(Some(Cluster {
        data: take(Purpose::Data),
        heartbeat: take(Purpose::Heartbeat),
    }))
}

/// Calls a process until it answers; `None` if a stop is requested first.
fn call(
    state: &State,
    to: usize,
    purpose: Purpose,
    deadline: Instant,
    log: &mut WaitLog,
    stop_requested: &impl Fn() -> bool,
) -> Result<Option<TcpStream>, ClusterError> {
    let config = &state.config;
    let address = &config.hosts[to];
    loop {
        let hello = Hello {
            tapeflow_cluster: VERSION,
            job: config.job.clone(),
            settings: config.settings.clone(),
            processes: config.hosts.len(),
            from: config.process,
            to,
            purpose,
            nonce: state.nonce().clone(),
        };
        match send_hello(address, &hello) {
            Ok((socket, Answer::Welcome { nonce })) => {
                let mut known = state.nonce();
                // Another nonce means that process 0 was restarted between the two calls, so the
                // first connection is useless.
                if known.is_none() || known.as_ref() == Some(&nonce) {
                    *known = Some(nonce);
                    return Ok(Some(socket));
                }
                return Err(ClusterError::Restarted {
                    process: to,
                    address: address.clone(),
                });
            }
            Ok((_, Answer::Outdated)) => {
                return Err(ClusterError::Restarted {
                    process: to,
                    address: address.clone(),
                });
            }
            Ok((_, Answer::Refused { reason })) => {
                return Err(ClusterError::Refused {
                    process: to,
                    address: address.clone(),
                    reason,
                });
            }
            Ok((_, Answer::NotYet)) | Err(_) => {}
        }
        if stop_requested() {
            return Ok(None);
        }
        log.check(|| format!("process {to} at {address}"), config.timeout);
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return Err(ClusterError::Timeout {
                missing: format!("process {to} at {address}"),
                timeout: config.timeout,
            });
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

fn send_hello(address: &str, hello: &Hello) -> std::io::Result<(TcpStream, Answer)> {
    let mut error = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HELLO_TIMEOUT) {
            Ok(mut socket) => {
                socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
                write_line(&mut socket, hello)?;
                let answer = read_line(&socket)?;
                return Ok((socket, answer));
            }
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn write_line(socket: &mut TcpStream, message: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Reads one line and no byte beyond it: the following bytes belong to timely.
fn read_line<T: for<'de> Deserialize<'de>>(socket: &TcpStream) -> std::io::Result<T> {
    // One deadline for the whole line: a caller that sends a byte now and then must not block
    // others.
    let deadline = Instant::now() + HELLO_TIMEOUT;
    let (mut line, mut byte, mut socket) = (Vec::new(), [0], socket);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() >= MAX_LINE_BYTES {
            return Err(std::io::Error::other("no valid hello"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut byte)? {
            0 => return Err(std::io::Error::other("no valid hello")),
            _ if byte == *b"\n" => return Ok(serde_json::from_slice(&line)?),
            _ => line.push(byte[0]),
        }
    }
}

/// Listens on a thread until this process has connected; `None` if a stop is requested first.
fn listen(
    state: &Arc<State>,
    deadline: Instant,
    stop_requested: &impl Fn() -> bool,
) -> Result<Option<thread::JoinHandle<()>>, ClusterError> {
    let address = &state.config.hosts[state.config.process];
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) if stop_requested() => return Ok(None),
            // An earlier process may still hold the port.
            Err(_) if Instant::now() + RETRY_INTERVAL < deadline => thread::sleep(RETRY_INTERVAL),
            Err(error) => {
                return Err(ClusterError::Listen {
                    address: address.clone(),
                    error,
                });
            }
        }
    };
    listener.set_nonblocking(true)?;
    let state = Arc::clone(state);
    let thread = thread::Builder::new()
        .name("cluster".into())
        .spawn(move || {
            while !state.done.load(Ordering::Acquire) {
                match listener.accept() {
                    Ok((socket, from)) => {
                        if state.callers.fetch_add(1, Ordering::AcqRel) >= MAX_CALLERS {
                            state.callers.fetch_sub(1, Ordering::AcqRel);
                            continue;
                        }
                        let caller = Arc::clone(&state);
                        let answered =
                            thread::Builder::new()
                                .name("cluster-caller".into())
                                .spawn(move || {
                                    if let Err(error) = answer(&caller, socket) {
                                        tracing::warn!(
                                            %from,
                                            %error,
                                            "peer rejected: invalid cluster handshake"
                                        );
                                    }
                                    caller.callers.fetch_sub(1, Ordering::AcqRel);
                                });
                        if answered.is_err() {
                            state.callers.fetch_sub(1, Ordering::AcqRel);
                        }
                    }
                    Err(_) => thread::sleep(Duration::from_millis(5)),
                }
            }
        })?;
    Ok(Some(thread))
}

/// Reads the hello of a caller and answers it.
fn answer(state: &State, mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(HELLO_TIMEOUT))?;
    socket.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let hello: Hello = read_line(&socket)?;
    let config = &state.config;
    let refusal = if hello.tapeflow_cluster != VERSION {
        Some(format!(
            "it uses version {VERSION} of the handshake, not {}",
            hello.tapeflow_cluster
        ))
    } else if hello.job != config.job {
        Some(format!(
            "it belongs to job {:?}, not {:?}",
            config.job, hello.job
        ))
    } else if hello.processes != config.hosts.len() || hello.settings != config.settings {
        Some(format!(
            "its settings are {} processes, {}, not {} processes, {}",
            config.hosts.len(),
            config.settings,
            hello.processes,
            hello.settings
        ))
    } else if hello.to != config.process {
        Some(format!(
            "it is process {}, not {}: see --hosts and --process",
            config.process, hello.to
        ))
    } else if hello.from <= config.process || hello.from >= config.hosts.len() {
        Some(format!(
            "process {} must not call process {}",
            hello.from, config.process
        ))
    } else {
        None
    };
    if let Some(reason) = refusal {
        tracing::warn!(
            from = hello.from,
            reason,
            "peer rejected: it does not belong to this job"
        );
        return write_line(&mut socket, &Answer::Refused { reason });
    }
    let known = state.nonce().clone();
    match known {
        // Only process 0 tells the nonce, and only to a caller without one.
        Some(nonce)
            if hello
                .nonce
                .as_ref()
                .map_or(config.process == 0, |theirs| *theirs == nonce) =>
        {
            write_line(&mut socket, &Answer::Welcome { nonce })?;
            // The receiver is gone if this process has failed to connect.
            let _ = state.arrived.send((hello.purpose, hello.from, socket));
            Ok(())
        }
        Some(_) if config.process == 0 => write_line(&mut socket, &Answer::Outdated),
        _ => write_line(&mut socket, &Answer::NotYet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free ports of loopback. If another program takes one first, the test fails to listen.
    fn hosts(count: usize) -> Vec<String> {
        let listeners: Vec<TcpListener> = (0..count)
            .map(|_| TcpListener::bind("127.0.0.1:0").expect("a port"))
            .collect();
        listeners
            .iter()
            .map(|listener| listener.local_addr().expect("an address").to_string())
            .collect()
    }

    fn config(hosts: &[String], process: usize) -> ClusterConfig {
        ClusterConfig {
            job: "test".into(),
            settings: "2 workers".into(),
            process,
            hosts: hosts.to_vec(),
            nonce: format!("nonce of {process}"),
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
                .all(|own| clusters[own].data[own].is_none()
                    && clusters[own].heartbeat[own].is_none())
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
            b"{\"tapeflow_cluster\":1}\n",
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
            if let Ok((_, Answer::Welcome { nonce })) = send_hello(&hosts[0], &hello) {
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
            if let Ok((_, answer)) = send_hello(&hosts[0], &hello) {
                break answer;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(matches!(answer, Answer::Outdated), "{answer:?}");
        end.store(true, Ordering::Release);
        assert!(zero.join().expect("no panic").expect("no error").is_none());
    }
}
