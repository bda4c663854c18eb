//! The table on a terminal: the loop that draws and reads keys, and the drawing of a snapshot.

use std::{
    io,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use ratatui::{
    Frame,
    crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers},
    layout::{Constraint, Layout},
    style::{Modifier, Style},
    text::Line as TextLine,
    widgets::{Block, Borders, Cell, Paragraph, Row, Table},
};
use tapeflow_schemas::{Price, decimal::grouped};

use super::{
    RunDisplay, Snapshot,
    guard::{TerminalGuard, restore},
    numbers::{age, short_decimal},
};

/// The time between two frames, and the longest that a key waits.
const FRAME: Duration = Duration::from_millis(200);
/// More symbols than any screen has lines.
const SYMBOLS: usize = 200;
/// The exit code of a program that SIGINT ended: 128 + 2.
const INTERRUPTED: i32 = 130;

/// Draws until `done`. The first q or Ctrl-C calls `on_quit`. The second one exits at once, without
/// waiting for the last commit; committed bars stay.
pub(super) fn run(
    mut guard: TerminalGuard,
    display: &RunDisplay,
    done: &AtomicBool,
    colours: bool,
    on_quit: &dyn Fn(),
) -> io::Result<()> {
    let mut quitting = false;
    while !done.load(Ordering::Acquire) {
        let now = display.snapshot(SYMBOLS);
        let Some(terminal) = guard.terminal() else {
            break;
        };
        terminal.draw(|frame| draw(frame, &now, colours, quitting))?;
        if !event::poll(FRAME)? {
            continue;
        }
        let Event::Key(key) = event::read()? else {
            continue;
        };
        // In raw mode Ctrl-C arrives as a key and raises no signal.
        let control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if key.kind == KeyEventKind::Press
            && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
        {
            if quitting {
                restore();
                std::process::exit(INTERRUPTED);
            }
            quitting = true;
            on_quit();
        }
    }
    Ok(())
}

fn draw(frame: &mut Frame<'_>, now: &Snapshot, colours: bool, quitting: bool) {
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(4),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    let accent = if colours {
        Style::new().cyan()
    } else {
        Style::new()
    };
    let warning = if colours {
        Style::new().yellow()
    } else {
        Style::new()
    };
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let page = now
        .page
        .as_ref()
        .map_or_else(String::new, |page| format!("   live page {page}"));
    let dead_letters = TextLine::styled(
        format!(
            "{} dead letters   {}{page}",
            grouped(now.dead_letters),
            now.connection
        ),
        if now.dead_letters > 0 {
            warning
        } else {
            Style::new()
        },
    );
    let lines = vec![
        TextLine::styled(
            format!("tapeflow   {}   into {}", now.feed, now.store),
            bold.patch(accent),
        ),
        TextLine::from(format!(
            "{} = {}/s   {} bars written = {}/s",
            now.input,
            grouped(now.per_second[0]),
            grouped(now.bars_written),
            grouped(now.per_second[1])
        )),
        TextLine::from(format!(
            "epoch bound {}, committed {}   symbols {}   running {}",
            grouped(now.bound),
            grouped(now.committed),
            now.symbols,
            age(
                0,
                i64::try_from(now.elapsed.as_millis()).unwrap_or(i64::MAX)
            )
        )),
        dead_letters,
    ];
    frame.render_widget(Paragraph::new(lines), head);

    let heading = [
        "symbol", "last", "vwap", "volume", "trades", "event", "saved",
    ]
    .map(|name| Cell::from(TextLine::from(name).right_aligned()));
    let rows = now.bars.iter().map(|(symbol, bar)| {
        let numbers = [
            bar.last
                .map(|price: Price| short_decimal(i128::from(price.e8())))
                .unwrap_or_default(),
            bar.vwap_e8.map(short_decimal).unwrap_or_default(),
            short_decimal(bar.volume_e8),
            grouped(bar.trades),
            age(bar.event_ms, now.now_ms),
            bar.acknowledged_ms
                .map(|ms| age(ms, now.now_ms))
                .unwrap_or_default(),
        ];
        let cells = numbers
            .into_iter()
            .map(|text| Cell::from(TextLine::from(text).right_aligned()));
        Row::new(std::iter::once(Cell::from(symbol.as_str().to_owned()).style(accent)).chain(cells))
    });
    let mut heading = heading.to_vec();
    heading[0] = Cell::from("symbol");
    // With the gaps 80 cells, the usual width of a narrow terminal: `BINANCE:BTCUSDT` and a volume
    // of eleven digits fit.
    let [name, price, volume, count, age_of] = [15, 12, 16, 9, 5];
    let numbers = [price, price, volume, count, age_of, age_of].map(Constraint::Length);
    let widths = std::iter::once(Constraint::Min(name)).chain(numbers);
    let title = format!(" newest {} bar of each symbol, busiest first ", now.size);
    let table = Table::new(rows, widths)
        .header(Row::new(heading).style(bold))
        .block(Block::new().borders(Borders::TOP).title(title));
    frame.render_widget(table, body);

    let keys = if quitting {
        "ending: committing what was read; press again to exit at once"
    } else {
        "q or Ctrl-C: commit what was read and exit"
    };
    frame.render_widget(
        Paragraph::new(keys).style(if quitting { warning } else { Style::new() }),
        foot,
    );
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, style::Color};
    use tapeflow_schemas::Symbol;

    use super::*;
    use crate::terminal::tests::snapshot;

    fn drawn(
        now: &Snapshot,
        colours: bool,
        quitting: bool,
        (width, height): (u16, u16),
    ) -> (String, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, now, colours, quitting))
            .expect("drawn");
        let buffer = terminal.backend().buffer();
        let text = buffer
            .content()
            .chunks(usize::from(width))
            .map(|row| row.iter().map(|cell| cell.symbol()).collect::<String>())
            .collect::<Vec<_>>();
        let coloured = buffer
            .content()
            .iter()
            .any(|cell| cell.fg != Color::Reset || cell.bg != Color::Reset);
        (text.join("\n"), coloured)
    }

    #[test]
    fn the_screen_shows_the_numbers_and_how_to_end() {
        let (text, coloured) = drawn(&snapshot(), true, false, (100, 12));
        for part in [
            "AAPL",
            "164.0601",
            "1,234 trades = 56/s",
            "epoch bound 8, committed 7",
            "2 dead letters",
            "symbols 1",
            "running 2.0s",
            "live page http://127.0.0.1:8080",
            "q or Ctrl-C",
        ] {
            assert!(text.contains(part), "{part:?} in\n{text}");
        }
        assert!(coloured);
        assert!(
            drawn(&snapshot(), true, true, (100, 12))
                .0
                .contains("ending")
        );
    }

    #[test]
    fn each_number_is_below_its_name() {
        let mut now = snapshot();
        let mut bar = now.bars[0].1;
        bar.volume_e8 = 12_345_678_901 * 100_000_000 + 12_340_000;
        bar.trades = 1_234_567;
        now.bars
            .push((Symbol::new("BINANCE:BTCUSDT").expect("symbol"), bar));
        let (text, _) = drawn(&now, false, false, (80, 9));
        assert_eq!(
            text.lines().skip(4).collect::<Vec<_>>(),
            [
                " newest 1m bar of each symbol, busiest first ".to_owned() + &"─".repeat(35),
                "symbol                  last         vwap           volume    trades event saved"
                    .into(),
                "AAPL                164.0601     164.0601                5         1  0.5s  0.3s"
                    .into(),
                "BINANCE:BTCUSDT     164.0601     164.0601 12345678901.1234 1,234,567  0.5s  0.3s"
                    .into(),
                format!("{:80}", "q or Ctrl-C: commit what was read and exit"),
            ]
        );
    }

    #[test]
    fn without_colours_nothing_is_coloured() {
        assert!(!drawn(&snapshot(), false, true, (100, 12)).1);
    }

    #[test]
    fn a_terminal_of_any_size_is_drawn() {
        let mut now = snapshot();
        let bar = now.bars[0].1;
        now.bars
            .extend((0..300).map(|n| (Symbol::new(&format!("S{n}")).expect("symbol"), bar)));
        for size in [(1, 1), (20, 3), (300, 100)] {
            drawn(&now, true, false, size);
        }
    }
}
