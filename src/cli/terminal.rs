//! What commands print and ask, so that it looks the same everywhere.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use super::CliError;

/// Text from outside as a terminal may show it: no control characters, which could move the cursor or colour the rest.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
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
    writeln!(out, "{text}").map_err(|error| CliError::Failed(format!("cannot write the result: {error}")))
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
