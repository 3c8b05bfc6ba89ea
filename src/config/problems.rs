//! What is wrong with a configuration: every problem at once, a line each, never a secret.

use std::fmt;

/// All problems of a configuration, one line each: `file: key: what is wrong; what to do`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problems(Vec<String>);

impl Problems {
    /// More lines than this help nobody; what is beyond them is counted.
    pub const LIMIT: usize = 1000;

    pub(super) fn one(line: String) -> Self {
        Self(vec![line])
    }

    pub(super) const fn new(lines: Vec<String>) -> Self {
        Self(lines)
    }

    /// These problems and then others.
    pub(super) fn and(mut self, others: Option<Self>) -> Self {
        self.0.extend(others.into_iter().flat_map(|others| others.0));
        self
    }

    /// The lines.
    #[must_use]
    pub fn lines(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for Problems {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0.len() {
            1 => f.write_str("the configuration has a problem:")?,
            count => write!(f, "the configuration has {count} problems:")?,
        }
        self.0.iter().try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl std::error::Error for Problems {}

/// A text as a problem shows it: quoted, on one line, cut when it is long.
pub(super) fn quoted(text: &str) -> String {
    const SHOWN: usize = 60;
    match text.char_indices().nth(SHOWN) {
        None => format!("{text:?}"),
        Some((end, _)) => format!("{:?}…", &text[..end]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_quoted_text_is_one_short_line() {
        assert_eq!(quoted("a\nb"), r#""a\nb""#);
        assert_eq!(quoted(&"ü".repeat(61)), format!("\"{}\"…", "ü".repeat(60)));
    }

    #[test]
    fn problems_print_a_line_each_under_their_number() {
        let problems = Problems::new(vec!["a: b".to_owned(), "c: d".to_owned()]);
        assert_eq!(problems.to_string(), "the configuration has 2 problems:\na: b\nc: d");
        assert_eq!(Problems::one("a: b".to_owned()).to_string(), "the configuration has a problem:\na: b");
    }
}
