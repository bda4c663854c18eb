//! What can be wrong with a feed, on request.

/// What goes wrong within frames: shares of frames or of trades, between 0 and 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct FrameFaults {
    /// Trades that come late, by up to five seconds.
    pub out_of_order: f64,
    /// Trades of size zero: price updates. (Currency pairs have some anyway.)
    pub zero_size: f64,
    /// Trades whose conditions are null, an empty array or absent.
    pub bare_conditions: f64,
    /// Trades whose price is negative, zero, absurd, a word or null.
    pub bad_value: f64,
    /// Frames that are not JSON.
    pub bad_json: f64,
    /// Frames of a type that nobody documented.
    pub unknown_type: f64,
    /// Frames sent twice.
    pub duplicate_frame: f64,
}

impl FrameFaults {
    /// A feed in perfect order, which no real one is.
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

    /// Whether these are shares, and leave some frames whole: a feed of faults alone would never
    /// come to its trades.
    ///
    /// # Errors
    /// What is wrong, for a person.
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
            fault("each share of faults lies between 0 and 1")
        } else if self.bad_json + self.unknown_type + self.duplicate_frame > 0.9 {
            fault("at most nine in ten frames may be faulty")
        } else {
            Ok(())
        }
    }
}

impl Default for FrameFaults {
    /// A good day: one trade in a hundred is late.
    fn default() -> Self {
        Self {
            out_of_order: 0.01,
            ..Self::NONE
        }
    }
}

/// What becomes of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fate {
    /// It works.
    #[default]
    Healthy,
    /// Its handshake is answered with 401, whatever the token.
    Unauthorized,
    /// Its handshake is answered with this status; incidents answer 200 for 101.
    Status(u16),
    /// Its handshake is not answered.
    Unanswered,
    /// It is dropped within a frame, after so many frames.
    DropMidFrame {
        /// Whole frames before.
        after_frames: u64,
    },
    /// It is closed between frames, after so many.
    Close {
        /// Whole frames before.
        after_frames: u64,
    },
    /// It stays open and sends nothing more, pings included, after so many frames.
    Silent {
        /// Whole frames before.
        after_frames: u64,
    },
    /// It sends pings only, as when markets are closed.
    PingOnly,
    /// It begins with so many frames as fast as they are taken.
    Flood {
        /// Frames before it becomes healthy.
        frames: u64,
    },
}

/// All that can be wrong with the simulated server.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// What goes wrong within frames.
    pub frames: FrameFaults,
    /// The fate of the first connection, the second, and so on; those after the last are healthy.
    pub fates: Vec<Fate>,
    /// The share of frames within which a healthy connection is dropped.
    pub drop_mid_frame: f64,
    /// How many symbols a connection may subscribe to; one more is answered with an error that does
    /// not name it.
    pub symbol_limit: Option<usize>,
    /// Symbols that are called invalid although the market has them. (Those it has not always are.)
    pub invalid_symbols: Vec<String>,
    /// Whether several connections may live side by side. Finnhub's may not: a second one makes
    /// both drop.
    pub allow_several: bool,
}

impl Faults {
    pub(super) fn fate(&self, connection: u64) -> Fate {
        usize::try_from(connection)
            .ok()
            .and_then(|at| self.fates.get(at))
            .copied()
            .unwrap_or_default()
    }
}
