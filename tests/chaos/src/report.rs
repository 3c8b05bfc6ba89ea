//! The tables.

use std::fmt::Write as _;

use crate::campaign::{Outcome, Wish};
use crate::control::Finding;
use crate::judge::Figures;

impl Outcome {
    /// Whether everything is as it has to be.
    #[must_use]
    pub fn is_good(&self) -> bool {
        self.judgement.violations.is_empty() && self.unexplained_errors == 0
    }
}

/// A run as Markdown. `machine`: what it ran on.
#[must_use]
pub fn run(wish: &Wish, outcome: &Outcome, machine: &str) -> String {
    let figures = &outcome.judgement.figures;
    let mut text = String::new();
    let seconds = outcome.took.as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
    let rate = figures.published as f64 / seconds;
    let _ = writeln!(
        text,
        "\n{} events, {} faults, seed {}: {seconds:.0} s, {rate:.0} events/s over all. {machine}\n",
        wish.events, wish.faults, wish.seed
    );
    text.push_str(&twelve(figures));
    text.push_str(&marks(wish, outcome));
    text.push_str("\n| fault | times |\n| --- | ---: |\n");
    for (kind, times) in &figures.faults {
        let _ = writeln!(text, "| {kind} | {times} |");
    }
    for violation in &outcome.judgement.violations {
        let _ = writeln!(text, "\nFAILED: {} ({}){}", violation.name, violation.count, told(&violation.text));
    }
    for line in outcome.errors.unexplained.iter().take(10) {
        let _ = writeln!(text, "\nFAILED: a worker logged {line}");
    }
    text
}

fn told(text: &str) -> String {
    if text.starts_with('\n') { text.to_owned() } else { format!(": {text}") }
}

fn twelve(figures: &Figures) -> String {
    let rows = [
        ("published (confirmed)", figures.published, ""),
        ("delivered", figures.delivered, ""),
        ("dead", figures.dead, ""),
        ("rejected", figures.rejected, ""),
        ("pending", figures.pending, "0"),
        ("lost", figures.lost, "0"),
        ("duplicated", figures.duplicated, ""),
        ("unexpected", figures.unexpected, "0"),
        ("misdelivered", figures.misdelivered, "0"),
        ("corrupted", figures.corrupted, "0"),
        ("badsig", figures.badsig, "0"),
        ("recovered", figures.recovered, ""),
    ];
    let mut text = "| events | | mark |\n| --- | ---: | --- |\n".to_owned();
    for (name, count, mark) in rows {
        let _ = writeln!(text, "| {name} | {count} | {mark} |");
    }
    text
}

fn marks(wish: &Wish, outcome: &Outcome) -> String {
    let figures = &outcome.judgement.figures;
    let mut text = String::new();
    let mut row = |name: &str, value: String, mark: &str| {
        let _ = writeln!(text, "| {name} | {value} | {mark} |");
    };
    row("requests", figures.requests.to_string(), "");
    row("2xx beyond an event's first", figures.extra.to_string(), &format!("at most {}", figures.bound));
    row("dead letters and rejected beyond an event's first", figures.kept_extra.to_string(), "within the same");
    row("both, by publishing twice", figures.extra_by_publisher.to_string(), "");
    row("told or kept again with no fault near", figures.unexplained.to_string(), "0");
    row("attempts before their time", figures.early.to_string(), "0");
    row("attempts beyond those allowed", figures.over.to_string(), "0");
    row("given up or delivered wrongly", figures.wrong_fate.to_string(), "0");
    row("delivered and dead", figures.delivered_and_dead.to_string(), "0");
    row("broker accepts to first delivery", seconds(&figures.recoveries), &format!("{} s", wish.recovery.as_secs()));
    row("ERROR lines", outcome.errors.errors.to_string(), "");
    row("ERROR lines that no fault explains", outcome.unexplained_errors.to_string(), "0");
    text
}

/// Median and longest.
fn seconds(micros: &[u64]) -> String {
    let mut sorted = micros.to_vec();
    sorted.sort_unstable();
    let Some(longest) = sorted.last() else { return "not measured".to_owned() };
    #[expect(clippy::cast_precision_loss, reason = "microseconds far below 2^52")]
    let seconds = |micros: u64| micros as f64 / 1e6;
    format!("{:.2} s, longest {:.2} s, of {}", seconds(sorted[sorted.len() / 2]), seconds(*longest), sorted.len())
}

/// The negative controls as Markdown.
#[must_use]
pub fn controls(findings: &[Finding]) -> String {
    let mut text = "\n| flaw of a bare worker | what the judge says | of an honest worker there |\n| --- | --- | --- |\n".to_owned();
    for finding in findings {
        let _ = writeln!(text, "| {} | {} | {} |", finding.flaw.name(), finding.guilty(), finding.honest());
    }
    text
}
