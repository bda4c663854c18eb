//! The cluster: the connections between the processes of a job, made by a handshake of our own.
//!
//! Timely's own handshake is one raw integer: a stray probe can crash the listener, two jobs can be
//! wired into each other, and a process of an earlier incarnation into a new one. Here every
//! connection begins with a line that says who calls whom, for which job, in which incarnation:
//!
//! ```text
//!  process 0 draws a nonce                        n, drawn when it starts to listen
//!  process i calls process 0:   hello(job, i → 0)            ◀── welcome(n)
//!  process i calls process j, 0 < j < i: hello(job, i → j, n) ◀── welcome(n), or a refusal if j was given another nonce
//! ```
//!
//! Each pair has two connections: one for timely's data, one for the [`heartbeat`]. What does not greet
//! properly within [`GREETING`] is dropped and told of; it harms nobody. A process that calls
//! again, because it was restarted meanwhile, takes the place of its earlier self. All of it has a
//! deadline: then the process leaves, for whoever starts the job to start all of it again.
//!
//! There is no secret in this handshake and no encryption after it: keep the listener to a network
//! that only the job is on.

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

/// The version of this handshake.
const VERSION: u32 = 1;
/// How long a caller has to greet.
const GREETING: Duration = Duration::from_secs(2);
/// The longest line of a greeting, in bytes.
const LINE_BYTES: usize = 4_096;
/// How long a caller waits before it calls again.
const RETRY: Duration = Duration::from_millis(50);
/// How long a process waits before it logs which processes it waits for.
const SILENT_WAIT: Duration = Duration::from_secs(2);
/// Greetings heard at once; more callers than that are dropped.
const CALLERS_AT_ONCE: usize = 64;

/// What a process needs to know to join.
#[derive(Clone, Debug)]
pub(crate) struct ClusterConfig {
    pub(crate) job: String,
    /// What the processes must agree on beside the job's name: a word made of their settings.
    pub(crate) settings: String,
    /// This process, and where all of them listen.
    pub(crate) process: usize,
    pub(crate) hosts: Vec<String>,
    /// Process 0's nonce; drawn at random.
    pub(crate) nonce: String,
    /// How long the processes wait for each other.
    pub(crate) patience: Duration,
}

/// The connections to all other processes, by their number; nothing at the own place.
pub(crate) struct Cluster {
    pub(crate) data: Vec<Option<TcpStream>>,
    pub(crate) heartbeat: Vec<Option<TcpStream>>,
}

/// Why there is no cluster.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    #[error("cannot listen at {address} for the other processes: {error}; see --hosts")]
    Listen {
        address: String,
        error: std::io::Error,
    },
    #[error("process {process} at {address} refuses: {reason}")]
    Refused {
        process: usize,
        address: String,
        reason: String,
    },
    #[error("process {process} at {address} was started anew meanwhile")]
    Anew { process: usize, address: String },
    #[error("the processes did not all connect within {} s: {missing} missing; start all of them", .patience.as_secs())]
    Late { missing: String, patience: Duration },
    #[error("cannot set a connection up: {0}")]
    Broken(#[from] std::io::Error),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
enum Purpose {
    Data,
    Heartbeat,
}

/// The first line of a connection.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Hello {
    tapeflow_cluster: u32,
    job: String,
    settings: String,
    processes: usize,
    from: usize,
    to: usize,
    purpose: Purpose,
    /// None only towards process 0, which gives it.
    nonce: Option<String>,
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
enum Answer {
    Welcome {
        nonce: String,
    },
    /// Call again a little later: not listened to yet, or of another incarnation.
    NotYet,
    /// The caller is of an earlier incarnation.
    Anew,
    Refused {
        reason: String,
    },
}

/// What the callers' threads and the listening one share.
struct Hall {
    config: ClusterConfig,
    /// What process 0 told us, or drew itself.
    nonce: Mutex<Option<String>>,
    callers: AtomicUsize,
    done: AtomicBool,
    arrived: Sender<(Purpose, usize, TcpStream)>,
}

impl Hall {
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
    fn check(&mut self, missing: impl FnOnce() -> String, patience: Duration) {
        if !self.is_logged && self.since.elapsed() >= SILENT_WAIT {
            self.is_logged = true;
            tracing::info!(
                missing = missing(),
                give_up_after_s = patience.as_secs(),
                "waiting for the other processes of the job: start them, or see --processes and \
                 --hosts"
            );
        }
    }
}

/// Connects this process with all others; nothing if `asked_to_end` says so before they have met.
pub(crate) fn connect(
    config: &ClusterConfig,
    asked_to_end: impl Fn() -> bool,
) -> Result<Option<Cluster>, ClusterError> {
    let deadline = Instant::now() + config.patience;
    let (arrived, arrivals) = channel();
    let hall = Arc::new(Hall {
        config: config.clone(),
        nonce: Mutex::new((config.process == 0).then(|| config.nonce.clone())),
        callers: AtomicUsize::new(0),
        done: AtomicBool::new(false),
        arrived,
    });
    let Some(listening) = listen(&hall, deadline, &asked_to_end)? else {
        return Ok(None);
    };
    let joined = join(&hall, &arrivals, deadline, &asked_to_end);
    hall.done.store(true, Ordering::Release);
    let _ = listening.join();
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

fn join(
    hall: &Hall,
    arrivals: &Receiver<(Purpose, usize, TcpStream)>,
    deadline: Instant,
    asked_to_end: &impl Fn() -> bool,
) -> Result<Option<Cluster>, ClusterError> {
    let config = &hall.config;
    let mut met: BTreeMap<(usize, Purpose), TcpStream> = BTreeMap::new();
    let mut log = WaitLog {
        since: Instant::now(),
        is_logged: false,
    };
    for to in 0..config.process {
        for purpose in [Purpose::Data, Purpose::Heartbeat] {
            let Some(socket) = call(hall, to, purpose, deadline, &mut log, asked_to_end)? else {
                return Ok(None);
            };
            met.insert((to, purpose), socket);
        }
    }
    let expected = 2 * (config.hosts.len() - 1);
    let missing = |met: &BTreeMap<(usize, Purpose), TcpStream>| {
        (0..config.hosts.len())
            .filter(|other| {
                *other != config.process && !met.contains_key(&(*other, Purpose::Heartbeat))
            })
            .map(|other| format!("process {other} at {}", config.hosts[other]))
            .collect::<Vec<_>>()
            .join(", ")
    };
    while met.len() < expected {
        log.check(|| missing(&met), config.patience);
        match arrivals.recv_timeout(RETRY) {
            // Of two calls of one process the later one counts: it was started anew.
            Ok((purpose, from, socket)) => drop(met.insert((from, purpose), socket)),
            Err(RecvTimeoutError::Timeout) if asked_to_end() => return Ok(None),
            Err(RecvTimeoutError::Timeout) if Instant::now() < deadline => {}
            Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                return Err(ClusterError::Late {
                    missing: missing(&met),
                    patience: config.patience,
                });
            }
        }
    }
    let mut take = |purpose| {
        (0..config.hosts.len())
            .map(|other| met.remove(&(other, purpose)))
            .collect()
    };
    Ok(Some(Cluster {
        data: take(Purpose::Data),
        heartbeat: take(Purpose::Heartbeat),
    }))
}

/// Calls a process until it answers, or the end is asked for.
fn call(
    hall: &Hall,
    to: usize,
    purpose: Purpose,
    deadline: Instant,
    log: &mut WaitLog,
    asked_to_end: &impl Fn() -> bool,
) -> Result<Option<TcpStream>, ClusterError> {
    let config = &hall.config;
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
            nonce: hall.nonce().clone(),
        };
        match greet(address, &hello) {
            Ok((socket, Answer::Welcome { nonce })) => {
                let mut known = hall.nonce();
                // Process 0 started anew between our two calls, if it is another one: the first
                // connection leads nowhere.
                if known.is_none() || known.as_ref() == Some(&nonce) {
                    *known = Some(nonce);
                    return Ok(Some(socket));
                }
                return Err(ClusterError::Anew {
                    process: to,
                    address: address.clone(),
                });
            }
            Ok((_, Answer::Anew)) => {
                return Err(ClusterError::Anew {
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
        if asked_to_end() {
            return Ok(None);
        }
        log.check(|| format!("process {to} at {address}"), config.patience);
        if Instant::now() + RETRY >= deadline {
            return Err(ClusterError::Late {
                missing: format!("process {to} at {address}"),
                patience: config.patience,
            });
        }
        thread::sleep(RETRY);
    }
}

fn greet(address: &str, hello: &Hello) -> std::io::Result<(TcpStream, Answer)> {
    let mut error = std::io::Error::other("the name leads nowhere");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, GREETING) {
            Ok(mut socket) => {
                socket.set_read_timeout(Some(GREETING))?;
                say(&mut socket, hello)?;
                let answer = hear(&socket)?;
                return Ok((socket, answer));
            }
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn say(socket: &mut TcpStream, what: &impl Serialize) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(what)?;
    line.push(b'\n');
    socket.write_all(&line)
}

/// Reads one line and not a byte beyond it: what follows is not ours.
fn hear<T: for<'de> Deserialize<'de>>(socket: &TcpStream) -> std::io::Result<T> {
    // One deadline for all of it: a caller who sends a byte now and then must not keep others out.
    let deadline = Instant::now() + GREETING;
    let (mut line, mut byte, mut socket) = (Vec::new(), [0], socket);
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() || line.len() >= LINE_BYTES {
            return Err(std::io::Error::other("no greeting"));
        }
        socket.set_read_timeout(Some(left))?;
        match socket.read(&mut byte)? {
            0 => return Err(std::io::Error::other("no greeting")),
            _ if byte == *b"\n" => return Ok(serde_json::from_slice(&line)?),
            _ => line.push(byte[0]),
        }
    }
}

/// Listens until the cluster is made.
fn listen(
    hall: &Arc<Hall>,
    deadline: Instant,
    asked_to_end: &impl Fn() -> bool,
) -> Result<Option<thread::JoinHandle<()>>, ClusterError> {
    let address = &hall.config.hosts[hall.config.process];
    let listener = loop {
        match TcpListener::bind(address) {
            Ok(listener) => break listener,
            Err(_) if asked_to_end() => return Ok(None),
            // The process before us may not be quite gone.
            Err(_) if Instant::now() + RETRY < deadline => thread::sleep(RETRY),
            Err(error) => {
                return Err(ClusterError::Listen {
                    address: address.clone(),
                    error,
                });
            }
        }
    };
    listener.set_nonblocking(true)?;
    let hall = Arc::clone(hall);
    let listening = thread::Builder::new().name("cluster".into()).spawn(move || {
        while !hall.done.load(Ordering::Acquire) {
            match listener.accept() {
                Ok((socket, from)) => {
                    if hall.callers.fetch_add(1, Ordering::AcqRel) >= CALLERS_AT_ONCE {
                        hall.callers.fetch_sub(1, Ordering::AcqRel);
                        continue;
                    }
                    let caller = Arc::clone(&hall);
                    let answered = thread::Builder::new().name("cluster caller".into()).spawn(move || {
                        if let Err(error) = answer(&caller, socket) {
                            tracing::warn!(%from, %error, "a unknown peer at the cluster's door; dropped");
                        }
                        caller.callers.fetch_sub(1, Ordering::AcqRel);
                    });
                    if answered.is_err() {
                        hall.callers.fetch_sub(1, Ordering::AcqRel);
                    }
                }
                Err(_) => thread::sleep(Duration::from_millis(5)),
            }
        }
    })?;
    Ok(Some(listening))
}

/// Hears a caller, and answers.
fn answer(hall: &Hall, mut socket: TcpStream) -> std::io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_read_timeout(Some(GREETING))?;
    socket.set_write_timeout(Some(GREETING))?;
    let hello: Hello = hear(&socket)?;
    let config = &hall.config;
    let refusal = if hello.tapeflow_cluster != VERSION {
        Some(format!(
            "it speaks version {VERSION} of the handshake, not {}",
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
            "process {} has nothing to ask of process {}",
            hello.from, config.process
        ))
    } else {
        None
    };
    if let Some(reason) = refusal {
        tracing::warn!(
            from = hello.from,
            reason,
            "a caller at the cluster's door refused"
        );
        return say(&mut socket, &Answer::Refused { reason });
    }
    let known = hall.nonce().clone();
    match known {
        // Only process 0 gives the nonce away, and only to one who has none yet.
        Some(nonce)
            if hello
                .nonce
                .as_ref()
                .map_or(config.process == 0, |theirs| *theirs == nonce) =>
        {
            say(&mut socket, &Answer::Welcome { nonce })?;
            // Nobody listens any more if the cluster has failed.
            let _ = hall.arrived.send((hello.purpose, hello.from, socket));
            Ok(())
        }
        Some(_) if config.process == 0 => say(&mut socket, &Answer::Anew),
        _ => say(&mut socket, &Answer::NotYet),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Free ports of loopback. Another program may take one before it is used; then the test says
    /// so by failing to listen.
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
            patience: Duration::from_secs(20),
        }
    }

    fn start(config: ClusterConfig) -> thread::JoinHandle<Result<Cluster, ClusterError>> {
        thread::spawn(move || {
            connect(&config, || false).map(|cluster| cluster.expect("nobody asked for the end"))
        })
    }

    /// Every pair can speak over both of its connections, each way, and hears the right one.
    fn check(mut meshes: Vec<Cluster>) {
        let count = meshes.len();
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
                    let said = [u8::try_from(10 * from + to).expect("small")];
                    pick(&mut meshes[from], to).write_all(&said).expect("said");
                    let mut heard = [0];
                    pick(&mut meshes[to], from)
                        .read_exact(&mut heard)
                        .expect("heard");
                    assert_eq!(heard, said, "{from} to {to}, {purpose:?}");
                }
            }
        }
        assert!(
            (0..count)
                .all(|own| meshes[own].data[own].is_none() && meshes[own].heartbeat[own].is_none())
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
    fn unknown_peers_are_dropped_and_harm_nobody() {
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
    fn callers_who_dawdle_keep_nobody_out() {
        let hosts = hosts(2);
        let zero = start(config(&hosts, 0));
        let over = Arc::new(AtomicBool::new(false));
        let dawdlers: Vec<_> = (0..CALLERS_AT_ONCE)
            .map(|_| {
                let (host, over) = (hosts[0].clone(), Arc::clone(&over));
                thread::spawn(move || {
                    while !over.load(Ordering::Acquire) {
                        if let Ok(mut socket) = TcpStream::connect(&host) {
                            while !over.load(Ordering::Acquire) && socket.write_all(b"x").is_ok() {
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
        let met = vec![
            zero.join().expect("no panic").expect("connected"),
            one.join().expect("no panic").expect("connected"),
        ];
        over.store(true, Ordering::Release);
        dawdlers
            .into_iter()
            .for_each(|dawdler| dawdler.join().expect("no panic"));
        check(met);
    }

    /// A process that waits until `end` is set.
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
                "who was refused is not let in"
            );
        }
    }

    #[test]
    fn a_process_that_stays_alone_says_who_is_missing() {
        let hosts = hosts(3);
        for (process, missing) in [(0, &hosts[1..]), (2, &hosts[..1])] {
            let error = connect(
                &ClusterConfig {
                    patience: Duration::from_millis(300),
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
        let patience = Duration::from_secs(20);
        let mut early = WaitLog {
            since: Instant::now(),
            is_logged: false,
        };
        early.check(|| unreachable!("too early"), patience);
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
            late.check(missing, patience);
        }
        assert_eq!(said, 1);
    }

    #[test]
    fn a_process_that_calls_again_takes_the_place_of_its_earlier_self() {
        let hosts = hosts(3);
        let zero = start(config(&hosts, 0));
        // The earlier self of process 1 joins and dies.
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
            if let Ok((_, Answer::Welcome { nonce })) = greet(&hosts[0], &hello) {
                assert_eq!(nonce, "nonce of 0");
                break;
            }
            thread::sleep(Duration::from_millis(5));
        }
        let others: Vec<_> = [1, 2].map(|process| start(config(&hosts, process))).into();
        let mut meshes = vec![zero.join().expect("no panic").expect("connected")];
        meshes.extend(
            others
                .into_iter()
                .map(|thread| thread.join().expect("no panic").expect("connected")),
        );
        check(meshes);
    }

    #[test]
    fn a_process_that_is_asked_to_end_waits_for_nobody() {
        let hosts = hosts(2);
        for process in [0, 1] {
            let met = connect(&config(&hosts, process), || true).expect("no error");
            assert!(met.is_none());
        }
    }

    #[test]
    fn a_process_of_another_incarnation_is_not_let_in() {
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
            if let Ok((_, answer)) = greet(&hosts[0], &hello) {
                break answer;
            }
            thread::sleep(Duration::from_millis(5));
        };
        assert!(matches!(answer, Answer::Anew), "{answer:?}");
        end.store(true, Ordering::Release);
        assert!(zero.join().expect("no panic").expect("no error").is_none());
    }
}
