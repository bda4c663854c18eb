//! Faults that the simulated market injects.

/// Faults within frames: shares of frames or of trades, between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameFaults {
    /// Trades that are up to five seconds late.
    pub out_of_order: f64,
    /// Trades of size zero: price updates. Currency pairs have some without this fault.
    pub zero_size: f64,
    /// Trades whose conditions are null, an empty array or absent.
    pub bare_conditions: f64,
    /// Trades whose price is negative, zero, absurdly large, a word or null.
    pub bad_value: f64,
    /// Frames that are not JSON.
    pub bad_json: f64,
    /// Frames of an undocumented type.
    pub unknown_type: f64,
    /// Frames sent twice.
    pub duplicate_frame: f64,
}

impl FrameFaults {
    /// No faults at all, unlike any real feed.
    pub const NONE: Self = Self {
        out_of_order: 0.0,
        zero_size: 0.0,
        bare_conditions: 0.0,
        bad_value: 0.0,
        bad_json: 0.0,
        unknown_type: 0.0,
        duplicate_frame: 0.0,
    };

    pub(super) fn any_whole_frame(&self) -> bool {
        self.bad_json > 0.0 || self.unknown_type > 0.0 || self.duplicate_frame > 0.0
    }

    pub(super) fn any_trade(&self) -> bool {
        self.zero_size > 0.0 || self.bare_conditions > 0.0
    }

    /// Checks that these are shares, and that they leave some frames whole: a feed of faulty frames
    /// would never send its trades.
    ///
    /// # Errors
    /// Invalid input, with the reason.
    pub fn check(&self) -> std::io::Result<()> {
        let all = [
            self.out_of_order,
            self.zero_size,
            self.bare_conditions,
            self.bad_value,
            self.bad_json,
            self.unknown_type,
            self.duplicate_frame,
        ];
        let fault = |text| Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, text));
        if !all.iter().all(|share| (0.0..=1.0).contains(share)) {
            fault("each share of faults must be between 0 and 1")
        } else if self.bad_json + self.unknown_type + self.duplicate_frame > 0.9 {
            fault("at most nine in ten frames may be faulty")
        } else {
            Ok(())
        }
    }
}

impl Default for FrameFaults {
    /// A normal day: one trade in a hundred is late.
    fn default() -> Self {
        Self {
            out_of_order: 0.01,
            ..Self::NONE
        }
    }
}

/// The fault of one connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConnectionFault {
    /// None.
    #[default]
    Healthy,
    /// The handshake is answered with 401, whatever the token.
    Unauthorized,
    /// The handshake is answered with this status. During incidents Finnhub answers 200.
    Status(u16),
    /// The handshake is not answered.
    Unanswered,
    /// The connection drops within a frame.
    DropMidFrame {
        /// Whole frames before.
        after_frames: u64,
    },
    /// The connection is closed between frames.
    Close {
        /// Whole frames before.
        after_frames: u64,
    },
    /// The connection stays open and sends nothing more, not even pings.
    Silent {
        /// Whole frames before.
        after_frames: u64,
    },
    /// Only pings are sent, as when markets are closed.
    PingOnly,
    /// The first frames are sent as fast as the client reads them.
    Flood {
        /// Frames before the connection becomes healthy.
        frames: u64,
    },
}

/// All faults of the simulated server.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// Faults within frames.
    pub frames: FrameFaults,
    /// The faults of the first connection, the second, and so on. Further connections are healthy.
    pub connections: Vec<ConnectionFault>,
    /// The share of frames within which a healthy connection is dropped.
    pub drop_mid_frame: f64,
    /// The most symbols of a connection. A further subscription gets an error that does not name
    /// the symbol.
    pub symbol_limit: Option<usize>,
    /// Symbols of the market that are reported as invalid. Unknown symbols always are.
    pub invalid_symbols: Vec<String>,
    /// Whether several connections may be open at once. Finnhub drops both.
    pub allow_several: bool,
}

impl Faults {
    pub(super) fn of(&self, connection: u64) -> ConnectionFault {
        usize::try_from(connection)
            .ok()
            .and_then(|at| self.connections.get(at))
            .copied()
            .unwrap_or_default()
    }
}
