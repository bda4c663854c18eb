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
use tapeflow_schemas::{Symbol, decimal::grouped};

use super::{
    RunDisplay, Snapshot, fit,
    guard::{TerminalGuard, restore},
    numbers::{age, short_decimal},
};
use crate::live::LiveBar;

/// The columns of the table. All values are those of one window: the newest with a bar.
const COLUMNS: usize = 7;
const HEADING: [&str; COLUMNS] = [
    "symbol", "close", "vwap", "volume", "trades", "event", "saved",
];
/// With the gaps 80 cells, the usual width of a narrow terminal: `BINANCE:BTCUSDT` and a volume of
/// eleven digits fit.
const USUAL_WIDTHS: [usize; COLUMNS] = [15, 12, 12, 16, 9, 5, 5];

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
    let width = usize::from(frame.area().width);
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
    let state = now.state.iter().flat_map(|text| fit::wrapped(text, width));
    let mut lines = head_lines(now, width, bold.patch(accent), warning);
    lines.extend(state.map(|text| TextLine::styled(text, bold.patch(warning))));
    let height = u16::try_from(lines.len()).unwrap_or(u16::MAX);
    let [head, body, foot] = Layout::vertical([
        Constraint::Length(height),
        Constraint::Min(1),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(lines), head);
    frame.render_widget(table(now, width, bold, accent), body);
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

/// The counts above the table.
fn head_lines(
    now: &Snapshot,
    width: usize,
    title: Style,
    warning: Style,
) -> Vec<TextLine<'static>> {
    let line = |parts: &[String]| fit::parts(parts, width);
    let elapsed_ms = i64::try_from(now.elapsed.as_millis()).unwrap_or(i64::MAX);
    let page = now.page.as_ref().map(|page| format!("live page {page}"));
    let dead_letters = line(&[
        format!("{} dead letters", grouped(now.dead_letters)),
        now.connection.clone(),
        page.unwrap_or_default(),
    ]);
    vec![
        TextLine::styled(
            line(&[
                "tapeflow".to_owned(),
                now.feed.clone(),
                format!("into {}", now.store),
            ]),
            title,
        ),
        TextLine::from(line(&[
            format!("{} = {}/s", now.input, grouped(now.per_second[0])),
            format!(
                "{} bars written = {}/s",
                grouped(now.bars_written),
                grouped(now.per_second[1])
            ),
        ])),
        TextLine::from(line(&[
            format!(
                "epoch bound {}, committed {}",
                grouped(now.bound),
                grouped(now.committed)
            ),
            format!("symbols {}", now.symbols),
            format!("running {}", age(0, elapsed_ms)),
        ])),
        TextLine::styled(
            dead_letters,
            if now.dead_letters > 0 {
                warning
            } else {
                Style::new()
            },
        ),
    ]
}

/// The bars, in the columns that fit.
fn table(now: &Snapshot, width: usize, bold: Style, accent: Style) -> Table<'static> {
    let rows: Vec<[String; COLUMNS]> = now.bars.iter().map(|bar| texts(bar, now.now_ms)).collect();
    let needed: [usize; COLUMNS] = std::array::from_fn(|at| {
        let texts = rows.iter().map(|row| fit::cells(&row[at]));
        texts.max().unwrap_or(0).max(HEADING[at].len())
    });
    let widths = fit::columns(&needed, &USUAL_WIDTHS, width);
    let shown = widths.len();
    let right = |text: String| Cell::from(TextLine::from(text).right_aligned());
    let line = |texts: [String; COLUMNS], name: Style| {
        let cells = texts.into_iter().take(shown).enumerate();
        Row::new(cells.map(move |(at, text)| match at {
            0 => Cell::from(text).style(name),
            _ => right(text),
        }))
    };
    let constraints = widths.into_iter().enumerate().map(|(at, width)| {
        let width = u16::try_from(width).unwrap_or(u16::MAX);
        // The name takes what is left, so that numbers stay where they are.
        if at == 0 {
            Constraint::Min(width)
        } else {
            Constraint::Length(width)
        }
    });
    let title = format!(" newest {} bar of each symbol, busiest first ", now.size);
    Table::new(rows.into_iter().map(|row| line(row, accent)), constraints)
        .header(line(HEADING.map(str::to_owned), Style::new()).style(bold))
        .block(Block::new().borders(Borders::TOP).title(title))
}

/// The texts of a bar, in the order of [`HEADING`].
fn texts((symbol, bar): &(Symbol, LiveBar), now_ms: i64) -> [String; COLUMNS] {
    [
        symbol.as_str().to_owned(),
        bar.close
            .map(|price| short_decimal(i128::from(price.e8())))
            .unwrap_or_default(),
        bar.vwap_e8.map(short_decimal).unwrap_or_default(),
        short_decimal(bar.volume_e8),
        grouped(bar.trades),
        age(bar.event_ms, now_ms),
        bar.acknowledged_ms
            .map(|ms| age(ms, now_ms))
            .unwrap_or_default(),
    ]
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
                "symbol                 close         vwap           volume    trades event saved"
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
    fn no_number_is_clipped_at_any_width() {
        let mut now = snapshot();
        let mut bar = now.bars[0].1;
        bar.vwap_e8 = Some(22_748_670_000);
        bar.volume_e8 = 12_345_678_901 * 100_000_000;
        now.bars
            .push((Symbol::new("BINANCE:BTCUSDT").expect("symbol"), bar));
        now.state = vec!["store, for 1 min 15 s: 10.250.17.33:9042 does not answer".into()];
        let full = drawn(&now, false, false, (200, 12)).0;
        let numbers = |text: &str| -> Vec<String> {
            let parts = text.split(|c: char| !(c.is_ascii_alphanumeric() || ".,:".contains(c)));
            let is_number = |part: &&str| part.contains(|c: char| c.is_ascii_digit());
            parts.filter(is_number).map(str::to_owned).collect()
        };
        let known = numbers(&full);
        for width in 1..120 {
            let text = drawn(&now, false, false, (width, 12)).0;
            // The name of a symbol is no number, and the title of the table is a text.
            for number in numbers(&text)
                .iter()
                .filter(|part| !part.starts_with("BINANCE"))
            {
                assert!(known.contains(number), "{number} at {width}:\n{text}");
            }
        }
        let narrow = drawn(&now, false, false, (60, 12)).0;
        assert!(narrow.contains("227.4867"), "{narrow}");
    }

    #[test]
    fn the_screen_says_what_is_waited_for() {
        let mut now = snapshot();
        now.state = vec![
            "store, for 12 s: database or disk is full".into(),
            "no live page: 127.0.0.1:8080 is taken".into(),
        ];
        let (text, _) = drawn(&now, true, false, (100, 12));
        for part in &now.state {
            assert!(text.contains(part.as_str()), "{part} in\n{text}");
        }
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
