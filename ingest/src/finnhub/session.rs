//! What the client does next: a state machine without sockets, with `now` as a parameter.
//!
//! ```text
//!          poll: Connect              handle_connected
//!  Waiting ──────────────▶ Connecting ────────────────▶ Open ──▶ poll: Send(subscribe) each symbol
//!     ▲                        │ handle_refused, time-out │ handle_closed, silence
//!     └──────── back-off ──────┴──────────────────────────┘
//! ```
//!
//! The caller runs the commands of [`Session::poll`] until there is none. Then it waits for the
//! socket or for [`Session::deadline`], whichever comes first. Finnhub neither acknowledges nor
//! replays, so each new connection subscribes to all symbols again.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// The time limits of the client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// An open connection that brings no message for this long is closed. Finnhub pings once a
    /// minute, and it sometimes stalls with the socket open. 150 s has proven itself.
    pub silence: Duration,
    /// How long connecting, TLS and handshake together may take.
    pub connect: Duration,
    /// The first back-off, doubled at each consecutive failure.
    pub first_delay: Duration,
    /// The longest back-off.
    pub longest_delay: Duration,
    /// A connection that lived this long was a success: the next back-off is [`Self::first_delay`].
    pub settled_after: Duration,
    /// Refusals of a token that worked before which count as an incident of the server.
    pub refusals_tolerated: u32,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            silence: Duration::from_secs(150),
            connect: Duration::from_secs(15),
            first_delay: Duration::from_millis(500),
            longest_delay: Duration::from_secs(30),
            settled_after: Duration::from_secs(30),
            refusals_tolerated: 5,
        }
    }
}

/// What the caller must do now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Command {
    /// Connect, and report the outcome.
    Connect,
    /// Send this text.
    Send(String),
    /// Drop the connection, or the attempt at one.
    Disconnect(DisconnectReason),
    /// End: waiting does not help.
    Fail(SessionError),
}

/// Why the client closes a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisconnectReason {
    /// No message arrived for [`Timing::silence`].
    Silence,
    /// Connecting took longer than [`Timing::connect`].
    ConnectTimeout,
}

/// How the server refused a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// HTTP 401: the token is unknown.
    #[error("token refused (HTTP 401)")]
    Unauthorized,
    /// A status other than 101. During incidents Finnhub answers 200.
    #[error("HTTP {0} instead of 101")]
    Status(u16),
    /// Status 101 without a valid WebSocket handshake.
    #[error("no WebSocket handshake: {0}")]
    NotWebSocket(&'static str),
    /// No connection.
    #[error("cannot connect: {0}")]
    Unreachable(String),
}

/// Why the session ends for good.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The token is refused.
    #[error("the server refuses the token (HTTP 401): check the token file")]
    TokenRefused,
    /// The server does not know any of the symbols.
    #[error(
        "no symbol is left to subscribe to: the server knows none of them, the last was {last:?}"
    )]
    NoSymbolLeft {
        /// The last one refused.
        last: String,
    },
}

/// An error message of the provider.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProviderError {
    /// More symbols than the plan allows. The message does not name the symbols that were left
    /// out. This connection subscribes to no more.
    TooManySymbols,
    /// The symbol does not exist. No connection subscribes to it again.
    InvalidSymbol(String),
    /// Any other message.
    Other,
}

/// How often connections drop, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drops {
    /// A single drop is routine.
    Routine,
    /// Several consecutive connections dropped soon after they opened. Another client may be using
    /// the same token: each of the two makes the other drop.
    Repeated,
}

#[derive(Debug)]
enum State {
    Waiting {
        until: Instant,
    },
    Connecting {
        until: Instant,
    },
    Open {
        since: Instant,
        last_message: Instant,
        sent: usize,
        limited: bool,
    },
    Ended,
}

/// The client's side of the protocol.
#[derive(Debug)]
pub struct Session {
    timing: Timing,
    symbols: Vec<String>,
    state: State,
    error: Option<SessionError>,
    random: SmallRng,
    failures: u32,
    refusals: u32,
    short_lived: u32,
    ever_open: bool,
}

/// This many consecutive drops, each soon after the opening, are no longer routine.
const SUSPICIOUS_DROPS: u32 = 3;

impl Session {
    /// A session that connects at once. The seed decides the jitter of the back-off.
    #[must_use]
    pub fn new(timing: Timing, symbols: Vec<String>, seed: u64, now: Instant) -> Self {
        let random = SmallRng::seed_from_u64(seed);
        Self {
            timing,
            symbols,
            state: State::Waiting { until: now },
            error: None,
            random,
            failures: 0,
            refusals: 0,
            short_lived: 0,
            ever_open: false,
        }
    }

    /// The symbols to subscribe to, without those the server does not know.
    #[must_use]
    pub fn symbols(&self) -> &[String] {
        &self.symbols
    }

    /// The next command; `None` if there is nothing to do now.
    pub fn poll(&mut self, now: Instant) -> Option<Command> {
        if let Some(error) = self.error.take() {
            self.state = State::Ended;
            return Some(Command::Fail(error));
        }
        match &mut self.state {
            State::Waiting { until } if now >= *until => {
                self.state = State::Connecting {
                    until: now + self.timing.connect,
                };
                Some(Command::Connect)
            }
            State::Connecting { until } if now >= *until => {
                self.back_off(now);
                Some(Command::Disconnect(DisconnectReason::ConnectTimeout))
            }
            State::Open { last_message, .. } if now >= *last_message + self.timing.silence => {
                self.handle_closed(now);
                Some(Command::Disconnect(DisconnectReason::Silence))
            }
            State::Open {
                sent,
                limited: false,
                ..
            } => {
                let symbol = self.symbols.get(*sent)?;
                *sent += 1;
                Some(Command::Send(subscribe(symbol)))
            }
            State::Waiting { .. }
            | State::Connecting { .. }
            | State::Open { .. }
            | State::Ended => None,
        }
    }

    /// When to call [`Session::poll`] again if no event comes before; `None` once it has ended.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } | State::Connecting { until } => Some(*until),
            State::Open { last_message, .. } => Some(*last_message + self.timing.silence),
            State::Ended => None,
        }
    }

    /// The connection is open.
    pub fn handle_connected(&mut self, now: Instant) {
        self.ever_open = true;
        self.refusals = 0;
        self.state = State::Open {
            since: now,
            last_message: now,
            sent: 0,
            limited: false,
        };
    }

    /// Connecting failed.
    pub fn handle_refused(&mut self, refusal: &Refusal, now: Instant) {
        match refusal {
            Refusal::Unauthorized => {
                self.refusals += 1;
                if !self.ever_open || self.refusals > self.timing.refusals_tolerated {
                    self.error = Some(SessionError::TokenRefused);
                }
            }
            // "Too many requests": wait the longest back-off.
            Refusal::Status(429) => self.failures = self.failures.max(16),
            Refusal::Status(_) | Refusal::NotWebSocket(_) | Refusal::Unreachable(_) => {}
        }
        self.back_off(now);
    }

    /// A message arrived. WebSocket pongs do not count: a proxy in front of a stalled server may
    /// send them.
    pub fn handle_message(&mut self, now: Instant) {
        if let State::Open { last_message, .. } = &mut self.state {
            *last_message = now;
        }
    }

    /// The provider sent an error message.
    pub fn handle_provider_error(&mut self, message: &str) -> ProviderError {
        let lower = message.to_ascii_lowercase();
        if lower.contains("too many symbols") {
            if let State::Open { limited, .. } = &mut self.state {
                *limited = true;
            }
            return ProviderError::TooManySymbols;
        }
        const INVALID: &str = "invalid symbol";
        let Some(name) = lower
            .find(INVALID)
            .and_then(|at| message.get(at + INVALID.len()..))
        else {
            return ProviderError::Other;
        };
        let name =
            name.trim_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '"' | '\'' | '.'));
        let Some(at) = self.symbols.iter().position(|symbol| symbol == name) else {
            return ProviderError::Other;
        };
        self.symbols.remove(at);
        if let State::Open { sent, .. } = &mut self.state
            && *sent > at
        {
            *sent -= 1;
        }
        if self.symbols.is_empty() {
            self.error = Some(SessionError::NoSymbolLeft {
                last: name.to_owned(),
            });
        }
        ProviderError::InvalidSymbol(name.to_owned())
    }

    /// The connection dropped.
    pub fn handle_closed(&mut self, now: Instant) -> Drops {
        if let State::Open { since, .. } = self.state {
            if now.duration_since(since) >= self.timing.settled_after {
                self.failures = 0;
                self.short_lived = 0;
            } else {
                self.short_lived += 1;
            }
        }
        self.back_off(now);
        if self.short_lived >= SUSPICIOUS_DROPS {
            Drops::Repeated
        } else {
            Drops::Routine
        }
    }

    /// Waits between half of the doubled delay and all of it, so that clients that were dropped
    /// together do not return together.
    fn back_off(&mut self, now: Instant) {
        let whole = self
            .timing
            .first_delay
            .saturating_mul(1 << self.failures.min(16))
            .min(self.timing.longest_delay);
        self.failures += 1;
        let half = whole / 2;
        self.state = State::Waiting {
            until: now + half + half.mul_f64(self.random.random::<f64>()),
        };
    }
}

fn subscribe(symbol: &str) -> String {
    serde_json::json!({ "type": "subscribe", "symbol": symbol }).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Run {
        session: Session,
        now: Instant,
    }

    impl Run {
        fn new(symbols: &[&str]) -> Self {
            let now = Instant::now();
            Self {
                session: Session::new(
                    Timing::default(),
                    symbols.iter().map(|s| (*s).to_owned()).collect(),
                    1,
                    now,
                ),
                now,
            }
        }

        fn pass(&mut self, seconds: f64) {
            self.now += Duration::from_secs_f64(seconds);
        }

        fn commands(&mut self) -> Vec<Command> {
            std::iter::from_fn(|| self.session.poll(self.now)).collect()
        }

        /// Lets the back-off pass and returns how long it was.
        fn wait(&mut self) -> Duration {
            let deadline = self.session.deadline().expect("waiting");
            let delay = deadline - self.now;
            if delay > Duration::ZERO {
                assert_eq!(self.commands(), []);
            }
            self.now = deadline;
            delay
        }

        fn open(&mut self) -> Vec<Command> {
            self.wait();
            assert_eq!(self.commands(), [Command::Connect]);
            self.session.handle_connected(self.now);
            self.commands()
        }
    }

    #[test]
    fn every_connection_subscribes_all_symbols() {
        let mut run = Run::new(&["AAPL", "IC MARKETS:1", "A\"B"]);
        let want: Vec<Command> = [
            r#"{"symbol":"AAPL","type":"subscribe"}"#,
            r#"{"symbol":"IC MARKETS:1","type":"subscribe"}"#,
            r#"{"symbol":"A\"B","type":"subscribe"}"#,
        ]
        .map(|text| Command::Send(text.into()))
        .into();
        assert_eq!(run.open(), want);
        run.pass(40.0);
        assert_eq!(run.session.handle_closed(run.now), Drops::Routine);
        assert_eq!(run.open(), want);
    }

    #[test]
    fn back_off_doubles_to_its_limit_with_jitter_and_starts_over_after_a_settled_connection() {
        let mut run = Run::new(&["A"]);
        let mut delays = Vec::new();
        for _ in 0..12 {
            run.wait();
            assert_eq!(run.commands(), [Command::Connect]);
            run.session
                .handle_refused(&Refusal::Unreachable("down".into()), run.now);
            delays.push(run.session.deadline().expect("waiting") - run.now);
        }
        for (n, delay) in (0u32..).zip(&delays) {
            let whole = Duration::from_millis(500 << n.min(10)).min(Duration::from_secs(30));
            assert!(*delay >= whole / 2 && *delay <= whole, "{n}: {delay:?}");
        }
        run.open();
        run.pass(31.0);
        run.session.handle_closed(run.now);
        assert!(run.wait() <= Duration::from_millis(500));
    }

    #[test]
    fn silence_of_150_s_gives_up_the_connection_and_a_ping_keeps_it() {
        let mut run = Run::new(&["A"]);
        run.open();
        for _ in 0..10 {
            run.pass(149.0);
            assert_eq!(run.commands(), []);
            run.session.handle_message(run.now);
        }
        run.pass(150.0);
        assert_eq!(
            run.commands(),
            [Command::Disconnect(DisconnectReason::Silence)]
        );
        assert_eq!(run.open().len(), 1);
    }

    #[test]
    fn connecting_has_a_limit_too() {
        let mut run = Run::new(&["A"]);
        assert_eq!(run.commands(), [Command::Connect]);
        run.pass(15.0);
        assert_eq!(
            run.commands(),
            [Command::Disconnect(DisconnectReason::ConnectTimeout)]
        );
        assert_eq!(run.open().len(), 1);
    }

    #[test]
    fn a_refused_token_ends_the_session_unless_it_has_worked_before() {
        let mut run = Run::new(&["A"]);
        run.commands();
        run.session.handle_refused(&Refusal::Unauthorized, run.now);
        assert_eq!(run.commands(), [Command::Fail(SessionError::TokenRefused)]);
        assert_eq!(run.session.deadline(), None);

        let mut run = Run::new(&["A"]);
        run.open();
        run.session.handle_closed(run.now);
        for _ in 0..5 {
            run.wait();
            assert_eq!(run.commands(), [Command::Connect]);
            run.session.handle_refused(&Refusal::Unauthorized, run.now);
        }
        run.wait();
        assert_eq!(run.commands(), [Command::Connect]);
        run.session.handle_refused(&Refusal::Unauthorized, run.now);
        assert_eq!(run.commands(), [Command::Fail(SessionError::TokenRefused)]);
    }

    #[test]
    fn status_200_for_101_is_tried_again_and_429_is_tried_late() {
        let mut run = Run::new(&["A"]);
        run.commands();
        run.session.handle_refused(&Refusal::Status(200), run.now);
        assert!(run.wait() <= Duration::from_millis(500));
        assert_eq!(run.commands(), [Command::Connect]);
        run.session.handle_refused(&Refusal::Status(429), run.now);
        assert!(run.wait() >= Duration::from_secs(15));
    }

    #[test]
    fn an_invalid_symbol_is_not_asked_for_again_and_the_rest_are_not_skipped() {
        let mut run = Run::new(&["A", "NOPE X", "B", "C"]);
        run.wait();
        run.commands();
        run.session.handle_connected(run.now);
        for _ in 0..3 {
            assert!(matches!(run.session.poll(run.now), Some(Command::Send(_))));
        }
        assert_eq!(
            run.session.handle_provider_error("Invalid symbol NOPE X"),
            ProviderError::InvalidSymbol("NOPE X".into())
        );
        assert_eq!(run.commands(), [Command::Send(subscribe("C"))]);
        assert_eq!(
            run.session.handle_provider_error("Invalid symbol ELSE"),
            ProviderError::Other
        );
        run.session.handle_closed(run.now);
        assert_eq!(run.open().len(), 3);
    }

    #[test]
    fn a_session_without_valid_symbols_ends() {
        let mut run = Run::new(&["NOPE"]);
        run.open();
        run.session.handle_provider_error("Invalid symbol NOPE");
        assert_eq!(
            run.commands(),
            [Command::Fail(SessionError::NoSymbolLeft {
                last: "NOPE".into()
            })]
        );
    }

    #[test]
    fn the_symbol_limit_stops_subscribing_until_the_next_connection() {
        let mut run = Run::new(&["A", "B", "C"]);
        run.wait();
        run.commands();
        run.session.handle_connected(run.now);
        run.session.poll(run.now);
        assert_eq!(
            run.session
                .handle_provider_error("Subscribing to too many symbols"),
            ProviderError::TooManySymbols
        );
        assert_eq!(run.commands(), []);
        run.session.handle_closed(run.now);
        assert_eq!(run.open().len(), 3);
    }

    #[test]
    fn drops_soon_after_opening_raise_suspicion_and_the_delay() {
        let mut run = Run::new(&["A"]);
        let mut endings = Vec::new();
        for _ in 0..4 {
            run.open();
            run.pass(1.0);
            endings.push(run.session.handle_closed(run.now));
        }
        assert_eq!(
            endings,
            [
                Drops::Routine,
                Drops::Routine,
                Drops::Repeated,
                Drops::Repeated
            ]
        );
        assert!(run.wait() >= Duration::from_secs(2));
    }
}
