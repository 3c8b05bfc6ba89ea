//! The counts of every endpoint, and their series in the text of the metrics.
//!
//! Plain numbers: a counter of the metrics' library takes 1.5 KB and an endpoint has four from the start, which for 10,000
//! endpoints was 80 MiB, and 24 MiB more at each scrape.

use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};

use super::deliveries::{CLASSES, OTHER_STATUS, VERDICTS, verdict_index};
use crate::domain::dead::DeadReason;
use crate::domain::decide::Verdict;
use crate::domain::integrator::SkipReason;

/// A metric with a series for each endpoint and each value of its other labels.
struct Family {
    name: &'static str,
    help: &'static str,
    series: fn(&PerEndpoint, Show<'_>),
}

/// Takes one line after the other.
type Show<'a> = &'a mut dyn FnMut(Series<'_>);

/// One line. The labels come in alphabetical order: what stands before and after those of the endpoint.
struct Series<'a> {
    before: Option<(&'static str, &'static str)>,
    after: (&'static str, &'static str),
    count: &'a Count,
}

const FAMILIES: [Family; 3] = [
    Family {
        name: "callbackd_attempts_total",
        help: "Attempts at deliveries (one for each event of a request), by endpoint, by what follows and by what the endpoint did",
        series: |endpoint, show| {
            for (verdict, by_class) in VERDICTS.into_iter().zip(&endpoint.attempts) {
                for (class, count) in CLASSES.into_iter().zip(by_class) {
                    show(Series { before: Some(("class", class)), after: ("verdict", verdict), count });
                }
            }
        },
    },
    Family {
        name: "callbackd_deliveries_skipped_total",
        help: "Events that an endpoint is not told of, on purpose, by reason",
        series: |endpoint, show| {
            for (reason, count) in SkipReason::ALL.into_iter().zip(&endpoint.skipped) {
                show(Series { before: None, after: ("reason", reason.as_str()), count });
            }
        },
    },
    Family {
        name: "callbackd_dead_letters_total",
        help: "Deliveries given up and moved to the dead letters, by reason",
        series: |endpoint, show| {
            for (reason, count) in DeadReason::ALL.into_iter().zip(&endpoint.dead) {
                show(Series { before: None, after: ("reason", reason.as_str()), count });
            }
        },
    },
];

/// Appends the series of these endpoints, in Prometheus' text format 0.0.4.
pub(super) fn write<'a>(endpoints: impl Iterator<Item = &'a PerEndpoint> + Clone, text: &mut String) {
    for Family { name, help, series } in FAMILIES {
        // Writing to a string cannot fail.
        let _ = write!(text, "# HELP {name} {help}\n# TYPE {name} counter\n");
        for endpoint in endpoints.clone() {
            series(endpoint, &mut |Series { before, after, count }| {
                let Some(count) = count.shown() else { return };
                let _ = write!(text, "{name}{{");
                if let Some((label, value)) = before {
                    let _ = write!(text, "{label}=\"{value}\",");
                }
                let _ = writeln!(text, "{},{}=\"{}\"}} {count}", endpoint.labels, after.0, after.1);
            });
        }
    }
}

/// What is counted of one endpoint.
pub(super) struct PerEndpoint {
    /// The endpoint's own labels, as they stand in the text.
    labels: String,
    attempts: [[Count; CLASSES.len()]; VERDICTS.len()],
    skipped: [Count; SkipReason::ALL.len()],
    dead: [Count; DeadReason::ALL.len()],
}

impl PerEndpoint {
    pub(super) fn new(integrator: &str, endpoint: &str) -> Self {
        let labels = format!("endpoint=\"{}\",integrator=\"{}\"", escaped(endpoint), escaped(integrator));
        Self { labels, attempts: Default::default(), skipped: Default::default(), dead: Default::default() }
    }

    /// Shows the few series whose first count must be seen as a rise; all of every endpoint would be too many.
    pub(super) fn start_at_zero(&self) {
        self.attempts[0][0].show();
        // A removed endpoint has no series any more: that reason is counted elsewhere.
        for reason in DeadReason::ALL.into_iter().filter(|reason| *reason != DeadReason::EndpointRemoved) {
            self.dead(reason).show();
        }
    }

    pub(super) fn attempt(&self, verdict: &Verdict, class: &str) {
        let known = CLASSES.iter().position(|candidate| *candidate == class);
        debug_assert!(known.is_some(), "CLASSES lacks {class}");
        // An attempt that is counted in the wrong place is still better than one that is not counted.
        self.attempts[verdict_index(verdict)][known.unwrap_or(OTHER_STATUS)].add_one();
    }

    pub(super) fn skip(&self, reason: SkipReason) {
        let index = SkipReason::ALL.iter().position(|candidate| *candidate == reason).unwrap_or_default();
        self.skipped[index].add_one();
    }

    pub(super) fn dead(&self, reason: DeadReason) -> &Count {
        let index = DeadReason::ALL.iter().position(|candidate| *candidate == reason).unwrap_or_default();
        &self.dead[index]
    }
}

/// A count that has a series from the first time on, or from when it is shown at zero: one more than the count, and 0 before.
#[derive(Default)]
pub(super) struct Count(AtomicU64);

impl Count {
    pub(super) fn show(&self) {
        let _ = self.0.compare_exchange(0, 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    pub(super) fn add_one(&self) {
        self.show();
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn shown(&self) -> Option<u64> {
        self.0.load(Ordering::Relaxed).checked_sub(1)
    }
}

/// A label's value in the text format.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_that_holds_quotes_and_line_ends_breaks_no_line() {
        let endpoint = PerEndpoint::new("a\"b\\c\nd", "main");
        endpoint.skip(SkipReason::NoRecords);
        let mut text = String::new();
        write([&endpoint].into_iter(), &mut text);
        let line = r#"callbackd_deliveries_skipped_total{endpoint="main",integrator="a\"b\\c\nd",reason="no_records"} 1"#;
        assert_eq!(text.lines().filter(|line| !line.starts_with('#')).collect::<Vec<_>>(), [line]);
    }
}
