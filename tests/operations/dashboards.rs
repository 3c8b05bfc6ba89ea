//! What Grafana would take and show wrongly without a word.

use std::collections::BTreeSet;

use serde_json::Value;

use super::metrics::Catalogue;

const BUILT_IN: [&str; 2] = ["__rate_interval", "__range"];

/// What is wrong with a dashboard by itself.
pub(crate) fn of_dashboard(dashboard: &Value, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    let variables: BTreeSet<&str> = each(&dashboard["templating"]["list"]).filter_map(|variable| variable["name"].as_str()).collect();
    for key in ["uid", "title", "description"] {
        if dashboard[key].as_str().is_none_or(str::is_empty) {
            problems.push(format!("no {key}"));
        }
    }
    let mut ids = BTreeSet::new();
    let mut places: Vec<[u64; 4]> = Vec::new();
    for panel in each(&dashboard["panels"]) {
        let title = panel["title"].as_str().unwrap_or_default();
        if !ids.insert(panel["id"].as_u64()) || panel["id"].as_u64().is_none() {
            problems.push(format!("{title}: its id {} is not its own", panel["id"]));
        }
        let place = ["x", "y", "w", "h"].map(|key| panel["gridPos"][key].as_u64().unwrap_or(99));
        if place[0] + place[2] > 24 || places.iter().any(|other| overlap(*other, place)) {
            problems.push(format!("{title}: lies over another panel or beyond the edge"));
        }
        places.push(place);
        if panel["type"] != "row" {
            problems.extend(of_panel(panel, &variables, catalogue).into_iter().map(|problem| format!("{title}: {problem}")));
        }
    }
    let queries = each(&dashboard["templating"]["list"]).filter_map(|variable| variable["query"]["query"].as_str());
    let queries = queries.filter_map(|query| query.strip_prefix("label_values(")?.rsplit_once(", "));
    problems.extend(queries.flat_map(|(series, label)| {
        let label = label.trim_end_matches(')');
        let lacks = (!catalogue.labels_of_result(series).contains(label)).then(|| format!("{series} has no label {label}"));
        catalogue.problems(series).into_iter().chain(lacks)
    }));
    let annotations = each(&dashboard["annotations"]["list"]).filter_map(|annotation| annotation["expr"].as_str());
    problems.extend(annotations.flat_map(|query| catalogue.problems(query)));
    problems
}

fn of_panel(panel: &Value, variables: &BTreeSet<&str>, catalogue: &Catalogue) -> Vec<String> {
    let mut problems = Vec::new();
    for key in ["title", "description"] {
        if panel[key].as_str().is_none_or(str::is_empty) {
            problems.push(format!("no {key}"));
        }
    }
    if panel["fieldConfig"]["defaults"]["unit"].as_str().is_none_or(str::is_empty) {
        problems.push("no unit".to_owned());
    }
    let mut references = BTreeSet::new();
    for target in each(&panel["targets"]) {
        let expression = target["expr"].as_str().unwrap_or_default();
        problems.extend(catalogue.problems(expression));
        if !references.insert(target["refId"].as_str()) {
            problems.push(format!("two queries {}", target["refId"]));
        }
        if target["datasource"]["uid"] != "${datasource}" {
            problems.push("a query of another data source".to_owned());
        }
        let used =
            expression.split('$').skip(1).map(|rest| rest.split(|c: char| c != '_' && !c.is_alphanumeric()).next().unwrap_or_default());
        let unknown = used.filter(|name| !variables.contains(name) && !BUILT_IN.contains(name));
        problems.extend(unknown.map(|name| format!("no variable {name}")));
        let can_have = catalogue.labels_of_result(expression);
        let legend = target["legendFormat"].as_str().unwrap_or_default();
        let shown = legend.split("{{").skip(1).filter_map(|rest| rest.split("}}").next());
        problems.extend(shown.filter(|label| !can_have.contains(*label)).map(|label| format!("shows {label}, which {expression} lacks")));
    }
    if references.is_empty() {
        problems.push("no query".to_owned());
    }
    problems
}

fn overlap([x, y, w, h]: [u64; 4], [ox, oy, ow, oh]: [u64; 4]) -> bool {
    x < ox + ow && ox < x + w && y < oy + oh && oy < y + h
}

fn each(list: &Value) -> impl Iterator<Item = &Value> {
    list.as_array().into_iter().flatten()
}
