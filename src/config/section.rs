//! A table being read: every key is asked for by name, every problem is noted, and what is left over is unknown.

use std::collections::HashSet;

use toml::{Table, Value};

use super::environment::from_toml;
use super::kinds::{Fault, described};
use super::problems::quoted;
use super::reading::Reading;
#[cfg(test)]
use super::schema::{Mark, Shape};
#[cfg(test)]
use super::wanted::Wanted;

/// A table of the file and its place there. Reading goes on after a problem, so that all are found; where a value is
/// missing or wrong there is none to use, and [`Reading::finish`] refuses the whole.
#[derive(Debug)]
pub(super) struct Section<'r> {
    table: Table,
    path: String,
    known: Vec<&'static str>,
    given: HashSet<&'static str>,
    reading: &'r Reading<'r>,
}

impl<'r> Section<'r> {
    /// Reads the whole file with `read`, then reports the keys that it did not ask for.
    pub(super) fn root<T>(reading: &'r Reading<'r>, table: Table, read: impl FnOnce(&mut Self) -> T) -> T {
        Self::of(reading, table, String::new(), read)
    }

    /// The file being read.
    pub(super) const fn reading(&self) -> &'r Reading<'r> {
        self.reading
    }

    /// The value of a key that may be absent. `None` also when it is wrong.
    pub(super) fn optional<T>(&mut self, key: &'static str, parse: impl Fn(&Value) -> Result<T, Fault>) -> Option<T> {
        #[cfg(test)]
        self.reading.ask(&self.path_of(key), Shape::One(Wanted::of(&parse)));
        let value = self.take(key)?;
        let path = self.path_of(key);
        self.reading.parse(&path, &value, parse)
    }

    /// The value of a key, or what it is when it is absent or wrong.
    pub(super) fn or<T>(&mut self, key: &'static str, default: T, parse: impl Fn(&Value) -> Result<T, Fault>) -> T {
        let value = self.optional(key, parse);
        #[cfg(test)]
        self.reading.mark(&self.path_of(key), Mark::Default);
        value.unwrap_or(default)
    }

    /// The value of a key that must be there.
    pub(super) fn required<T>(&mut self, key: &'static str, parse: impl Fn(&Value) -> Result<T, Fault>) -> Option<T> {
        if !self.table.contains_key(key) {
            self.problem(key, "is missing");
        }
        let value = self.optional(key, parse);
        #[cfg(test)]
        self.reading.mark(&self.path_of(key), Mark::Required);
        value
    }

    /// The table of a key, read with `read`; an absent one is empty.
    pub(super) fn section<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Section<'r>) -> T) -> T {
        let path = self.path_of(key);
        #[cfg(test)]
        self.reading.ask(&path, Shape::Table);
        let table = match self.take(key).map(|value| self.reading.plain(&path, value)) {
            None => Table::new(),
            Some(Value::Table(table)) => table,
            Some(other) => {
                self.reading.problem(&path, &format!("{} is no table; write [{path}]", described(&other)));
                Table::new()
            }
        };
        Self::of(self.reading, table, path, read)
    }

    /// The tables of a list, each read with `read`; `None` when the key is absent.
    pub(super) fn sections<T>(
        &mut self,
        key: &'static str,
        limit: usize,
        mut read: impl FnMut(&mut Section<'r>) -> Option<T>,
    ) -> Option<Vec<T>> {
        let (reading, path) = (self.reading, self.path_of(key));
        #[cfg(test)]
        reading.ask(&path, Shape::Tables(limit));
        let items = self.items(key, limit)?.into_iter().enumerate();
        let read_one = |(index, item): (usize, Value)| {
            let path = format!("{path}[{index}]");
            match reading.plain(&path, item) {
                Value::Table(table) => Self::of(reading, table, path, &mut read),
                other => {
                    reading.problem(&path, &format!("{} is no table", described(&other)));
                    None
                }
            }
        };
        Some(items.filter_map(read_one).collect())
    }

    /// The values of a list; `None` when the key is absent.
    pub(super) fn list<T>(&mut self, key: &'static str, limit: usize, parse: impl Fn(&Value) -> Result<T, Fault>) -> Option<Vec<T>> {
        let (reading, path) = (self.reading, self.path_of(key));
        #[cfg(test)]
        reading.ask(&path, Shape::List(Wanted::of(&parse), limit));
        let items = self.items(key, limit)?.into_iter().enumerate();
        Some(items.filter_map(|(index, item)| reading.parse(&format!("{path}[{index}]"), &item, &parse)).collect())
    }

    /// Whether a key that was asked for stands there, good or not.
    pub(super) fn has_been_given(&self, key: &str) -> bool {
        self.given.contains(key)
    }

    /// Whether a key is there, which is thereby known.
    pub(super) fn has(&mut self, key: &'static str) -> bool {
        self.known.push(key);
        self.table.contains_key(key)
    }

    /// Leaves keys unread whose problem has been told.
    pub(super) fn ignore(&mut self, keys: &[&str]) {
        keys.iter().for_each(|key| drop(self.table.remove(*key)));
    }

    /// Whether a key holds a list with nothing in it.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        matches!(self.table.get(key), Some(Value::Array(items)) if items.is_empty())
    }

    /// All keys of this table with their values: for tables whose keys are the user's own.
    pub(super) fn take_all(&mut self) -> Table {
        #[cfg(test)]
        self.reading.ask(&self.path, Shape::Open);
        std::mem::take(&mut self.table)
    }

    /// Notes what is wrong with a key.
    pub(super) fn problem(&self, key: &str, what: impl AsRef<str>) {
        self.reading.problem(&self.path_of(key), what.as_ref());
    }

    /// Notes what is wrong with this whole table.
    pub(super) fn problem_here(&self, what: impl AsRef<str>) {
        self.reading.problem(&self.path, what.as_ref());
    }

    /// Names this table of a list by what it is called instead of its number, which nobody counts in a long file.
    pub(super) fn call(&mut self, name: &str) {
        if let Some(bracket) = self.path.rfind('[') {
            self.path.truncate(bracket);
            self.path.push_str(&format!("[{}]", quoted(name)));
        }
    }

    /// Where a key of this table stands in the file.
    pub(super) fn path_of(&self, key: &str) -> String {
        let bare = !key.is_empty() && key.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-'));
        let key = if bare && key.len() <= 60 { key.to_owned() } else { quoted(key) };
        if self.path.is_empty() { key } else { format!("{}.{key}", self.path) }
    }

    fn of<T>(reading: &'r Reading<'r>, table: Table, path: String, read: impl FnOnce(&mut Section<'r>) -> T) -> T {
        let mut section = Section { table, path, known: Vec::new(), given: HashSet::new(), reading };
        let result = read(&mut section);
        section.refuse_the_rest();
        result
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        if !self.known.contains(&key) {
            self.known.push(key);
        }
        let value = self.table.remove(key)?;
        self.given.insert(key);
        Some(value)
    }

    fn items(&mut self, key: &'static str, limit: usize) -> Option<Vec<Value>> {
        let path = self.path_of(key);
        match self.reading.plain(&path, self.take(key)?) {
            Value::Array(items) if items.len() > limit => {
                self.reading.problem(&path, &format!("has {} entries, at most {limit} are allowed", items.len()));
                Some(Vec::new())
            }
            Value::Array(items) => Some(items),
            other => {
                self.reading.problem(&path, &format!("{} is no list; write [ … ]", described(&other)));
                Some(Vec::new())
            }
        }
    }

    fn refuse_the_rest(self) {
        for key in self.table.keys() {
            self.reading.unknown(&self.path_of(key), &format!("unknown key; {}", suggestion(key, &self.known)));
        }
    }
}

impl Reading<'_> {
    /// A value, where a variable may have put a text in the place of a table or list.
    fn plain(&self, path: &str, value: Value) -> Value {
        if self.is_set(path) { from_toml(&value).unwrap_or(value) } else { value }
    }

    /// Makes a value or notes what is wrong. A text that a variable set is tried as TOML first, then as the text it is.
    pub(super) fn parse<T>(&self, path: &str, value: &Value, parse: impl Fn(&Value) -> Result<T, Fault>) -> Option<T> {
        let typed = if self.is_set(path) { from_toml(value) } else { None };
        let result = match typed.map(|typed| parse(&typed)) {
            None | Some(Err(Fault::Kind(..))) => parse(value),
            Some(result) => result,
        };
        result.map_err(|fault| self.problem(path, &fault.into_text())).ok()
    }
}

/// What the user may have meant.
fn suggestion(key: &str, known: &[&'static str]) -> String {
    let distance = |name: &&&str| strsim::damerau_levenshtein(&key.to_lowercase(), name);
    let nearest = if key.len() > 60 { None } else { known.iter().min_by_key(distance) };
    match nearest {
        Some(name) if distance(&name) <= 1.max(name.len() / 3) => format!("did you mean `{name}`?"),
        _ if known.is_empty() => "there are none here".to_owned(),
        _ => format!("known here: {}", known.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::environment::Environment;
    use super::super::kinds::{boolean, integer, text};
    use super::*;

    /// The problems that reading a text has, each without the file's name, and whether there was a result.
    fn problems<T>(toml: &str, variables: &[(&str, &str)], read: impl FnOnce(&mut Section<'_>) -> Option<T>) -> Vec<String> {
        let environment: Environment = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let mut table = toml.parse().unwrap();
        let reading = Reading::overridden(Path::new("x.toml"), &mut table, &environment);
        let result = Section::root(&reading, table, read);
        match reading.finish(result) {
            Ok(_) => Vec::new(),
            Err(problems) => problems.lines().to_vec(),
        }
    }

    #[test]
    fn finds_all_problems_and_names_the_nearest_key() {
        let found = problems("a = 'x'\nlimitt = 1\nzzzzzz = 1\n'odd key' = 1\n[sub]\nb = 1", &[], |root| {
            let a = root.required("a", integer::<i64>(0..=9));
            let missing = root.required("limit", integer::<i64>(0..=9));
            root.section("sub", |sub| sub.or("c", true, boolean));
            Some((a?, missing?))
        });
        assert_eq!(
            found,
            [
                "x.toml: a: a text is no whole number",
                "x.toml: limit: is missing",
                "x.toml: sub.b: unknown key; did you mean `c`?",
                "x.toml: limitt: unknown key; did you mean `limit`?",
                "x.toml: \"odd key\": unknown key; known here: a, limit, sub",
                "x.toml: zzzzzz: unknown key; known here: a, limit, sub",
            ]
        );
    }

    #[test]
    fn tables_and_lists_of_the_wrong_kind_are_problems_that_show_no_text() {
        let found = problems("sub = 'CANARY'\nlist = 'CANARY'\ntables = ['CANARY', { x = 1 }]\nlong = [1, 2, 3]", &[], |root| {
            root.section("sub", |_| ());
            root.list("list", 9, boolean);
            root.list("long", 2, boolean);
            root.sections("tables", 9, |table| {
                table.call("one");
                table.optional("x", boolean)
            });
            Some(())
        });
        assert_eq!(
            found,
            [
                "x.toml: sub: a text is no table; write [sub]",
                "x.toml: list: a text is no list; write [ … ]",
                "x.toml: long: has 3 entries, at most 2 are allowed",
                "x.toml: tables[0]: a text is no table",
                "x.toml: tables[\"one\"].x: 1 is no true or false",
            ]
        );
    }

    #[test]
    fn a_variable_is_read_as_the_kind_that_is_wanted() {
        let variables = [
            ("CALLBACKD__NUMBER", "7"),
            ("CALLBACKD__NAME", "7"),
            ("CALLBACKD__YES", "true"),
            ("CALLBACKD__LIST", "[1, 2]"),
            ("CALLBACKD__SUB", "{ x = 3 }"),
        ];
        let found = problems("", &variables, |root| {
            assert_eq!(root.required("number", integer::<i64>(0..=9)), Some(7));
            assert_eq!(root.required("name", text(9)), Some("7".to_owned()));
            assert_eq!(root.required("yes", boolean), Some(true));
            assert_eq!(root.list("list", 9, integer::<i64>(0..=9)), Some(vec![1, 2]));
            assert_eq!(root.section("sub", |sub| sub.required("x", integer::<i64>(0..=9))), Some(3));
            Some(())
        });
        assert!(found.is_empty(), "{found:?}");
    }

    #[test]
    fn a_problem_of_a_variable_names_it() {
        let variables = [
            ("CALLBACKD__NUMBER", "70"),
            ("CALLBACKD__NUMBR", "CANARY"),
            ("CALLBACKD__SUBB__X", "CANARY"),
            ("CALLBACKD__SUB", "{ x = 30 }"),
        ];
        let found = problems("number = 1", &variables, |root| {
            let number = root.required("number", integer::<i64>(0..=9));
            root.section("sub", |sub| sub.required("x", integer::<i64>(0..=9)));
            number
        });
        assert_eq!(
            found,
            [
                "CALLBACKD__NUMBER: number: 70 is out of range; write 0 to 9",
                "CALLBACKD__SUB: sub.x: 30 is out of range; write 0 to 9",
                "CALLBACKD__NUMBR: numbr: unknown key; did you mean `number`?",
                "CALLBACKD__SUBB__X: subb: unknown key; did you mean `sub`?",
            ]
        );
    }
}
