//! The cluster handshake: connects the processes of a job with each other.
//!
//! Timely's own handshake is one raw integer. A port scan can crash its listener, two jobs can be
//! connected with each other, and so can a process of an earlier incarnation with a new one. Here
//! both sides first prove that they know the job's secret ([`super::link`]); what follows is
//! encrypted and cannot be changed on its way. Then one line of JSON names the caller, the called
//! process, the job and its incarnation:
//!
//! ```text
//!  process 0                              draws a nonce n when it starts to listen
//!  process i to process 0:                hello(job, i → 0)     ◀── welcome(n)
//!  process i to process j, 0 < j < i:     hello(job, i → j, n)  ◀── welcome(n), or a refusal
//!                                                                   if j has another nonce
//! ```
//!
//! Each pair of processes has two links: one for timely's data and one for the
//! [heartbeat](super::heartbeat). An unknown peer, which proves no secret and sends no valid hello
//! within [`HELLO_TIMEOUT`], is disconnected without a word, and logged. A process that was
//! restarted meanwhile and connects again replaces its earlier link. All steps have a common
//! deadline; after it the process exits, and a supervisor restarts all processes of the job.
//!
//! Without a secret nothing is proven or encrypted. The command line allows that on loopback alone,
//! where every user of the machine may call.

use std::{
    collections::BTreeMap,
    io::{ErrorKind, Read, Write},
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
use tapeflow_schemas::Secret;

use super::{
    keys::Keys,
    link::{End, Link, left},
};

/// The version of the handshake, and of what processes of one job send each other after it.
const VERSION: u32 = 3;
/// The time that a caller has for its hello, and a listener for its answer.
const HELLO_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest line of the handshake, in bytes.
const MAX_LINE_BYTES: usize = 4_096;
/// The longest reason of a refusal, in characters. In JSON a character has up to six bytes, so its
/// line is one that a caller reads.
const MAX_REASON_CHARS: usize = 600;
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
    /// What every process must prove to know; `None` on loopback alone.
    pub(crate) secret: Option<Secret>,
    /// How long the processes wait for each other.
    pub(crate) timeout: Duration,
}

/// The connections to all other processes, by their number; `None` at the own number.
pub(crate) struct Cluster {
    pub(crate) data: Vec<Option<Link>>,
    pub(crate) heartbeat: Vec<Option<Link>>,
    /// The nonce of process 0: the owner that the checkpoint will name.
    pub(crate) nonce: String,
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
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
    keys: Option<Keys>,
    /// The nonce of process 0, once it is known.
    nonce: Mutex<Option<String>>,
    callers: AtomicUsize,
    done: AtomicBool,
    arrived: Sender<(Purpose, usize, Link)>,
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
    let keys = config.secret.as_ref().map(Keys::derive).transpose();
    let state = Arc::new(State {
        config: config.clone(),
        keys: keys.map_err(std::io::Error::other)?,
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
    for link in cluster.data.iter().chain(&cluster.heartbeat).flatten() {
        link.set_nodelay()?;
        link.set_read_timeout(None)?;
        link.set_write_timeout(None)?;
    }
    Ok(Some(cluster))
}

/// Calls the processes with lower numbers, and waits for the calls of the others.
fn join_all(
    state: &State,
    arrivals: &Receiver<(Purpose, usize, Link)>,
    deadline: Instant,
    stop_requested: &impl Fn() -> bool,
) -> Result<Option<Cluster>, ClusterError> {
    let config = &state.config;
    let mut connected: BTreeMap<(usize, Purpose), Link> = BTreeMap::new();
    let mut log = WaitLog {
        since: Instant::now(),
        is_logged: false,
    };
    for to in 0..config.process {
        for purpose in [Purpose::Data, Purpose::Heartbeat] {
            let Some(link) = call(state, (to, purpose), deadline, &mut log, stop_requested)? else {
                return Ok(None);
            };
            connected.insert((to, purpose), link);
        }
    }
    let expected = 2 * (config.hosts.len() - 1);
    let missing = |connected: &BTreeMap<(usize, Purpose), Link>| {
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
            Ok((purpose, from, link)) => drop(connected.insert((from, purpose), link)),
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
    let nonce = state.nonce().clone().unwrap_or_default();
    let mut take = |purpose| {
        (0..config.hosts.len())
            .map(|other| connected.remove(&(other, purpose)))
            .collect()
    };
    Ok(Some(Cluster {
        data: take(Purpose::Data),
        heartbeat: take(Purpose::Heartbeat),
        nonce,
    }))
}

/// Calls a process until it answers; `None` if a stop is requested first.
fn call(
    state: &State,
    (to, purpose): (usize, Purpose),
    deadline: Instant,
    log: &mut WaitLog,
    stop_requested: &impl Fn() -> bool,
) -> Result<Option<Link>, ClusterError> {
    let config = &state.config;
    let address = &config.hosts[to];
    let mut missing = format!("process {to} at {address}");
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
        match send_hello(address, state.keys.as_ref(), &hello) {
            Ok((link, Answer::Welcome { nonce })) => {
                let mut known = state.nonce();
                // Another nonce means that process 0 was restarted between the two calls, so the
                // first connection is useless.
                if known.is_none() || known.as_ref() == Some(&nonce) {
                    *known = Some(nonce);
                    return Ok(Some(link));
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
            Err(error) if error.kind() == ErrorKind::InvalidData => {
                missing = format!(
                    "process {to} at {address} (no handshake: {error}; all processes of a job need \
                     the same --cluster-secret-file)"
                );
            }
            Ok((_, Answer::NotYet)) | Err(_) => {}
        }
        if stop_requested() {
            return Ok(None);
        }
        log.check(|| missing.clone(), config.timeout);
        if Instant::now() + RETRY_INTERVAL >= deadline {
            return Err(ClusterError::Timeout {
                missing,
                timeout: config.timeout,
            });
        }
        thread::sleep(RETRY_INTERVAL);
    }
}

/// Connects, proves the secret, sends the hello and waits for the answer.
///
/// # Errors
/// [`ErrorKind::InvalidData`] if something answers that does not speak as a process of this job.
fn send_hello(
    address: &str,
    keys: Option<&Keys>,
    hello: &Hello,
) -> std::io::Result<(Link, Answer)> {
    let mut error = std::io::Error::other("the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, HELLO_TIMEOUT) {
            Ok(socket) => {
                let deadline = Instant::now() + HELLO_TIMEOUT;
                socket.set_write_timeout(Some(HELLO_TIMEOUT))?;
                let mut link = Link::establish(socket, keys, End::Caller, deadline)?;
                write_line(&mut link, hello)?;
                let answer = read_line(&mut link, deadline)?;
                return Ok((link, answer));
            }
            Err(refused) => error = refused,
        }
    }
    Err(error)
}

fn write_line(link: &mut Link, message: &impl Serialize) -> std::io::Result<()> {
    link.write_all(&to_line(message)?)
}

/// A message as one line, with its end.
fn to_line(message: &impl Serialize) -> std::io::Result<Vec<u8>> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    Ok(line)
}

/// The message of a line, without its end.
fn of_line<T: for<'de> Deserialize<'de>>(line: &[u8]) -> serde_json::Result<T> {
    serde_json::from_slice(line)
}

/// Reads one line and no byte beyond it: the following bytes belong to timely. One deadline for the
/// whole line: a caller that sends a byte now and then must not block others.
fn read_line<T: for<'de> Deserialize<'de>>(
    link: &mut Link,
    deadline: Instant,
) -> std::io::Result<T> {
    let invalid = |why| std::io::Error::new(ErrorKind::InvalidData, why);
    let (mut line, mut byte) = (Vec::new(), [0]);
    loop {
        link.set_read_timeout(Some(left(deadline)?))?;
        match link.read(&mut byte)? {
            _ if line.len() >= MAX_LINE_BYTES => return Err(invalid("its line is too long")),
            0 => return Err(invalid("it closes the connection")),
            _ if byte == *b"\n" => {
                return of_line(&line).map_err(|_| invalid("its line is no message"));
            }
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

/// Has a caller prove the secret, reads its hello and answers it. A caller without the secret hears
/// nothing. A refusal gives its reason, which only a process of the job can hear.
fn answer(state: &State, socket: TcpStream) -> std::io::Result<()> {
    let deadline = Instant::now() + HELLO_TIMEOUT;
    socket.set_nonblocking(false)?;
    socket.set_write_timeout(Some(HELLO_TIMEOUT))?;
    let mut link = Link::establish(socket, state.keys.as_ref(), End::Listener, deadline)?;
    let hello: Hello = read_line(&mut link, deadline)?;
    let answer = answer_to(&hello, &state.config, state.nonce().as_deref());
    if let Answer::Refused { reason } = &answer {
        tracing::warn!(
            from = hello.from,
            reason,
            "peer rejected: it does not belong to this job"
        );
    }
    write_line(&mut link, &answer)?;
    if matches!(answer, Answer::Welcome { .. }) {
        // The receiver is gone if this process has failed to connect.
        let _ = state.arrived.send((hello.purpose, hello.from, link));
    }
    Ok(())
}

/// What a process answers to a hello. `known` is the nonce of process 0, once it is known.
fn answer_to(hello: &Hello, config: &ClusterConfig, known: Option<&str>) -> Answer {
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
        let reason = reason.chars().take(MAX_REASON_CHARS).collect();
        return Answer::Refused { reason };
    }
    match known {
        // Only process 0 tells the nonce, and only to a caller without one.
        Some(nonce)
            if hello
                .nonce
                .as_ref()
                .map_or(config.process == 0, |theirs| theirs == nonce) =>
        {
            Answer::Welcome {
                nonce: nonce.to_owned(),
            }
        }
        Some(_) if config.process == 0 => Answer::Outdated,
        _ => Answer::NotYet,
    }
}

#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
#[cfg(test)]
pub(super) mod tests;
