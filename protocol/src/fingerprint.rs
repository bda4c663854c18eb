//! Two fingerprints as a person compares them. To the protocol a fingerprint is a text that is equal
//! or not; its parts are separated by `; `, and each begins with its name.

/// Characters of a part that are shown. The members of baskets can fill pages.
const SHOWN: usize = 60;

/// The parts that differ, each with what it is now.
pub(crate) fn differences(found: &str, wanted: &str) -> String {
    let name = |part: &str| part.split(' ').next().unwrap_or_default().to_owned();
    let wanted: Vec<&str> = wanted.split("; ").collect();
    let found: Vec<&str> = found.split("; ").collect();
    let in_wanted = |part: &str| wanted.iter().find(|other| name(other) == name(part));
    let in_found = |part: &str| found.iter().any(|other| name(other) == name(part));
    let changed = found.iter().filter_map(|part| match in_wanted(part) {
        Some(other) if other == part => None,
        Some(other) => {
            let from = first_difference(part, other);
            Some(format!(
                "{} (now {})",
                shown(part, from),
                shown(other, from)
            ))
        }
        None => Some(format!("{} (now none)", shown(part, 0))),
    });
    let added = wanted
        .iter()
        .filter(|part| !in_found(part))
        .map(|part| format!("none (now {})", shown(part, 0)));
    changed.chain(added).collect::<Vec<_>>().join("; ")
}

/// How many characters two parts have in common, up to the beginning of the word that differs.
fn first_difference(one: &str, other: &str) -> usize {
    let same = one.chars().zip(other.chars()).take_while(|(a, b)| a == b);
    let mut begin = 0;
    for (at, (c, _)) in same.enumerate() {
        if c == ' ' {
            begin = at + 1;
        }
    }
    begin
}

/// The name of a part, and its text from a character on, cut to a bounded length.
fn shown(part: &str, from: usize) -> String {
    if part.chars().count() <= SHOWN {
        return part.to_owned();
    }
    let name = part.split(' ').next().unwrap_or_default();
    let rest: String = part.chars().skip(from).take(SHOWN).collect();
    let more = if part.chars().count() > from + SHOWN {
        "..."
    } else {
        ""
    };
    if from == 0 {
        format!("{rest}{more}")
    } else {
        format!("{name} ...{rest}{more}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_parts_that_differ_are_shown_and_long_ones_from_where_they_differ() {
        let members = |last: &str| {
            let lines: Vec<String> = (0..200).map(|n| format!("b,SYM{n:03},0.5000")).collect();
            format!("members {} | {last}", lines.join(" | "))
        };
        let text = |sizes: &str, rest: &str| format!("rules 1; sizes {sizes}; lateness 5 ms{rest}");
        let check = |found: &str, wanted: &str, want: &str| {
            assert_eq!(differences(found, wanted), want);
        };
        check(
            &text("1s,1m", ""),
            &text("1s,10m", ""),
            "sizes 1s,1m (now sizes 1s,10m)",
        );
        check(
            &text("1m", &format!("; baskets aa; {}", members("b,X,0.5000"))),
            &text("1m", &format!("; baskets bb; {}", members("b,X,0.2500"))),
            "baskets aa (now baskets bb); members ...b,X,0.5000 (now members ...b,X,0.2500)",
        );
        check(
            &text("1m", "; baskets aa; members b,X,0.5"),
            &text("1m", "; baskets none"),
            "baskets aa (now baskets none); members b,X,0.5 (now none)",
        );
        check("rules 1", "rules 1; sizes 1m", "none (now sizes 1m)");
        assert!(differences(&members("x"), "rules 1").len() < 200);
    }
}
