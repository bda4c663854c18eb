//! What the client does next: a machine without sockets, with `now` as a parameter.
//!
//! ```text
//!            poll: Connect                 handle_connected
//!  Waiting ───────────────▶ Connecting ─────────────────────▶ Open ──▶ poll: Send(subscribe), one for each symbol
//!     ▲                         │ handle_refused, time out      │
//!     └──────── back-off ───────┴───────────────────────────────┘ handle_closed, silence
//! ```
//!
//! The caller obeys [`Session::poll`] until it has nothing to say, then waits for the socket or for
//! [`Session::deadline`], whichever comes first. Finnhub acknowledges nothing and replays nothing,
//! so after every drop all symbols are subscribed anew.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::SmallRng};

/// How long the client waits for what.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Silence after which an open connection is given up. Finnhub pings once a minute, and stalls
    /// with the socket open do happen; 150 s is known good.
    pub silence: Duration,
    /// How long connecting, TLS and handshake together may take.
    pub connect: Duration,
    /// The first back-off, doubled at each failure in a bar.
    pub first_delay: Duration,
    /// The longest back-off.
    pub longest_delay: Duration,
    /// A connection that lived this long was a success: the next back-off is the first again.
    pub settled_after: Duration,
    /// How many refusals of a token that has worked before are taken for an incident.
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
    /// Connect, and tell the outcome.
    Connect,
    /// Send this text.
    Send(String),
    /// Drop the connection, or the attempt at one.
    Disconnect(Why),
    /// End: waiting does not mend this.
    Fail(SessionError),
}

/// Why a connection is given up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// Nothing came for [`Timing::silence`].
    Silence,
    /// It did not come about within [`Timing::connect`].
    ConnectTimeout,
}

/// How the server refused a connection.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// HTTP 401: the token is not known.
    #[error("token refused (HTTP 401)")]
    Unauthorized,
    /// Another status than 101; incidents answer 200.
    #[error("HTTP {0} instead of 101")]
    Status(u16),
    /// Status 101, yet no WebSocket handshake.
    #[error("no WebSocket handshake: {0}")]
    NotWebSocket(&'static str),
    /// No connection at all.
    #[error("out of reach: {0}")]
    Unreachable(String),
}

/// Why the session cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    /// The token is refused.
    #[error("the server refuses the token (HTTP 401): check the token file")]
    TokenRefused,
    /// Every symbol was called invalid.
    #[error(
        "no symbol is left to subscribe to: the server calls all of them invalid, the last was {last:?}"
    )]
    NoSymbolLeft {
        /// The last one refused.
        last: String,
    },
}

/// What an error of the provider means to the session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Complaint {
    /// More symbols than the plan allows; it is not said which were left out. No more are sent on
    /// this connection.
    TooManySymbols,
    /// This symbol does not exist; it will not be asked for again.
    InvalidSymbol(String),
    /// Anything else.
    Other,
}

/// How a connection ended, for the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// Drops are routine.
    Routine,
    /// Several in a bar were dropped soon after they opened: another client may be using the same
    /// token, and each makes the other drop.
    SoonAgain,
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
        heard: Instant,
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

/// Drops in a bar, each soon after the opening, that are no longer routine.
const SUSPICIOUS_DROPS: u32 = 3;

impl Session {
    /// A session that connects at once. `seed` decides the jitter.
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

    /// The symbols that are asked for.
    #[must_use]
    pub fn symbols(&self) -> &[String] {
        &self.symbols
    }

    /// What to do now, if anything.
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
                Some(Command::Disconnect(Why::ConnectTimeout))
            }
            State::Open { heard, .. } if now >= *heard + self.timing.silence => {
                self.handle_closed(now);
                Some(Command::Disconnect(Why::Silence))
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

    /// When to call [`Session::poll`] again if nothing happens before.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting { until } | State::Connecting { until } => Some(*until),
            State::Open { heard, .. } => Some(*heard + self.timing.silence),
            State::Ended => None,
        }
    }

    /// The connection stands.
    pub fn handle_connected(&mut self, now: Instant) {
        self.ever_open = true;
        self.refusals = 0;
        self.state = State::Open {
            since: now,
            heard: now,
            sent: 0,
            limited: false,
        };
    }

    /// The server, or the network, refused.
    pub fn handle_refused(&mut self, refusal: &Refusal, now: Instant) {
        match refusal {
            Refusal::Unauthorized => {
                self.refusals += 1;
                if !self.ever_open || self.refusals > self.timing.refusals_tolerated {
                    self.error = Some(SessionError::TokenRefused);
                }
            }
            // "Too many requests": asking again soon makes it worse.
            Refusal::Status(429) => self.failures = self.failures.max(16),
            Refusal::Status(_) | Refusal::NotWebSocket(_) | Refusal::Unreachable(_) => {}
        }
        self.back_off(now);
    }

    /// A message came. Only messages count as life: WebSocket's own pongs may come from a proxy in
    /// front of a stalled server.
    pub fn handle_message(&mut self, now: Instant) {
        if let State::Open { heard, .. } = &mut self.state {
            *heard = now;
        }
    }

    /// The provider complains.
    pub fn handle_provider_error(&mut self, message: &str) -> Complaint {
        let lower = message.to_ascii_lowercase();
        if lower.contains("too many symbols") {
            if let State::Open { limited, .. } = &mut self.state {
                *limited = true;
            }
            return Complaint::TooManySymbols;
        }
        const INVALID: &str = "invalid symbol";
        let Some(name) = lower
            .find(INVALID)
            .and_then(|at| message.get(at + INVALID.len()..))
        else {
            return Complaint::Other;
        };
        let name =
            name.trim_matches(|c: char| c.is_whitespace() || matches!(c, ':' | '"' | '\'' | '.'));
        let Some(at) = self.symbols.iter().position(|symbol| symbol == name) else {
            return Complaint::Other;
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
        Complaint::InvalidSymbol(name.to_owned())
    }

    /// The connection is gone.
    pub fn handle_closed(&mut self, now: Instant) -> Ending {
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
            Ending::SoonAgain
        } else {
            Ending::Routine
        }
    }

    /// Waits between half and the whole of the doubled delay: clients that were dropped together do
    /// not come back together.
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
        assert_eq!(run.session.handle_closed(run.now), Ending::Routine);
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
        assert_eq!(run.commands(), [Command::Disconnect(Why::Silence)]);
        assert_eq!(run.open().len(), 1);
    }

    #[test]
    fn connecting_has_a_limit_too() {
        let mut run = Run::new(&["A"]);
        assert_eq!(run.commands(), [Command::Connect]);
        run.pass(15.0);
        assert_eq!(run.commands(), [Command::Disconnect(Why::ConnectTimeout)]);
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
            Complaint::InvalidSymbol("NOPE X".into())
        );
        assert_eq!(run.commands(), [Command::Send(subscribe("C"))]);
        assert_eq!(
            run.session.handle_provider_error("Invalid symbol ELSE"),
            Complaint::Other
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
            Complaint::TooManySymbols
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
                Ending::Routine,
                Ending::Routine,
                Ending::SoonAgain,
                Ending::SoonAgain
            ]
        );
        assert!(run.wait() >= Duration::from_secs(2));
    }
}
