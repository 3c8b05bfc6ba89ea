//! Alerts, their tests and their runbooks.

use std::collections::{BTreeMap, BTreeSet};

use callbackd::cli::Cli;
use clap::Parser as _;
use serde_json::Value;

use super::metrics::{ADDED, Catalogue, quoted};
use super::promql::Query;

const HEADINGS: [&str; 4] = ["## First look", "## Causes and remedies", "## Escalate", "## Over when"];
/// What somebody who was woken reads.
const LINES: usize = 75;

/// All alerts of a file of rules.
pub(crate) fn alerts(rules: &Value) -> impl Iterator<Item = &Value> {
    rules["groups"].as_array().into_iter().flatten().flat_map(|group| group["rules"].as_array().into_iter().flatten())
}

pub(crate) fn name(alert: &Value) -> &str {
    alert["alert"].as_str().unwrap_or("(no name)")
}

/// What is wrong with one alert by itself.
pub(crate) fn of_alert(alert: &Value, catalogue: &Catalogue) -> Vec<String> {
    let name = name(alert);
    let expression = alert["expr"].as_str().unwrap_or_default();
    let mut problems = catalogue.problems(expression);
    if !["critical", "warning"].contains(&alert["labels"]["severity"].as_str().unwrap_or_default()) {
        problems.push("its severity is neither critical nor warning".to_owned());
    }
    let expected = format!("deploy/runbooks/{name}.md");
    if alert["annotations"]["runbook_url"] != expected.as_str() {
        problems.push(format!("its runbook_url is not {expected}"));
    }
    let can_have = catalogue.labels_of_result(expression);
    for key in ["summary", "description"] {
        let text = alert["annotations"][key].as_str().unwrap_or_default();
        if text.len() < 20 {
            problems.push(format!("its {key} says nothing"));
        }
        let used = text.split("$labels.").skip(1).filter_map(|rest| rest.split([' ', '}']).next());
        problems.extend(used.filter(|label| !can_have.contains(*label)).map(|label| format!("its {key} shows {label}, which it lacks")));
    }
    problems.into_iter().map(|problem| format!("{name}: {problem}")).collect()
}

/// What is wrong with one alert's page.
pub(crate) fn of_runbook(alert: &Value, page: &str, catalogue: &Catalogue) -> Vec<String> {
    let name = name(alert);
    let severity = format!("\n\n**{}.** ", alert["labels"]["severity"].as_str().unwrap_or_default());
    let mut problems = Vec::new();
    if !page.starts_with(&format!("# {name}{severity}")) {
        problems.push(format!("does not open with its name and {severity:?}"));
    }
    problems
        .extend(HEADINGS.into_iter().filter(|heading| !page.contains(&format!("\n{heading}\n"))).map(|heading| format!("lacks {heading}")));
    if page.lines().count() > LINES {
        problems.push(format!("has more than {LINES} lines"));
    }
    if !page.contains("\n```promql\n") || !page.contains("\n```sh\n") {
        problems.push("lacks commands or queries".to_owned());
    }
    problems.extend(of_text(page, catalogue));
    problems.into_iter().map(|problem| format!("{name}.md: {problem}")).collect()
}

/// The queries and commands in a text that do not exist.
pub(crate) fn of_text(page: &str, catalogue: &Catalogue) -> Vec<String> {
    let (mut problems, mut outside) = (Vec::new(), String::new());
    for (index, part) in page.split("```").enumerate() {
        match part.split_once('\n') {
            Some(("promql", queries)) if index % 2 == 1 => problems.extend(queries.lines().flat_map(|query| catalogue.problems(query))),
            Some(("sh", commands)) if index % 2 == 1 => problems.extend(commands.lines().flat_map(|line| of_command(line, catalogue))),
            Some((language, _)) if index % 2 == 1 => problems.push(format!("has a block of {language:?}")),
            _ => outside.push_str(part),
        }
    }
    for span in quoted(&outside) {
        if ["callbackd_", "process_", "rabbitmq_d", "rabbitmq_g", "rate(", "deriv("].iter().any(|start| span.starts_with(start)) {
            problems.extend(catalogue.problems(span));
        } else if span.starts_with("callbackd ") {
            problems.extend(of_command(span, catalogue));
        } else if span.starts_with("dead ") {
            problems.extend(of_command(&format!("callbackd {span}"), catalogue));
        }
    }
    problems
}

/// What is wrong with a command line: callbackd must take it, and what is looked for in `/metrics` must be there.
fn of_command(line: &str, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    if line.starts_with("callbackd ") && !line.ends_with(" ...") {
        // Is it one that the program takes? Values are judged when it runs, but for reasons, which are known.
        if let Err(error) = Cli::try_parse_from(line.split_whitespace()) {
            problems.push(format!("{line}: {}", error.to_string().lines().next().unwrap_or_default()));
        }
        let reason = line.split("--reason ").nth(1).and_then(|rest| rest.split(' ').next());
        problems
            .extend(reason.filter(|reason| !catalogue.knows_value("reason", reason)).map(|reason| format!("{line}: no reason {reason}")));
    }
    if let Some(names) = line.split("grep -E '").nth(1).and_then(|rest| rest.split('\'').next()) {
        let missing = names.split('|').filter(|name| catalogue.labels(name).is_none());
        problems.extend(missing.map(|name| format!("{line}: no metric {name}")));
    }
    problems
}

/// The alerts that a file of rule tests shows firing, and those that it shows quiet.
pub(crate) fn shown(tests: &Value) -> (BTreeSet<String>, BTreeSet<String>) {
    let (mut firing, mut quiet) = (BTreeSet::new(), BTreeSet::new());
    for group in tests["tests"].as_array().into_iter().flatten() {
        for case in group["alert_rule_test"].as_array().into_iter().flatten() {
            let is_quiet = case["exp_alerts"].as_array().is_none_or(Vec::is_empty);
            let names = if is_quiet { &mut quiet } else { &mut firing };
            names.insert(case["alertname"].as_str().unwrap_or_default().to_owned());
        }
        for case in group["promql_expr_test"].as_array().into_iter().flatten() {
            let samples = case["exp_samples"].as_array().into_iter().flatten().filter_map(|sample| sample["labels"].as_str());
            let named = samples.flat_map(|labels| Query::read(&format!("x{}", labels.trim_start_matches("ALERTS"))).selectors);
            let named =
                named.flat_map(|selector| selector.matchers).filter(|matcher| matcher.label == "alertname").map(|matcher| matcher.value);
            firing.extend(named);
            if case["exp_samples"].as_array().is_none_or(Vec::is_empty) {
                let selectors = Query::read(case["expr"].as_str().unwrap_or_default()).selectors;
                let names = selectors.into_iter().flat_map(|selector| selector.matchers).filter(|matcher| matcher.label == "alertname");
                quiet.extend(names.flat_map(|matcher| matcher.value.split('|').map(str::to_owned).collect::<Vec<_>>()));
            }
        }
    }
    (firing, quiet)
}

/// The series in rule tests that no worker or broker has: each must have all labels of its metric and no others.
pub(crate) fn of_series(tests: &Value, catalogue: &Catalogue) -> Vec<String> {
    let groups = tests["tests"].as_array().into_iter().flatten();
    let series =
        groups.flat_map(|group| group["input_series"].as_array().into_iter().flatten()).filter_map(|series| series["series"].as_str());
    let mut problems = BTreeMap::new();
    for text in series {
        let Some(selector) = Query::read(text).selectors.pop() else { continue };
        let expected =
            catalogue.labels(&selector.metric).map(|labels| labels.iter().map(String::as_str).chain(ADDED).collect::<BTreeSet<_>>());
        let found: BTreeSet<&str> = selector.matchers.iter().map(|matcher| matcher.label.as_str()).collect();
        if expected.as_ref() != Some(&found) {
            problems.insert(text.to_owned(), format!("{text}: its labels are to be {expected:?}"));
        }
        problems.extend(catalogue.problems(text).into_iter().map(|problem| (problem.clone(), problem)));
    }
    problems.into_values().collect()
}
