//! The environment: what `{ env = "NAME" }` finds, and the overrides `CALLBACKD__SECTION__KEY`.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;

use toml::{Table, Value};

/// What every override's name starts with.
pub(super) const PREFIX: &str = "CALLBACKD__";

/// A copy of environment variables. Prints their number only: values are often secrets.
#[derive(Clone, Default)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    /// Overrides whose name or value is not UTF-8: their names, as far as they can be shown.
    unreadable: Vec<String>,
}

impl Environment {
    /// The environment of this process. A variable that is not UTF-8 is not set; one that is meant as an override is a
    /// problem of the configuration besides.
    #[must_use]
    pub fn of_process() -> Self {
        std::env::vars_os().collect()
    }

    /// The value of a variable; `None` when it is not set.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str)
    }
}

impl FromIterator<(String, String)> for Environment {
    fn from_iter<I: IntoIterator<Item = (String, String)>>(variables: I) -> Self {
        Self { variables: variables.into_iter().collect(), unreadable: Vec::new() }
    }
}

impl FromIterator<(OsString, OsString)> for Environment {
    fn from_iter<I: IntoIterator<Item = (OsString, OsString)>>(variables: I) -> Self {
        let mut environment = Self::default();
        for (name, value) in variables {
            match (name.to_str(), value.into_string()) {
                (Some(name), Ok(value)) => drop(environment.variables.insert(name.to_owned(), value)),
                _ if name.as_encoded_bytes().starts_with(PREFIX.as_bytes()) => {
                    environment.unreadable.push(name.to_string_lossy().into_owned());
                }
                _ => {}
            }
        }
        environment.unreadable.sort();
        environment
    }
}

impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Environment({} variables)", self.variables.len())
    }
}

/// Which keys of a table came from which variables.
#[derive(Debug, Default)]
pub(super) struct Overrides {
    /// The path of every value that a variable set.
    set: BTreeMap<String, String>,
    /// The path of every table, list or value that stands there because of a variable alone.
    made: BTreeMap<String, String>,
}

/// One step from a table to a value in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Step {
    Key(String),
    Index(usize),
}

impl Overrides {
    /// Puts the values of all `CALLBACKD__*` variables into the table, as texts: what kind a value should be is known only
    /// to who reads it. Problems name the variable.
    pub(super) fn apply(table: &mut Table, environment: &Environment) -> (Self, Vec<String>) {
        let mut overrides = Self::default();
        let mut problems: Vec<String> = environment.unreadable.iter().map(|name| format!("{name}: is not UTF-8")).collect();
        let mut wanted = BTreeMap::new();
        for (name, value) in &environment.variables {
            let Some(rest) = name.strip_prefix(PREFIX) else { continue };
            match steps(rest) {
                None => problems.push(format!("{name}: is no key; write {PREFIX}SECTION__KEY")),
                Some(steps) => {
                    if let Some((other, _)) = wanted.insert(steps, (name, value)) {
                        problems.push(format!("{}: says the same as {}", name.max(other), name.min(other)));
                    }
                }
            }
        }
        let mut root = Value::Table(std::mem::take(table));
        // In order of their steps: what holds something comes before what it holds.
        for (steps, (name, value)) in wanted {
            if let Err(problem) = overrides.place(&mut root, &steps, name, value) {
                problems.push(format!("{name}: {problem}"));
            }
        }
        if let Value::Table(filled) = root {
            *table = filled;
        }
        (overrides, problems)
    }

    /// Whether a variable set this value itself.
    pub(super) fn is_set(&self, path: &str) -> bool {
        self.set.contains_key(path)
    }

    /// The variable to name in a problem of a value: the one that set it or something that holds it.
    pub(super) fn origin(&self, path: &str) -> Option<&str> {
        if self.set.is_empty() {
            return None;
        }
        let ends = path.char_indices().filter(|(_, character)| matches!(character, '.' | '[')).map(|(index, _)| index);
        ends.chain([path.len()]).find_map(|end| self.set.get(&path[..end])).map(String::as_str)
    }

    /// The variable to name in a problem of a key that should not be there.
    pub(super) fn maker(&self, path: &str) -> Option<&str> {
        self.made.get(path).map(String::as_str).or_else(|| self.origin(path))
    }

    fn place(&mut self, root: &mut Value, steps: &[Step], name: &str, text: &str) -> Result<(), String> {
        let mut at = root;
        let mut path = String::new();
        for (index, step) in steps.iter().enumerate() {
            if self.is_set(&path)
                && let Some(parsed) = from_toml(at)
            {
                *at = parsed;
            }
            let empty = || match steps.get(index + 1) {
                None => Value::String(String::new()),
                Some(Step::Key(_)) => Value::Table(Table::new()),
                Some(Step::Index(_)) => Value::Array(Vec::new()),
            };
            let inside = format!("{path}{}", shown(step, path.is_empty()));
            let made = match (&mut *at, step) {
                (Value::Table(table), Step::Key(key)) => !table.contains_key(key),
                (Value::Array(list), Step::Index(index)) if *index <= list.len() => *index == list.len(),
                (Value::Array(list), Step::Index(_)) => {
                    return Err(format!("there is no {inside}; the next that can be made is {path}[{}]", list.len()));
                }
                (_, Step::Key(_)) => return Err(format!("{path} has no keys")),
                (_, Step::Index(_)) => return Err(format!("{path} is no list")),
            };
            if made {
                self.made.insert(inside.clone(), name.to_owned());
            }
            at = match (at, step) {
                (Value::Table(table), Step::Key(key)) => table.entry(key.clone()).or_insert_with(empty),
                (Value::Array(list), Step::Index(index)) => {
                    if made {
                        list.push(empty());
                    }
                    &mut list[*index]
                }
                // Refused above.
                (other, _) => other,
            };
            path = inside;
        }
        *at = Value::String(text.to_owned());
        self.set.insert(path, name.to_owned());
        Ok(())
    }
}

/// What a text from a variable says when it is read as TOML; `None` when it is no TOML or a text itself.
pub(super) fn from_toml(text: &Value) -> Option<Value> {
    text.as_str()?.parse::<Value>().ok().filter(|value| !value.is_str())
}

fn steps(rest: &str) -> Option<Vec<Step>> {
    rest.split("__")
        .map(|part| match part.parse() {
            Ok(index) if part.bytes().all(|byte| byte.is_ascii_digit()) => Some(Step::Index(index)),
            _ if part.is_empty() => None,
            _ => Some(Step::Key(part.to_lowercase())),
        })
        .collect()
}

fn shown(step: &Step, first: bool) -> String {
    match step {
        Step::Key(key) if first => key.clone(),
        Step::Key(key) => format!(".{key}"),
        Step::Index(index) => format!("[{index}]"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied(text: &str, variables: &[(&str, &str)]) -> (Table, Overrides, Vec<String>) {
        let mut table: Table = text.parse().unwrap();
        let environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let (overrides, problems) = Overrides::apply(&mut table, &environment);
        (table, overrides, problems)
    }

    #[test]
    fn a_variable_replaces_makes_and_appends() {
        let (table, overrides, problems) = applied(
            "[[source]]\nname = 'a'\nprefetch = 5",
            &[
                ("CALLBACKD__SOURCE__0__PREFETCH", "7"),
                ("CALLBACKD__SOURCE__1__NAME", "b"),
                ("CALLBACKD__BROKER__URL", "x"),
                ("PATH", "/bin"),
                ("CALLBACKD_OTHER", "x"),
            ],
        );
        assert!(problems.is_empty(), "{problems:?}");
        let expected: Table = "source = [{ name = 'a', prefetch = '7' }, { name = 'b' }]\nbroker.url = 'x'".parse().unwrap();
        assert_eq!(table, expected);
        assert_eq!(overrides.origin("source[0].prefetch"), Some("CALLBACKD__SOURCE__0__PREFETCH"));
        assert_eq!(overrides.origin("source[0].name"), None);
        assert_eq!(overrides.origin("broker.declare"), None);
        assert_eq!(overrides.maker("broker"), Some("CALLBACKD__BROKER__URL"));
        assert_eq!(overrides.maker("source"), None);
    }

    #[test]
    fn a_variable_may_hold_a_whole_table_and_another_one_change_it() {
        let (table, overrides, problems) = applied(
            "",
            &[("CALLBACKD__DELIVERY__RETRY", "{ initial = '2s', jitter = 0.1 }"), ("CALLBACKD__DELIVERY__RETRY__JITTER", "0.3")],
        );
        assert!(problems.is_empty(), "{problems:?}");
        let expected: Table = "delivery.retry = { initial = '2s', jitter = '0.3' }".parse().unwrap();
        assert_eq!(table, expected);
        assert_eq!(overrides.origin("delivery.retry.initial"), Some("CALLBACKD__DELIVERY__RETRY"));
    }

    #[test]
    fn an_override_that_is_not_utf_8_is_a_problem_and_any_other_variable_is_not() {
        use std::os::unix::ffi::OsStringExt as _;
        let bad = |text: &str| OsString::from_vec([text.as_bytes(), b"\xff"].concat());
        let variables = [
            ("CALLBACKD__LOG__LEVEL".into(), bad("CANARY")),
            (bad("CALLBACKD__LOG__"), "CANARY".into()),
            (bad("OTHER"), "CANARY".into()),
            ("OTHER".into(), bad("CANARY")),
            ("CALLBACKD__LOG__FORMAT".into(), "json".into()),
        ];
        let environment: Environment = variables.into_iter().collect();
        let mut table = Table::new();
        let (_, problems) = Overrides::apply(&mut table, &environment);
        assert_eq!(problems, ["CALLBACKD__LOG__LEVEL: is not UTF-8", "CALLBACKD__LOG__\u{fffd}: is not UTF-8"]);
        assert_eq!((environment.get("OTHER"), table), (None, "log.format = 'json'".parse().unwrap()));
    }

    #[test]
    fn a_variable_that_fits_nowhere_is_named_and_its_value_is_not() {
        let (_, _, problems) = applied(
            "[broker]\nurl = 'x'\n[[source]]\nname = 'a'",
            &[
                ("CALLBACKD__BROKER__URL__DEEPER", "CANARY"),
                ("CALLBACKD__SOURCE__3__NAME", "CANARY"),
                ("CALLBACKD__SOURCE__NAME", "CANARY"),
                ("CALLBACKD__BROKER__0", "CANARY"),
                ("CALLBACKD____X", "CANARY"),
                ("CALLBACKD__", "CANARY"),
                ("CALLBACKD__LOG__LEVEL", "CANARY"),
                ("CALLBACKD__log__level", "CANARY"),
            ],
        );
        assert_eq!(
            problems,
            [
                "CALLBACKD__: is no key; write CALLBACKD__SECTION__KEY",
                "CALLBACKD____X: is no key; write CALLBACKD__SECTION__KEY",
                "CALLBACKD__log__level: says the same as CALLBACKD__LOG__LEVEL",
                "CALLBACKD__BROKER__URL__DEEPER: broker.url has no keys",
                "CALLBACKD__BROKER__0: broker is no list",
                "CALLBACKD__SOURCE__NAME: source has no keys",
                "CALLBACKD__SOURCE__3__NAME: there is no source[3]; the next that can be made is source[1]",
            ]
        );
    }
}
