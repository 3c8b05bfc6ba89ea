//! What the workers logged: lines of level ERROR that no fault explains, and what is no log line at all.

use std::path::PathBuf;

use serde_json::Value;

/// What was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Errors {
    /// Lines of level ERROR.
    pub errors: u64,
    /// Those that tell of a bad version of the integrators.
    pub refusals: u64,
    /// All others, and what is no log line, such as a panic.
    pub unexplained: Vec<String>,
}

/// Longest line that is told.
const WIDTH: usize = 400;

impl Errors {
    /// Of these files. The last line of a killed worker may be cut off.
    ///
    /// # Errors
    /// One cannot be read.
    pub fn of(files: &[PathBuf]) -> anyhow::Result<Self> {
        let mut found = Self::default();
        for file in files {
            found.add(&String::from_utf8_lossy(&std::fs::read(file)?));
        }
        Ok(found)
    }

    fn add(&mut self, text: &str) {
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        for line in whole.lines() {
            match serde_json::from_str::<Value>(line) {
                Ok(parsed) if parsed["level"] == "ERROR" => {
                    self.errors += 1;
                    if parsed["message"] == "reload refused" {
                        self.refusals += 1;
                    } else {
                        self.tell(line);
                    }
                }
                Ok(parsed) if parsed.is_object() => {}
                _ => self.tell(line),
            }
        }
    }

    fn tell(&mut self, line: &str) {
        self.unexplained.push(line.chars().take(WIDTH).collect());
    }

    /// How many no fault explains: bad reloads explain a line of each worker.
    #[must_use]
    pub fn beyond(&self, bad_reloads: u64, workers: u64) -> u64 {
        self.unexplained.len() as u64 + self.refusals.saturating_sub(bad_reloads * workers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_reload_explains_a_line_of_each_worker_and_nothing_explains_a_panic() {
        let mut found = Errors::default();
        found.add(
            "{\"level\":\"ERROR\",\"message\":\"reload refused\"}\n{\"level\":\"WARN\",\"message\":\"broker lost\"}\n{\"level\":\"ERR",
        );
        assert_eq!((found.beyond(1, 2), found.beyond(0, 2)), (0, 1));
        found.add("thread 'main' panicked at src/main.rs\n{\"level\":\"ERROR\",\"message\":\"other\"}\n");
        assert_eq!((found.errors, found.beyond(1, 2)), (2, 2));
    }
}
