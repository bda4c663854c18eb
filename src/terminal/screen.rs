//! The table on a terminal: pure drawing of one look, and the loop that draws and listens to keys.

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
use tapeflow_schemas::Price;

use super::{
    Look, View,
    hold::{Hold, give_back},
    words::{age, glance, grouped},
};

/// How often the screen is drawn, and how long a key waits at most.
const FRAME: Duration = Duration::from_millis(200);
/// More rows than any screen has.
const ROWS: usize = 200;
/// The exit code of a program that a signal ended: 128 + SIGINT.
const INTERRUPTED: i32 = 130;

/// Draws until `done`; `on_quit` is called at the first q or Ctrl-C. A second one leaves at once:
/// everything durable stays so.
pub(super) fn run(
    mut held: Hold,
    view: &View,
    done: &AtomicBool,
    colours: bool,
    on_quit: &dyn Fn(),
) -> io::Result<()> {
    let mut asked = false;
    while !done.load(Ordering::Acquire) {
        let look = view.look(ROWS);
        let Some(terminal) = held.terminal() else {
            break;
        };
        terminal.draw(|frame| draw(frame, &look, colours, asked))?;
        if !event::poll(FRAME)? {
            continue;
        }
        let Event::Key(key) = event::read()? else {
            continue;
        };
        // Raw mode hands Ctrl-C over as a key and raises no signal.
        let control_c =
            key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
        if key.kind == KeyEventKind::Press
            && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
        {
            if asked {
                give_back();
                std::process::exit(INTERRUPTED);
            }
            asked = true;
            on_quit();
        }
    }
    Ok(())
}

/// One look, drawn.
fn draw(frame: &mut Frame<'_>, look: &Look, colours: bool, asked: bool) {
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
    let page = look
        .page
        .as_ref()
        .map_or_else(String::new, |page| format!("   live page {page}"));
    let dead_letters = TextLine::styled(
        format!(
            "{} dead letters   {}{page}",
            grouped(look.dead_letters),
            look.connection
        ),
        if look.dead_letters > 0 {
            warning
        } else {
            Style::new()
        },
    );
    let lines = vec![
        TextLine::styled(
            format!("tapeflow   {}   into {}", look.feed, look.store),
            bold.patch(accent),
        ),
        TextLine::from(format!(
            "{} = {}/s   {} rows written = {}/s",
            look.taken,
            grouped(look.per_second[0]),
            grouped(look.bars),
            grouped(look.per_second[1])
        )),
        TextLine::from(format!(
            "epoch bound {}, committed {}   symbols {}   running {}",
            grouped(look.bound),
            grouped(look.committed),
            look.symbols,
            age(
                0,
                i64::try_from(look.elapsed.as_millis()).unwrap_or(i64::MAX)
            )
        )),
        dead_letters,
    ];
    frame.render_widget(Paragraph::new(lines), head);

    let heading = [
        "symbol", "last", "vwap", "volume", "trades", "event", "saved",
    ]
    .map(|name| Cell::from(TextLine::from(name).right_aligned()));
    let rows = look.lines.iter().map(|(symbol, line)| {
        let numbers = [
            line.last
                .map(|price: Price| glance(i128::from(price.e8())))
                .unwrap_or_default(),
            line.vwap_e8.map(glance).unwrap_or_default(),
            glance(line.volume_e8),
            grouped(line.trades),
            age(line.event_ms, look.now_ms),
            line.acknowledged_ms
                .map(|ms| age(ms, look.now_ms))
                .unwrap_or_default(),
        ];
        let cells = numbers
            .into_iter()
            .map(|text| Cell::from(TextLine::from(text).right_aligned()));
        Row::new(std::iter::once(Cell::from(symbol.as_str().to_owned()).style(accent)).chain(cells))
    });
    let mut heading = heading.to_vec();
    heading[0] = Cell::from("symbol");
    // Together with the gaps 80 cells, the narrowest terminal that is common: `BINANCE:BTCUSDT` and
    // eleven digits of volume fit.
    let [name, price, volume, count, age_of] = [15, 12, 16, 9, 5];
    let numbers = [price, price, volume, count, age_of, age_of].map(Constraint::Length);
    let widths = std::iter::once(Constraint::Min(name)).chain(numbers);
    let title = format!(" the newest {} of each symbol, busiest first ", look.size);
    let table = Table::new(rows, widths)
        .header(Row::new(heading).style(bold))
        .block(Block::new().borders(Borders::TOP).title(title));
    frame.render_widget(table, body);

    let keys = if asked {
        "ending: committing what was read; again to leave at once"
    } else {
        "q or Ctrl-C: commit what was read, and end"
    };
    frame.render_widget(
        Paragraph::new(keys).style(if asked { warning } else { Style::new() }),
        foot,
    );
}

#[cfg(test)]
mod tests {
    use ratatui::{Terminal, backend::TestBackend, style::Color};
    use tapeflow_schemas::Symbol;

    use super::*;
    use crate::terminal::tests::look;

    fn drawn(
        look: &Look,
        colours: bool,
        asked: bool,
        (width, height): (u16, u16),
    ) -> (String, bool) {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
        terminal
            .draw(|frame| draw(frame, look, colours, asked))
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
        let (text, coloured) = drawn(&look(), true, false, (100, 12));
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
        assert!(drawn(&look(), true, true, (100, 12)).0.contains("ending"));
    }

    #[test]
    fn each_number_stands_under_its_name() {
        let mut look = look();
        let mut line = look.lines[0].1;
        line.volume_e8 = 12_345_678_901 * 100_000_000 + 12_340_000;
        line.trades = 1_234_567;
        look.lines
            .push((Symbol::new("BINANCE:BTCUSDT").expect("symbol"), line));
        let (text, _) = drawn(&look, false, false, (80, 9));
        assert_eq!(
            text.lines().skip(4).collect::<Vec<_>>(),
            [
                " the newest 1m of each symbol, busiest first ".to_owned() + &"─".repeat(35),
                "symbol                  last         vwap           volume    trades event saved"
                    .into(),
                "AAPL                164.0601     164.0601                5         1  0.5s  0.3s"
                    .into(),
                "BINANCE:BTCUSDT     164.0601     164.0601 12345678901.1234 1,234,567  0.5s  0.3s"
                    .into(),
                format!("{:80}", "q or Ctrl-C: commit what was read, and end"),
            ]
        );
    }

    #[test]
    fn without_colours_there_are_none() {
        assert!(!drawn(&look(), false, true, (100, 12)).1);
    }

    #[test]
    fn a_tiny_terminal_is_drawn_too() {
        let mut look = look();
        let line = look.lines[0].1;
        look.lines
            .extend((0..300).map(|n| (Symbol::new(&format!("S{n}")).expect("symbol"), line)));
        for size in [(1, 1), (20, 3), (300, 100)] {
            drawn(&look, true, false, size);
        }
    }
}
