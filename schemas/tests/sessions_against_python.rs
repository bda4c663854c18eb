//! Trading sessions against an independent program in Python, which has its own calendar
//! (`tests/golden/sessions.py`): every edge of every session, early day and daylight-saving day.

use std::process::Command;

use tapeflow_schemas::{
    AssetClass, Conditions, EventTime, Stretch, trading_session::Hours, window::format_utc,
};

/// A made-up trade, and the stretch of time that Python puts it in.
struct Case {
    class: AssetClass,
    time: EventTime,
    conditions: Conditions,
    line: String,
    session: String,
    start: i64,
    end: i64,
}

impl Case {
    fn read(line: &str) -> Option<Self> {
        let [class, ms, codes, session, start, end] = line.split(',').collect::<Vec<_>>()[..]
        else {
            return None;
        };
        let class = AssetClass::EVERY
            .into_iter()
            .find(|known| known.name() == class)?;
        Some(Self {
            class,
            time: EventTime::from_ms(ms.parse().ok()?)?,
            conditions: codes
                .split_whitespace()
                .fold(Conditions::NONE, |set, code| {
                    set.with(Conditions::code_of(code))
                }),
            line: line.to_owned(),
            session: session.to_owned(),
            start: start.parse().ok()?,
            end: end.parse().ok()?,
        })
    }

    fn agrees(&self, found: &Stretch) -> bool {
        let session = match found.hours {
            Hours::Open(session) => session.name(),
            Hours::Closed => "closed",
            Hours::Unknown => "unknown",
        };
        (session, found.start, found.end) == (&self.session, self.start, self.end)
    }
}

/// What Python says of these years.
fn cases(years: std::ops::RangeInclusive<i16>) -> Vec<Case> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/golden/sessions.py");
    let output = Command::new("python3")
        .args(["-B", script])
        .args([years.start(), years.end()].map(ToString::to_string))
        .output()
        .expect("python3 runs: the comparison needs it");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    text.lines()
        .map(|line| Case::read(line).unwrap_or_else(|| panic!("{line:?} is not a trade")))
        .collect()
}

fn differences(cases: &[Case], assign: impl Fn(&Case) -> Stretch) -> impl Iterator<Item = &Case> {
    cases.iter().filter(move |case| !case.agrees(&assign(case)))
}

fn own(case: &Case) -> Stretch {
    Stretch::of_trade(case.time, case.conditions, case.class)
}

#[test]
fn every_trade_at_an_edge_of_a_session_is_in_the_session_that_python_says() {
    let cases = cases(2015..=2030);
    assert!(cases.len() > 700_000, "{} trades", cases.len());
    let shown: Vec<String> = differences(&cases, own)
        .map(|case| {
            let found = own(case);
            format!(
                "{} at {}: here {:?} from {} to {}",
                case.line,
                format_utc(case.time.ms()),
                found.hours,
                found.start,
                found.end
            )
        })
        .collect();
    assert!(
        shown.is_empty(),
        "{} of {} trades differ, the first of them:\n{}",
        shown.len(),
        cases.len(),
        shown[..shown.len().min(10)].join("\n")
    );

    // The comparison notices each wrong rule.
    let mut wrong = differences(&cases, |case| {
        Stretch::of_trade(case.time, Conditions::NONE, case.class)
    });
    assert!(wrong.next().is_some(), "without sale conditions");
    let hour_ms = 3_600_000;
    for shift_ms in [hour_ms, -hour_ms, 1, -1] {
        let shifted = |case: &Case| {
            let time = EventTime::from_ms(case.time.ms() + shift_ms).expect("in range");
            Stretch::of_trade(time, case.conditions, case.class)
        };
        let mut wrong = differences(&cases, shifted);
        assert!(wrong.next().is_some(), "shifted by {shift_ms} ms");
    }
}

#[test]
fn python_agrees_on_every_other_year_of_the_calendar() {
    for years in [2007..=2014, 2031..=2040] {
        let cases = cases(years);
        let first = differences(&cases, own).next();
        assert!(first.is_none(), "{}", first.map_or("", |case| &case.line));
    }
}
