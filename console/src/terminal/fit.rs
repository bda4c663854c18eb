//! What fits into a line of a terminal. A number is shown whole or not at all: one that is cut is
//! another number.

/// Between two parts of a line.
const GAP: &str = "   ";
/// Most lines of a text that is wrapped.
const MOST_LINES: usize = 3;

/// The parts that fit into `width` cells, from the left. One that does not fit is left out, and
/// later ones may still fit.
pub(super) fn parts(parts: &[String], width: usize) -> String {
    let mut line = String::new();
    for part in parts.iter().filter(|part| !part.is_empty()) {
        let gap = if line.is_empty() { "" } else { GAP };
        if cells(&line) + cells(gap) + cells(part) <= width {
            line.push_str(gap);
            line.push_str(part);
        }
    }
    line
}

/// A text in lines of at most `width` cells, broken between words; a longer word is left out.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in text.split_whitespace().filter(|word| cells(word) <= width) {
        let fits = |line: &&mut String| cells(line) + 1 + cells(word) <= width;
        if let Some(line) = lines.last_mut().filter(fits) {
            line.push(' ');
            line.push_str(word);
        } else if lines.len() < MOST_LINES {
            lines.push(word.to_owned());
        } else {
            break;
        }
    }
    lines
}

/// The widths of the columns that fit into `width` cells with one cell between them, from the left.
/// `needed` is what each column's texts need, `usual` what it gets if there is room for all.
pub(super) fn columns(needed: &[usize], usual: &[usize], width: usize) -> Vec<usize> {
    let total = |widths: &[usize]| widths.iter().sum::<usize>() + widths.len().saturating_sub(1);
    let wide: Vec<usize> = needed
        .iter()
        .zip(usual)
        .map(|(needed, usual)| *needed.max(usual))
        .collect();
    if total(&wide) <= width {
        return wide;
    }
    let fitting = (0..=needed.len()).rev();
    let count = fitting
        .into_iter()
        .find(|count| total(&needed[..*count]) <= width);
    needed[..count.unwrap_or(0)].to_vec()
}

pub(super) fn cells(text: &str) -> usize {
    ratatui::text::Line::raw(text).width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_whole_or_absent() {
        let all = ["1,234 trades", "epoch 227", "up 2 s"].map(str::to_owned);
        assert_eq!(parts(&all, 80), "1,234 trades   epoch 227   up 2 s");
        assert_eq!(parts(&all, 23), "1,234 trades   up 2 s");
        assert_eq!(parts(&all, 10), "epoch 227");
        assert_eq!(parts(&all, 3), "");
    }

    #[test]
    fn a_text_is_broken_between_words_and_bounded() {
        assert_eq!(
            wrapped("store, for 12 s: disk is full", 12),
            ["store, for", "12 s: disk", "is full"]
        );
        assert_eq!(wrapped("a 123456789 b", 4), ["a b"], "no number is cut");
        assert_eq!(wrapped(&"word ".repeat(100), 9).len(), MOST_LINES);
    }

    #[test]
    fn columns_that_do_not_fit_are_left_out_from_the_right() {
        let (needed, usual) = ([4, 8, 10], [6, 8, 12]);
        assert_eq!(columns(&needed, &usual, 28), [6, 8, 12]);
        assert_eq!(columns(&needed, &usual, 27), [4, 8, 10]);
        assert_eq!(columns(&needed, &usual, 24), [4, 8, 10]);
        assert_eq!(columns(&needed, &usual, 23), [4, 8]);
        assert_eq!(columns(&needed, &usual, 12), [4]);
        assert_eq!(columns(&needed, &usual, 3), Vec::<usize>::new());
    }
}
