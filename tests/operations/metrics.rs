//! The metrics that there are, from `deploy/METRICS.md`, and what is wrong with a query that is made of others.
//!
//! That the rows of callbackd and of its process are exactly what the program exports is shown by the unit tests of its telemetry.

use std::collections::{BTreeMap, BTreeSet};

use super::promql::{Matcher, Query};

/// What Prometheus adds to every series.
pub(crate) const ADDED: [&str; 2] = ["instance", "job"];
/// Labels with a closed set of values, all of which stand in the document.
const CLOSED: [&str; 8] = ["cause", "class", "kind", "outcome", "reason", "result", "state", "verdict"];

const FUNCTIONS: [&str; 20] = [
    "absent",
    "changes",
    "count",
    "count_over_time",
    "deriv",
    "histogram_quantile",
    "increase",
    "label_replace",
    "last_over_time",
    "max",
    "max_over_time",
    "min",
    "min_over_time",
    "rate",
    "sum",
    "time",
    "topk",
    "vector",
    "label_values",
    "scalar",
];

/// The labels of each metric, and the values that labels can have.
#[derive(Debug)]
pub(crate) struct Catalogue {
    labels: BTreeMap<String, BTreeSet<String>>,
    values: BTreeMap<String, BTreeSet<String>>,
}

impl Catalogue {
    /// Reads the tables and the section on label values.
    pub(crate) fn read(document: &str) -> Self {
        let mut labels = BTreeMap::from([("up".to_owned(), BTreeSet::new())]);
        for line in document.lines() {
            let columns: Vec<&str> = line.split('|').map(str::trim).collect();
            if let ["", name, kind @ ("counter" | "gauge" | "histogram"), of, _, ""] = columns[..] {
                let of: BTreeSet<String> = quoted(of).map(str::to_owned).collect();
                let name = name.trim_matches('`');
                if kind == "histogram" {
                    let with_le = of.iter().cloned().chain(["le".to_owned()]).collect();
                    labels.insert(format!("{name}_bucket"), with_le);
                    labels.insert(format!("{name}_sum"), of.clone());
                    labels.insert(format!("{name}_count"), of);
                } else {
                    labels.insert(name.to_owned(), of);
                }
            }
        }
        Self { labels, values: values(document) }
    }

    /// The labels of a metric without those that Prometheus adds.
    pub(crate) fn labels(&self, metric: &str) -> Option<&BTreeSet<String>> {
        self.labels.get(metric)
    }

    pub(crate) fn knows_value(&self, label: &str, value: &str) -> bool {
        self.values.get(label).is_some_and(|values| values.contains(value))
    }

    /// What a query names that is not there.
    pub(crate) fn problems(&self, text: &str) -> Vec<String> {
        let query = Query::read(text);
        let mut problems = Vec::new();
        for selector in &query.selectors {
            match self.labels(&selector.metric) {
                None => problems.push(format!("no metric {}", selector.metric)),
                Some(labels) => {
                    problems.extend(selector.matchers.iter().flat_map(|matcher| self.misfit(&selector.metric, labels, matcher)))
                }
            }
        }
        let known = self.labels_of(&query);
        problems.extend(
            query.groupings.iter().filter(|label| !known.contains(*label)).map(|label| format!("no metric here has a label {label}")),
        );
        problems
            .extend(query.functions.iter().filter(|name| !FUNCTIONS.contains(&name.as_str())).map(|name| format!("no function {name}")));
        if query.selectors.is_empty() {
            problems.push("no metric at all".to_owned());
        }
        problems.into_iter().map(|problem| format!("{problem} ({text})")).collect()
    }

    /// The labels that the result of a query can have: those that it groups by where it does, else those of its metrics.
    pub(crate) fn labels_of_result(&self, text: &str) -> BTreeSet<String> {
        let query = Query::read(text);
        if query.groupings.is_empty() { self.labels_of(&query) } else { query.groupings }
    }

    fn labels_of(&self, query: &Query) -> BTreeSet<String> {
        let own = query.selectors.iter().filter_map(|selector| self.labels(&selector.metric)).flatten();
        own.chain(&query.made).cloned().chain(ADDED.map(str::to_owned)).collect()
    }

    fn misfit(&self, metric: &str, labels: &BTreeSet<String>, matcher: &Matcher) -> Vec<String> {
        let Matcher { label, operator, value } = matcher;
        if !labels.contains(label) && !ADDED.contains(&label.as_str()) {
            return vec![format!("{metric} has no label {label}")];
        }
        let is_closed = metric.starts_with("callbackd_") && CLOSED.contains(&label.as_str()) && !value.contains('$');
        let wanted = value.split('|').filter(|_| is_closed);
        debug_assert!(!operator.is_empty(), "{matcher:?}");
        wanted.filter(|value| !self.knows_value(label, value)).map(|value| format!("{label} is never {value}")).collect()
    }
}

/// The values of each label: what is quoted in the points that begin with it.
fn values(document: &str) -> BTreeMap<String, BTreeSet<String>> {
    let section = document.split("\n## Label values\n").nth(1).and_then(|rest| rest.split("\n## ").next()).unwrap_or_default();
    let mut values: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for point in section.split("\n- ").skip(1).map(|point| point.split("\n\n").next().unwrap_or_default()) {
        let mut words = quoted(point);
        let label = words.next().unwrap_or_default().to_owned();
        values.entry(label).or_default().extend(words.map(str::to_owned));
    }
    values
}

/// What stands between backticks.
pub(crate) fn quoted(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
