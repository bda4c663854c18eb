//! Which window a trade belongs to. Of trading sessions it knows the clock and the calendar, which
//! are vocabulary; which codes move a trade to another session is a second copy of the rule.

use tapeflow_schemas::{
    AssetClass, EventTime, Stretch, TradingSession, WindowSize, WindowStart, trading_session::Hours,
};

/// The start of the window of a trade; `None` if it belongs to no trading session.
pub(crate) fn window_of(
    size: WindowSize,
    time: EventTime,
    codes: &[u8],
    class: AssetClass,
) -> Option<WindowStart> {
    if !size.is_session() {
        return Some(size.start_of(time, class));
    }
    let before = |stretch: &Stretch| Stretch::at(stretch.start - 1, class);
    let at = Stretch::at(time.ms(), class);
    // Form T, extended hours out of sequence.
    let extended = codes.iter().any(|code| matches!(code, 24 | 25));
    // Closing trade, closing prints.
    let closing = codes.iter().any(|code| matches!(code, 35 | 36));
    let stretch = match at.hours {
        Hours::Open(TradingSession::Regular) if extended => before(&at),
        Hours::Open(TradingSession::Post) if closing && !extended => before(&at),
        Hours::Closed if closing && !extended => {
            let post = before(&at);
            if post.hours != Hours::Open(TradingSession::Post) {
                return None;
            }
            before(&post)
        }
        Hours::Open(_) => at,
        Hours::Closed | Hours::Unknown => return None,
    };
    Some(stretch.start)
}
