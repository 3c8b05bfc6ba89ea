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

/// Problems while they are being found. Keeps the first [`Problems::LIMIT`] and the number of the rest: a long file can
/// have a problem in every line.
#[derive(Debug, Default)]
pub(super) struct Found {
    lines: Vec<String>,
    more: usize,
}

impl Found {
    /// Notes a problem; its line is made only if it is kept.
    pub(super) fn note(&mut self, line: impl FnOnce() -> String) {
        if self.lines.len() < Problems::LIMIT {
            self.lines.push(line());
        } else {
            self.more += 1;
        }
    }

    /// How many there are, kept or not.
    pub(super) const fn count(&self) -> usize {
        self.lines.len() + self.more
    }

    /// All of them in the file `shown`, the rest as a number; `None` when there are none.
    pub(super) fn finish(mut self, shown: impl fmt::Display) -> Option<Problems> {
        if self.more > 0 {
            self.lines.push(format!("{shown}: and {} problems more", self.more));
        }
        if self.lines.is_empty() { None } else { Some(Problems(self.lines)) }
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
    fn beyond_the_limit_problems_are_counted_and_not_even_made() {
        let mut found = Found::default();
        for index in 0..Problems::LIMIT {
            found.note(|| index.to_string());
        }
        for _ in 0..7 {
            found.note(|| panic!("is not kept"));
        }
        assert_eq!(found.count(), Problems::LIMIT + 7);
        let problems = found.finish("x.toml").unwrap();
        assert_eq!((problems.lines().len(), problems.lines().last().unwrap().as_str()), (1001, "x.toml: and 7 problems more"));
        assert_eq!(Found::default().finish("x.toml"), None);
    }

    #[test]
    fn problems_print_a_line_each_under_their_number() {
        let problems = Problems::new(vec!["a: b".to_owned(), "c: d".to_owned()]);
        assert_eq!(problems.to_string(), "the configuration has 2 problems:\na: b\nc: d");
        assert_eq!(Problems::one("a: b".to_owned()).to_string(), "the configuration has a problem:\na: b");
    }
}
