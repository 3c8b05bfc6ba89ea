//! What comes out: a table of figures against their marks, a table of absolute values, remarks.

use std::fmt::Write as _;

use crate::stage::Run;

/// What a figure has to be.
#[derive(Debug, Clone, Copy)]
pub enum Mark {
    /// This or more.
    AtLeast(f64),
    /// This or less.
    AtMost(f64),
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub struct Report {
    figures: Vec<Figure>,
    absolutes: Vec<String>,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Figure {
    name: String,
    mark: String,
    measured: String,
    spread: String,
    ok: bool,
}

impl Report {
    /// A figure with a value for each round; the median counts.
    pub fn figure(&mut self, name: &str, mark: Mark, values: &[f64]) {
        let (middle, (least, most)) = (median(values), spread(values));
        let (mark, ok) = match mark {
            Mark::AtLeast(mark) => (format!("at least {mark}"), middle >= mark),
            Mark::AtMost(mark) => (format!("at most {mark}"), middle <= mark),
        };
        let spread = format!("{least:.2} to {most:.2}");
        self.verdict(name, &mark, (format!("{middle:.2}"), spread, ok));
    }

    /// A figure in words: what was measured, its spread, whether that is good.
    pub fn verdict(&mut self, name: &str, mark: &str, (measured, spread, ok): (String, String, bool)) {
        eprintln!("bench: {name}: {measured} ({spread}), {mark}: {}", if ok { "ok" } else { "NOT" });
        self.figures.push(Figure { name: name.to_owned(), mark: mark.to_owned(), measured, spread, ok });
    }

    /// A latency against the same without the disturbance: at most 1.5 times it, or 50 ms.
    pub fn latency(&mut self, name: &str, disturbed: &[f64], calm: &[f64]) {
        let ratios: Vec<f64> = disturbed.iter().zip(calm).map(|(disturbed, calm)| disturbed / calm).collect();
        let (ratio, millis, (least, most)) = (median(&ratios), median(disturbed), spread(disturbed));
        let measured = format!("{ratio:.2} ×, {millis:.1} ms");
        let ok = ratio <= 1.5 || millis <= 50.0;
        self.verdict(name, "at most 1.5 × or 50 ms", (measured, format!("{least:.1} to {most:.1} ms"), ok));
    }

    /// A scenario that could not be measured.
    pub fn failed(&mut self, name: &str, why: &anyhow::Error) {
        eprintln!("bench: {name} failed: {why:#}");
        // The end of a log is above; its lines of JSON have no place in a table.
        let why = format!("{why:#}").replace('|', "/");
        let lines: Vec<&str> = why.lines().map(str::trim).filter(|line| !line.starts_with('{')).collect();
        let short: String = lines.join(" ").chars().take(300).collect();
        self.figures.push(Figure {
            name: name.to_owned(),
            mark: String::new(),
            measured: format!("failed: {short}"),
            spread: String::new(),
            ok: false,
        });
    }

    /// The absolute values of one contestant.
    pub fn absolute(&mut self, name: &str, runs: &[Run]) {
        let of = |value: fn(&Run) -> f64| runs.iter().map(value).collect::<Vec<f64>>();
        let (rates, foreign) = (of(|run| run.rate), of(|run| run.foreign * 100.0));
        let (slowest, fastest) = spread(&rates);
        let (worker, broker, peak) = (of(|run| run.worker_cpu), of(|run| run.broker_cpu), of(|run| run.peak_mib));
        self.absolutes.push(format!(
            "| {name} | {:.0} | {slowest:.0} to {fastest:.0} | {:.2} | {:.2} | {:.0} | {:.0} % |",
            median(&rates),
            median(&worker),
            median(&broker),
            median(&peak),
            median(&foreign),
        ));
    }

    /// Something worth knowing that has no mark.
    pub fn remark(&mut self, text: String) {
        eprintln!("bench: {text}");
        self.remarks.push(text);
    }

    /// Whether every figure reaches its mark.
    #[must_use]
    pub fn all_ok(&self) -> bool {
        self.figures.iter().all(|figure| figure.ok)
    }

    /// The tables as Markdown.
    #[must_use]
    pub fn markdown(&self, machine: &str) -> String {
        let mut text = format!("{machine}\n\n| figure | mark | measured | spread | |\n| --- | --- | --- | --- | --- |\n");
        for Figure { name, mark, measured, spread, ok } in &self.figures {
            let _ = writeln!(text, "| {name} | {mark} | {measured} | {spread} | {} |", if *ok { "ok" } else { "**not**" });
        }
        if !self.absolutes.is_empty() {
            text.push_str("\n| run | events/s | spread | worker CPU | broker CPU | peak MiB | others |\n| --- | --- | --- | --- | --- | --- | --- |\n");
            text.extend(self.absolutes.iter().map(|line| format!("{line}\n")));
        }
        if !self.remarks.is_empty() {
            text.push('\n');
            text.extend(self.remarks.iter().map(|line| format!("- {line}\n")));
        }
        text
    }
}

/// The middle value, or the mean of the two in the middle.
#[must_use]
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => sorted[odd / 2],
        even => f64::midpoint(sorted[even / 2 - 1], sorted[even / 2]),
    }
}

/// The least and the most.
#[must_use]
pub fn spread(values: &[f64]) -> (f64, f64) {
    values.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(least, most), value| (least.min(*value), most.max(*value)))
}
