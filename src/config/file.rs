//! Reading files: never more than a limit, never anything but a plain file.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use toml::Table;
use toml::de::{DeTable, Error};

use super::problems::Problems;

/// Syntax errors shown of one file: beyond a few, each is an echo of the ones before.
const SYNTAX_ERRORS: usize = 20;

/// Longest text that is searched for all its syntax errors, in bytes: the parser stores each of them and cannot be stopped,
/// and finds three in a line that is nothing but `=`. A longer text shows its first error alone.
const SEARCHED: usize = 64 * 1024;

/// The text of a file of at most `limit` bytes.
///
/// # Errors
/// What is wrong, without the file's name.
pub(super) fn read_text(path: &Path, limit: u64) -> Result<String, String> {
    let cannot = |error: io::Error| format!("cannot be read: {error}");
    // Opening a FIFO would wait for a writer for ever, so look first.
    if !std::fs::metadata(path).map_err(cannot)?.is_file() {
        return Err("is no plain file".to_owned());
    }
    let mut text = Vec::new();
    File::open(path).map_err(cannot)?.take(limit + 1).read_to_end(&mut text).map_err(cannot)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > limit) {
        return Err(format!("is over {limit} bytes long"));
    }
    String::from_utf8(text).map_err(|_| "is not UTF-8".to_owned())
}

/// The table of a TOML file of at most `limit` bytes.
///
/// # Errors
/// A file that cannot be read, or its syntax errors with line and column.
pub(super) fn read_table(path: &Path, limit: u64) -> Result<Table, Problems> {
    let text = read_text(path, limit).map_err(|problem| Problems::one(format!("{}: {problem}", path.display())))?;
    text.parse().map_err(|first| {
        // The parser that reports only the first error made the table; the other one goes on after an error.
        let errors = if text.len() <= SEARCHED { DeTable::parse_recoverable(&text).1 } else { Vec::new() };
        let mut errors = if errors.is_empty() { vec![first] } else { errors };
        errors.sort_by_key(|error| error.span().map(|span| span.start));
        let mut lines: Vec<String> = errors.iter().take(SYNTAX_ERRORS).map(|error| syntax_problem(path, &text, error)).collect();
        if errors.len() > SYNTAX_ERRORS {
            lines.push(format!("{}: and {} syntax errors more", path.display(), errors.len() - SYNTAX_ERRORS));
        }
        Problems::new(lines)
    })
}

/// The error's own Display shows the line of the file, which may hold a secret; its message does not.
fn syntax_problem(path: &Path, text: &str, error: &Error) -> String {
    let message = error.message().replace('\n', "; ");
    let Some(span) = error.span() else { return format!("{}: {message}", path.display()) };
    let before = text.get(..span.start).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("{}: line {line}, column {column}: {message}", path.display())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(text: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.toml");
        std::fs::write(&path, text).unwrap();
        (folder, path)
    }

    #[test]
    fn all_syntax_errors_have_a_line_and_show_nothing_of_it() {
        let (_folder, path) = written(b"a = 1\nb = CANARY\nc = \"CANARY\\q\"\n[d\ne = 'CANARY\na = 2\n");
        let problems = read_table(&path, 1000).unwrap_err().lines().join("\n").replace(&format!("{}: ", path.display()), "");
        assert!(!problems.contains("CANARY"), "{problems}");
        let places: Vec<&str> = problems.lines().map(|line| line.split_once(": ").unwrap().0).collect();
        assert_eq!(places, ["line 2, column 5", "line 3, column 13", "line 4, column 3", "line 6, column 1"]);
    }

    #[test]
    fn of_many_syntax_errors_some_are_shown_and_of_a_long_text_the_first() {
        let (folder, path) = written("=\n".repeat(1000).as_bytes());
        let problems = read_table(&path, 1 << 20).unwrap_err();
        assert_eq!(problems.lines().len(), SYNTAX_ERRORS + 1);
        let last = problems.lines().last().unwrap();
        assert!(last.starts_with(&format!("{}: and ", path.display())) && last.ends_with(" syntax errors more"), "{last}");

        let long = folder.path().join("long.toml");
        std::fs::write(&long, format!("a = 1\n{}", "=\n".repeat(SEARCHED / 2))).unwrap();
        let problems = read_table(&long, 1 << 20).unwrap_err();
        assert_eq!(problems.lines().len(), 1);
        assert!(problems.lines()[0].starts_with(&format!("{}: line 2, column ", long.display())), "{problems}");
    }

    #[test]
    fn refuses_what_is_missing_too_long_no_text_or_no_file() {
        let (folder, path) = written(b"1234\xff");
        assert_eq!(read_text(&path, 4), Err("is over 4 bytes long".to_owned()));
        assert_eq!(read_text(&path, 5), Err("is not UTF-8".to_owned()));
        assert_eq!(read_text(folder.path(), 5), Err("is no plain file".to_owned()));
        assert!(read_text(&folder.path().join("none"), 5).unwrap_err().starts_with("cannot be read: No such file"));
    }
}
