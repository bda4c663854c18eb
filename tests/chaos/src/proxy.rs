//! A TCP proxy that can do to connections what networks do: cut them, go silent in one direction
//! for ever, delay, and swallow for a while what then comes after all.
//!
//! What is *black-holed* is held and comes later, as with packets that are sent again; what goes
//! into a *half-open* connection is lost, and so nothing ever goes that way again on this
//! connection, not even its end: a stream with a hole would be no fault that TCP knows.

use std::{
    future::pending,
    io,
    net::{SocketAddr, TcpListener as Bound},
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    runtime::Handle,
    sync::{mpsc, watch},
    task::{JoinHandle, JoinSet},
    time::{Instant, sleep, sleep_until},
};

use crate::owner;

/// How long a side is kept that has not been told of the other side's end.
const UNTOLD: Duration = Duration::from_secs(60);
/// Read in one go.
const BYTES: usize = 16_384;
/// Pieces under way in a direction; then the reader waits.
const PIECES: usize = 64;

/// Where bytes go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    /// From the client.
    ToServer,
    /// To the client.
    ToClient,
}

/// A fault of connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Harm {
    /// All there are, and all that come, are reset.
    Cut,
    /// Whatever goes in this direction vanishes, for as long as the connection lasts; ends are not
    /// passed on either.
    HalfOpen(Direction),
    /// Everything comes so much later, in both directions.
    Delay(Duration),
    /// Nothing passes, in both directions, until it is over.
    BlackHole,
}

/// What holds for the connections of a link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Rule {
    pub(crate) harm: Option<Harm>,
    /// Only what this process has connected; all connections, if none.
    pub(crate) of: Option<u32>,
    /// Each rule has another one.
    pub(crate) serial: u64,
}

/// A listening proxy; it and its connections end when dropped.
pub(crate) struct Proxy(JoinHandle<()>);

impl Drop for Proxy {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Listens at `at` and opens a connection to `to` for each client.
///
/// # Errors
/// It cannot listen.
pub(crate) fn listen(
    runtime: &Handle,
    at: SocketAddr,
    to: SocketAddr,
    rules: watch::Receiver<Rule>,
) -> io::Result<Proxy> {
    let bound = Bound::bind(at)?;
    bound.set_nonblocking(true)?;
    let _entered = runtime.enter();
    let listener = TcpListener::from_std(bound)?;
    Ok(Proxy(runtime.spawn(serve(listener, at, to, rules))))
}

async fn serve(
    listener: TcpListener,
    at: SocketAddr,
    to: SocketAddr,
    rules: watch::Receiver<Rule>,
) {
    // All are aborted when this is.
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((client, from)) => {
                    let inode = owner::inode(from, at);
                    // The readers are part of this process.
                    let exempt = inode.is_some_and(|inode| owner::holds(std::process::id(), inode));
                    connections.spawn(carry(client, to, View { rules: rules.clone(), inode, exempt, checked: None }));
                }
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The rule as it concerns one connection.
#[derive(Clone)]
struct View {
    rules: watch::Receiver<Rule>,
    inode: Option<u64>,
    exempt: bool,
    /// What the rule of a serial means for it: whose it is need not be asked twice.
    checked: Option<(u64, Option<Harm>)>,
}

impl View {
    fn harm(&mut self) -> Option<Harm> {
        let rule = *self.rules.borrow_and_update();
        if let Some((serial, harm)) = self.checked
            && serial == rule.serial
        {
            return harm;
        }
        let concerned = !self.exempt
            && rule
                .of
                .is_none_or(|pid| self.inode.is_some_and(|inode| owner::holds(pid, inode)));
        let harm = rule.harm.filter(|_| concerned);
        self.checked = Some((rule.serial, harm));
        harm
    }

    fn is_deaf(&mut self, direction: Direction) -> bool {
        self.harm() == Some(Harm::HalfOpen(direction))
    }

    /// Waits until the harm is such; for ever, if there will be no other rule.
    async fn until(&mut self, such: impl Fn(Option<Harm>) -> bool) {
        while !such(self.harm()) {
            if self.rules.changed().await.is_err() {
                pending::<()>().await;
            }
        }
    }
}

/// Carries one connection to its end.
async fn carry(mut client: TcpStream, to: SocketAddr, mut view: View) {
    let server = if view.harm() == Some(Harm::Cut) {
        None
    } else {
        TcpStream::connect(to).await.ok()
    };
    let Some(mut server) = server else {
        let _ = client.set_zero_linger();
        return;
    };
    let _ = client
        .set_nodelay(true)
        .and_then(|()| server.set_nodelay(true));
    let is_cut = {
        let ((client_in, client_out), (server_in, server_out)) = (client.split(), server.split());
        let there = flow(client_in, server_out, Direction::ToServer, view.clone());
        let back = flow(server_in, client_out, Direction::ToClient, view.clone());
        tokio::select! {
            () = view.until(|harm| harm == Some(Harm::Cut)) => true,
            _ = async { tokio::join!(there, back) } => false,
        }
    };
    if is_cut {
        let _ = client
            .set_zero_linger()
            .and_then(|()| server.set_zero_linger());
    }
}

/// Carries one direction to its end.
async fn flow(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, direction: Direction, mut view: View) {
    let (pieces, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(PIECES);
    let mut gate = view.clone();
    let reading = async move {
        let (mut buffer, mut deaf, mut due) = (vec![0; BYTES], false, Instant::now());
        while let Ok(count @ 1..) = from.read(&mut buffer).await {
            deaf |= view.is_deaf(direction);
            if deaf {
                continue;
            }
            let delay = if let Some(Harm::Delay(delay)) = view.harm() {
                delay
            } else {
                Duration::ZERO
            };
            due = due.max(Instant::now() + delay);
            if pieces.send((due, buffer[..count].to_vec())).await.is_err() {
                break;
            }
        }
        deaf | view.is_deaf(direction)
    };
    let writing = async {
        while let Some((due, piece)) = arriving.recv().await {
            sleep_until(due).await;
            gate.until(|harm| harm != Some(Harm::BlackHole)).await;
            if to.write_all(&piece).await.is_err() {
                // A peer that still sends gets an error.
                arriving.close();
                return;
            }
        }
        gate.until(|harm| harm != Some(Harm::BlackHole)).await;
    };
    let (deaf, ()) = tokio::join!(reading, writing);
    if deaf {
        sleep(UNTOLD).await;
    }
    let _ = to.shutdown().await;
}

#[cfg(test)]
mod tests {
    use std::process::{Child, Command, Stdio};

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_millis(300);
    const LONG: Duration = Duration::from_secs(10);

    /// A connection of another process through a proxy: a shell whose standard input and output are
    /// the socket's two directions.
    struct World {
        rules: watch::Sender<Rule>,
        _proxy: Proxy,
        client: Child,
        server: TcpStream,
    }

    impl World {
        async fn begin() -> Self {
            let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            let free = Bound::bind("127.0.0.1:0")
                .expect("a port")
                .local_addr()
                .expect("an address");
            let (rules, observed) = watch::channel(Rule::default());
            let proxy = listen(
                &Handle::current(),
                free,
                server.local_addr().expect("an address"),
                observed,
            )
            .expect("a proxy");
            let script = format!(
                "exec 3<>/dev/tcp/127.0.0.1/{}; cat <&3 & cat >&3",
                free.port()
            );
            let client = Command::new("bash")
                .args(["-c", &script])
                .stdin(Stdio::piped())
                .stdout(Stdio::piped())
                .stderr(Stdio::null())
                .spawn();
            let (server, _) = server.accept().await.expect("a connection");
            Self {
                rules,
                _proxy: proxy,
                client: client.expect("a shell"),
                server,
            }
        }

        fn rule(&self, harm: Option<Harm>, of: Option<u32>) {
            self.rules.send_modify(|rule| {
                *rule = Rule {
                    harm,
                    of,
                    serial: rule.serial + 1,
                }
            });
        }

        fn send(&mut self, text: &str) {
            use std::io::Write;
            let input = self.client.stdin.as_mut().expect("an input");
            input
                .write_all(text.as_bytes())
                .and_then(|()| input.flush())
                .expect("a shell that listens");
        }

        /// What the server hears within a time.
        async fn received(&mut self, within: Duration) -> Option<String> {
            let mut buffer = [0; 64];
            let count = timeout(within, self.server.read(&mut buffer)).await.ok()?;
            Some(count.map_or_else(
                |fault| format!("{:?}", fault.kind()),
                |count| String::from_utf8_lossy(&buffer[..count]).into_owned(),
            ))
        }
    }

    impl Drop for World {
        fn drop(&mut self) {
            let _ = self.client.kill().and_then(|()| self.client.wait());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_falls_into_a_black_hole_comes_when_it_is_over_and_what_is_delayed_comes_late() {
        let mut world = World::begin().await;
        world.send("a");
        assert_eq!(world.received(LONG).await.as_deref(), Some("a"));
        world.rule(Some(Harm::BlackHole), None);
        world.send("b");
        assert_eq!(world.received(SOON).await, None);
        world.rule(None, None);
        assert_eq!(world.received(LONG).await.as_deref(), Some("b"));
        world.rule(Some(Harm::Delay(SOON * 2)), None);
        world.send("c");
        assert_eq!(world.received(SOON).await, None);
        assert_eq!(world.received(LONG).await.as_deref(), Some("c"));
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_half_open_connection_stays_deaf_in_one_direction_and_tells_no_end() {
        let mut world = World::begin().await;
        world.rule(Some(Harm::HalfOpen(Direction::ToClient)), None);
        world.send("a");
        assert_eq!(
            world.received(LONG).await.as_deref(),
            Some("a"),
            "the other direction is open"
        );
        world.rule(Some(Harm::HalfOpen(Direction::ToServer)), None);
        world.send("b");
        assert_eq!(world.received(SOON).await, None);
        world.rule(None, None);
        world.send("c");
        assert_eq!(
            world.received(SOON).await,
            None,
            "it stays so on this connection"
        );
        world.client.kill().expect("a shell");
        assert_eq!(world.received(SOON).await, None, "and its end is not told");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_cut_connection_is_reset_and_a_rule_for_another_process_changes_nothing() {
        let mut world = World::begin().await;
        world.rule(Some(Harm::Cut), Some(std::process::id()));
        world.send("a");
        assert_eq!(world.received(LONG).await.as_deref(), Some("a"));
        // Its `cat` holds the socket too, so it is the shell's own process that is named.
        world.rule(Some(Harm::Cut), Some(world.client.id()));
        assert_eq!(
            world.received(LONG).await.as_deref(),
            Some("ConnectionReset")
        );
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn connections_of_this_process_are_spared() {
        let server = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let free = Bound::bind("127.0.0.1:0")
            .expect("a port")
            .local_addr()
            .expect("an address");
        let (_rules, observed) = watch::channel(Rule {
            harm: Some(Harm::Cut),
            of: None,
            serial: 1,
        });
        let _proxy = listen(
            &Handle::current(),
            free,
            server.local_addr().expect("an address"),
            observed,
        )
        .expect("a proxy");
        let mut client = TcpStream::connect(free).await.expect("a connection");
        let (mut served, _) = server.accept().await.expect("a connection");
        client.write_all(b"a").await.expect("an open connection");
        let mut buffer = [0; 1];
        served
            .read_exact(&mut buffer)
            .await
            .expect("an open connection");
        assert_eq!(&buffer, b"a");
    }
}
