//! The simulated server: listens on this machine, assigns each connection its fault, and counts.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tapeflow_schemas::Secret;
use tokio::{
    net::TcpListener,
    sync::watch,
    task::{JoinHandle, JoinSet},
};
use tracing::{debug, info};

use super::{
    connection,
    faults::Faults,
    generate::{Clock, Generator, GeneratorConfig, Popularity, Selection},
    history::{HeldHistory, Rounds},
    market,
};
use crate::clock::now_ms;

/// Settings of the simulated server.
#[derive(Clone, Debug)]
pub struct SimulatorConfig {
    /// Where to listen: a loopback address. Port 0 takes a free port.
    pub bind: SocketAddr,
    /// The token of clients; any other is answered with 401.
    pub token: Secret,
    /// The same seed gives the same market.
    pub seed: u64,
    /// The market's symbols, the most traded first.
    pub symbols: Vec<String>,
    /// The symbols' shares of the trades.
    pub popularity: Popularity,
    /// The event times of the trades.
    pub clock: Clock,
    /// Trades a second for a connection with subscriptions; `None` sends as fast as the client
    /// reads.
    pub trades_per_second: Option<f64>,
    /// Trades sent in all, to all connections together; then only pings follow. `None` for no end.
    pub trades: Option<u64>,
    /// The time between two pings. Finnhub's come about once a minute.
    pub ping_every: Duration,
    /// Injected faults.
    pub faults: Faults,
}

impl Default for SimulatorConfig {
    /// Two hundred symbols and a thousand trades a second, without connection faults.
    fn default() -> Self {
        Self {
            bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
            token: Secret::new("simulated"),
            seed: 1,
            symbols: market::symbols(200),
            popularity: Popularity::Zipf(1.0),
            clock: Clock::Wall,
            trades_per_second: Some(1_000.0),
            trades: None,
            ping_every: Duration::from_secs(60),
            faults: Faults::default(),
        }
    }
}

/// Counts of the server so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SimulatorStats {
    /// Accepted connections, with those that were refused later.
    pub connections: u64,
    /// Accepted subscriptions.
    pub subscriptions: u64,
    /// Frames sent whole, with pings and errors.
    pub frames: u64,
    /// Trades of frames sent whole; a frame sent twice counts once.
    pub trades: u64,
    /// Entries of size zero in such frames, which are no trades.
    pub price_updates: u64,
}

/// A running server. Dropping it stops the server.
#[derive(Debug)]
pub struct Simulator {
    address: SocketAddr,
    state: Arc<State>,
    task: JoinHandle<()>,
}

impl Simulator {
    /// Starts listening.
    ///
    /// # Errors
    /// The address is in use or not a loopback address; the faults are not shares.
    pub async fn start(config: SimulatorConfig) -> io::Result<Self> {
        if !config.bind.ip().is_loopback() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the simulated server listens on this machine only: \
                 give an address such as 127.0.0.1:0",
            ));
        }
        config.faults.frames.check()?;
        let listener = TcpListener::bind(config.bind).await?;
        let address = listener.local_addr()?;
        let state = Arc::new(State::new(config));
        info!(%address, symbols = state.config.symbols.len(), "simulated feed listens");
        let task = tokio::spawn(accept(listener, Arc::clone(&state)));
        Ok(Self {
            address,
            state,
            task,
        })
    }

    /// The address it listens on.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address for a client.
    #[must_use]
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// The token of clients.
    #[must_use]
    pub fn token(&self) -> Secret {
        self.state.config.token.clone()
    }

    /// Moves the prices to where the history of this market ends, without its trades: for a log
    /// that holds the history of an earlier start.
    pub async fn skip_history(&self) {
        let market = self.market();
        let skipped = tokio::task::spawn_blocking(move || {
            market.generate_history(None, |_| true);
        });
        if skipped.await.is_err() {
            debug!("prices were not moved to the end of the history: the runtime is ending");
        }
    }

    pub(crate) fn market(&self) -> Arc<State> {
        Arc::clone(&self.state)
    }

    /// The counts so far.
    #[must_use]
    pub fn stats(&self) -> SimulatorStats {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let counters = &self.state.counters;
        SimulatorStats {
            connections: read(&counters.connections),
            subscriptions: read(&counters.subscriptions),
            frames: read(&counters.frames),
            trades: read(&counters.trades),
            price_updates: read(&counters.price_updates),
        }
    }
}

impl Drop for Simulator {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<State>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let number = state.counters.connections.fetch_add(1, Ordering::Relaxed);
                    let state = Arc::clone(&state);
                    connections.spawn(async move {
                        let ended = connection::serve(stream, number, &state).await;
                        let error = ended.err().map(|error| error.to_string());
                        debug!(number, error, "simulated connection ends");
                    });
                }
                // Such as too many open files. The server continues.
                Err(error) => {
                    debug!(%error, "simulated feed cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            },
            Some(_) = connections.join_next() => {}
        }
    }
}

/// The state that all connections share.
#[derive(Debug)]
pub(crate) struct State {
    pub(super) config: SimulatorConfig,
    pub(super) counters: Counters,
    market: Mutex<Market>,
    open: AtomicUsize,
    /// A change drops all open connections.
    pub(super) drop_all: watch::Sender<u64>,
}

#[derive(Debug, Default)]
pub(super) struct Counters {
    connections: AtomicU64,
    pub(super) subscriptions: AtomicU64,
    pub(super) frames: AtomicU64,
    pub(super) trades: AtomicU64,
    pub(super) price_updates: AtomicU64,
}

#[derive(Debug)]
struct Market {
    generator: Generator,
    left: u64,
}

/// The next frame for one connection.
pub(super) enum NextFrame {
    /// A frame.
    Frame {
        text: String,
        /// The number of its entries.
        entries: u64,
        /// Those of size zero.
        price_updates: u64,
    },
    /// All trades of [`SimulatorConfig::trades`] are sent.
    Exhausted,
}

impl State {
    fn new(config: SimulatorConfig) -> Self {
        let generator = Generator::new(GeneratorConfig {
            seed: config.seed,
            symbols: config.symbols.clone(),
            popularity: config.popularity,
            clock: config.clock,
            faults: config.faults.frames,
        });
        let market = Mutex::new(Market {
            generator,
            left: config.trades.unwrap_or(u64::MAX),
        });
        Self {
            config,
            counters: Counters::default(),
            market,
            open: AtomicUsize::new(0),
            drop_all: watch::channel(0).0,
        }
    }

    pub(super) fn select(&self, subscribed: impl Fn(&str) -> bool) -> Selection {
        self.market
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .generator
            .select(subscribed)
    }

    /// The market's next frame for a selection. Its trades count as sent, whether they arrive or
    /// not.
    pub(super) fn next_frame(&self, selection: &Selection, limit: u64) -> NextFrame {
        let mut market = self.market.lock().unwrap_or_else(PoisonError::into_inner);
        if market.left == 0 {
            return NextFrame::Exhausted;
        }
        let mut text = String::with_capacity(1024);
        let limit = limit.min(market.left);
        let before = market.generator.price_updates();
        let entries = market
            .generator
            .next_frame_of(selection, now_ms(), limit, &mut text);
        market.left -= entries;
        NextFrame::Frame {
            text,
            entries,
            price_updates: market.generator.price_updates() - before,
        }
    }

    /// Generates the history up to now, round by round, after what the log holds of it. `each`
    /// gets the frames of a round and ends the history early by returning false. Returns whether
    /// the end was reached.
    pub(crate) fn generate_history(
        &self,
        held: Option<HeldHistory>,
        mut each: impl FnMut(Vec<String>) -> bool,
    ) -> bool {
        let mut rounds = Rounds::new(now_ms(), held);
        loop {
            // Released before `each`, which may wait for the log.
            let frames = {
                let mut market = self.market.lock().unwrap_or_else(PoisonError::into_inner);
                let rate = self.config.trades_per_second;
                rounds.next(&mut market.generator, rate, now_ms())
            };
            let Some(frames) = frames else { return true };
            if !each(frames) {
                return false;
            }
        }
    }

    /// True in this share of the calls, drawn from the market's seed.
    pub(super) fn chance(&self, share: f64) -> bool {
        self.market
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .generator
            .chance(share)
    }

    /// Counts a connection as open until the guard is dropped. Returns whether it is the only one.
    pub(super) fn enter(&self) -> (Open<'_>, bool) {
        let before = self.open.fetch_add(1, Ordering::AcqRel);
        (Open(&self.open), before == 0)
    }
}

/// Counts one open connection.
pub(super) struct Open<'a>(&'a AtomicUsize);

impl Drop for Open<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}
