//! What commands print and ask, so that it looks the same everywhere.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::CliError;

/// Text from outside as a terminal may show it: no control characters, which could move the cursor or colour the rest, and none that turn the direction.
pub(super) fn plain(text: &str) -> String {
    let turns = |c: char| matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    text.chars().map(|c| if c.is_control() || turns(c) { '\u{fffd}' } else { c }).collect()
}

/// A bar on a terminal, nothing elsewhere.
pub(super) fn progress(length: u64) -> ProgressBar {
    let target = if io::stderr().is_terminal() { ProgressDrawTarget::stderr() } else { ProgressDrawTarget::hidden() };
    let bar = ProgressBar::with_draw_target(Some(length), target);
    match ProgressStyle::with_template("{wide_bar} {human_pos}/{human_len}  {per_sec}  {eta}") {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

/// Where a command's results go: standard output, or a test.
pub(super) type Out<'a> = &'a mut (dyn io::Write + Send);

/// Writes a line of results.
///
/// # Errors
/// [`CliError::Failed`] when nobody reads it any more, as behind `head`.
pub(super) fn line(out: Out<'_>, text: &str) -> Result<(), CliError> {
    bytes(out, &[text.as_bytes(), b"\n"])
}

/// Writes results as they are, one part after the other.
///
/// # Errors
/// As [`line`].
pub(super) fn bytes(out: Out<'_>, parts: &[&[u8]]) -> Result<(), CliError> {
    let written = parts.iter().try_for_each(|part| out.write_all(part));
    written.map_err(|error| CliError::Failed(format!("cannot write the result: {error}")))
}

/// The width that a table keeps to: that of a terminal on half of a screen.
const WIDTH: usize = 120;
/// The least that is left of the last column.
const LEAST: usize = 12;

/// A table that is written as its rows come. Its columns are as wide as the first of them need; only the last is cut.
pub(super) struct Table<const N: usize> {
    heading: [&'static str; N],
    widths: Option<[usize; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) const fn new(heading: [&'static str; N]) -> Self {
        Self { heading, widths: None }
    }

    /// Writes these rows, and the heading before the first.
    ///
    /// # Errors
    /// As [`line`].
    pub(super) fn rows(&mut self, out: Out<'_>, rows: &[[String; N]]) -> Result<(), CliError> {
        let widths = match self.widths {
            Some(widths) => widths,
            None => {
                let heading = self.heading.map(str::to_owned);
                let all = || rows.iter().chain([&heading]);
                let widths = std::array::from_fn(|at| all().map(|row| row[at].chars().count()).max().unwrap_or(0));
                self.widths = Some(widths);
                line(out, &joined(&heading, widths))?;
                widths
            }
        };
        rows.iter().try_for_each(|row| line(out, &joined(row, widths)))
    }
}

fn joined<const N: usize>(cells: &[String; N], widths: [usize; N]) -> String {
    let mut text = String::new();
    for (at, (cell, width)) in cells.iter().zip(widths).enumerate() {
        if at + 1 < N {
            text += &format!("{cell:<width$}  ");
            continue;
        }
        let room = WIDTH.saturating_sub(text.chars().count()).max(LEAST);
        if cell.chars().count() <= room {
            text += cell;
        } else {
            text.extend(cell.chars().take(room - 1));
            text.push('…');
        }
    }
    text.trim_end().to_owned()
}

/// Asks on a terminal; only `y` and `yes` are a yes.
///
/// # Errors
/// [`CliError::Usage`] when there is no terminal to ask on.
pub(super) fn confirmed(question: &str) -> Result<bool, CliError> {
    if !io::stdin().is_terminal() {
        return Err(CliError::Usage(format!("{question} Nobody can be asked here: say --yes")));
    }
    let unreadable = |error: io::Error| CliError::Failed(format!("cannot ask: {error}"));
    eprint!("{question} [y/N] ");
    io::stderr().flush().map_err(unreadable)?;
    let mut answer = String::new();
    io::stdin().lock().read_line(&mut answer).map_err(unreadable)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_is_as_wide_as_its_first_rows_need_and_cuts_only_the_last_column() {
        let row = |id: &str, text: &str| [id.to_owned(), text.to_owned()];
        let mut out = Vec::new();
        let mut table = Table::new(["id", "text"]);
        table.rows(&mut out, &[row("a", "b"), row("longer", &"x".repeat(200))]).unwrap();
        table.rows(&mut out, &[row("longer still", "c")]).unwrap();
        let text = String::from_utf8(out).unwrap();
        let cut = format!("longer  {}…", "x".repeat(111));
        assert_eq!(text.lines().collect::<Vec<_>>(), ["id      text", "a       b", cut.as_str(), "longer still  c"]);
        assert_eq!(cut.chars().count(), WIDTH);
    }
}
