//! The JSON Schemas of both files, for editors and for checks before a deployment. They are written from what the readers ask for
//! while they read the example files, which show every key, so that no list of keys stands anywhere twice.
//!
//! A schema never refuses what the program takes; it cannot say everything that the program refuses.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value as Json, json};
use toml::{Table, Value};

use super::kinds::Fault;
use super::units::{show_duration, show_size};
use super::wanted::Wanted;

/// The keys that were asked for, by their paths without indexes.
#[derive(Debug, Clone, Default)]
pub(super) struct Asked(BTreeMap<String, Key>);

#[derive(Debug, Clone)]
struct Key {
    shape: Shape,
    marks: BTreeSet<Mark>,
}

/// What may stand under a key.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// A single value.
    One(Wanted),
    /// A list of so many single values at most.
    List(Wanted, usize),
    /// A table.
    Table,
    /// A list of so many tables at most.
    Tables(usize),
    /// A table whose keys are the user's own and whose values are secrets.
    Open,
}

/// What more is known of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Mark {
    /// It must be there.
    Required,
    /// It has a default.
    Default,
}

impl Wanted {
    /// What a kind takes: it says so when it gets a date, which none takes.
    pub(super) fn of<T>(parse: impl Fn(&Value) -> Result<T, Fault>) -> Self {
        match parse(&Value::Datetime("2025-09-03".parse().unwrap())) {
            Err(Fault::Kind(_, wanted)) => wanted,
            Err(Fault::Content(text)) => panic!("a date is said to be of the right kind, but {text}"),
            Ok(_) => panic!("a date is taken"),
        }
    }

    fn schema(&self) -> Json {
        match self {
            Self::Boolean => json!({"type": "boolean"}),
            Self::Integer(range) => json!({"type": "integer", "minimum": range.start(), "maximum": range.end()}),
            Self::Number(range) => json!({"type": "number", "minimum": range.start(), "maximum": range.end()}),
            Self::Duration(range) => {
                let title = format!("a duration, {} to {}", show_duration(*range.start()), show_duration(*range.end()));
                json!({"title": title, "type": "string", "pattern": "^[0-9]+(ms|s|m|h|d)$"})
            }
            Self::Rate(range) => {
                let title = format!("a rate, {} to {} for a unit", range.start(), range.end());
                json!({"title": title, "type": "string", "pattern": "^[0-9]+/[smh]$"})
            }
            Self::Size(range) => json!({
                "title": format!("a size, {} to {}", show_size(*range.start()), show_size(*range.end())),
                "anyOf": [
                    {"type": "string", "pattern": "^[0-9]+([KMG]i)?B$"},
                    {"type": "integer", "minimum": range.start(), "maximum": range.end()},
                ],
            }),
            Self::Choice(words) => json!({"enum": words}),
            // The limit is in bytes, and no text has more characters than bytes.
            Self::Text(limit) => json!({"type": "string", "minLength": 1, "maxLength": limit}),
            Self::Word(limit) => json!({"type": "string", "minLength": 1, "maxLength": limit, "pattern": "^[A-Za-z0-9_-]+$"}),
            Self::AnyText => json!({"type": "string"}),
            Self::Secret => json!({"$ref": "#/definitions/secret"}),
            Self::SecretOrFalse => json!({"anyOf": [{"const": false}, {"$ref": "#/definitions/secret"}]}),
            Self::Ports(most) => {
                let port = json!({"type": "integer", "minimum": 1, "maximum": u16::MAX});
                json!({"anyOf": [{"const": "any"}, {"type": "array", "minItems": 1, "maxItems": most, "items": port}]})
            }
        }
    }
}

impl Shape {
    fn schema(&self) -> Json {
        match self {
            Self::One(wanted) => wanted.schema(),
            Self::List(wanted, most) => json!({"type": "array", "maxItems": most, "items": wanted.schema()}),
            Self::Table => table(),
            Self::Tables(most) => json!({"type": "array", "maxItems": most, "items": table()}),
            Self::Open => json!({"type": "object", "additionalProperties": Wanted::Secret.schema()}),
        }
    }
}

fn table() -> Json {
    json!({"type": "object", "additionalProperties": false, "properties": {}})
}

impl Asked {
    pub(super) fn note(&mut self, path: &str, shape: Shape) {
        let path = plain(path);
        match self.0.get_mut(&path) {
            Some(key) => key.shape = shape,
            None => drop(self.0.insert(path, Key { shape, marks: BTreeSet::new() })),
        }
    }

    pub(super) fn mark(&mut self, path: &str, mark: Mark) {
        self.0.get_mut(&plain(path)).expect("a key that was asked for").marks.insert(mark);
    }

    /// The paths of all keys.
    pub(super) fn keys(&self) -> BTreeSet<String> {
        self.0.keys().cloned().collect()
    }

    fn schema(&self, file: &File<'_>) -> Json {
        let mut root = table();
        for (path, key) in &self.0 {
            let (parent, name) = path.rsplit_once('.').unwrap_or(("", path));
            let node = within(&mut root, parent);
            if file.is_whole && key.marks.contains(&Mark::Required) {
                node.entry("required").or_insert_with(|| json!([])).as_array_mut().unwrap().push(name.into());
            }
            node["properties"][name] = file.describe(path, key);
        }
        root["$schema"] = "http://json-schema.org/draft-07/schema#".into();
        root["title"] = file.title.into();
        root["description"] = file.description.into();
        root["definitions"] = json!({"secret": {
            "title": "a secret: its text, or where to find it",
            "anyOf": [
                {"type": "string", "minLength": 1},
                secret_from("env", "a variable", "^[A-Za-z0-9_]{1,100}$"),
                secret_from("file", "a file, relative to this one", "."),
            ],
        }});
        root
    }
}

fn secret_from(key: &str, title: &str, pattern: &str) -> Json {
    let properties = json!({key: {"title": title, "type": "string", "pattern": pattern}});
    json!({"type": "object", "additionalProperties": false, "required": [key], "properties": properties})
}

/// The schema of the table by that path, or of each in the list of tables there.
fn within<'a>(root: &'a mut Json, path: &str) -> &'a mut Map<String, Json> {
    let mut node = root;
    for name in path.split('.').filter(|name| !name.is_empty()) {
        node = &mut node["properties"][name];
        if node["type"] == "array" {
            node = &mut node["items"];
        }
    }
    node.as_object_mut().expect("tables are asked for before what is in them")
}

/// The path without `[index]` and `["name"]`.
fn plain(path: &str) -> String {
    let mut depth = 0;
    let shown = path.chars().filter(|character| {
        depth += i32::from(*character == '[');
        let shown = depth == 0;
        depth -= i32::from(*character == ']');
        shown
    });
    shown.collect()
}

/// What is known of a file beside its keys.
struct File<'a> {
    title: &'a str,
    description: &'a str,
    example: &'a Table,
    comments: BTreeMap<String, String>,
    /// Whether the values of the example are the defaults.
    shows_defaults: bool,
    /// Whether no variable can add to the file, so that what must be there must be in the file.
    is_whole: bool,
}

impl File<'_> {
    fn describe(&self, path: &str, key: &Key) -> Json {
        let mut schema = key.shape.schema();
        if let Some(comment) = self.comments.get(path) {
            schema["description"] = comment.as_str().into();
        }
        if self.shows_defaults && key.marks.contains(&Mark::Default) {
            schema["default"] = serde_json::to_value(shown(self.example, path).expect("the example shows every key")).unwrap();
        }
        schema
    }
}

/// The value that an example shows at a path; in lists of tables, the first.
fn shown<'a>(example: &'a Table, path: &str) -> Option<&'a Value> {
    let (name, rest) = path.split_once('.').map_or((path, None), |(name, rest)| (name, Some(rest)));
    let value = example.get(name)?;
    match (rest, value) {
        (None, _) => Some(value),
        (Some(rest), Value::Table(table)) => shown(table, rest),
        (Some(rest), Value::Array(list)) => list.iter().filter_map(Value::as_table).find_map(|table| shown(table, rest)),
        _ => None,
    }
}

/// The comments right above keys and sections, by their paths; of several the first.
fn comments(text: &str) -> BTreeMap<String, String> {
    let (mut found, mut section, mut above) = (BTreeMap::new(), String::new(), Vec::new());
    for line in text.lines() {
        if let Some(comment) = line.strip_prefix("# ") {
            above.push(comment.trim());
            continue;
        }
        let path = match (line.trim_matches(['[', ']']), line.split_once(" = ")) {
            (name, _) if line.starts_with('[') => {
                section = name.to_owned();
                Some(section.clone())
            }
            (_, Some((key, _))) if section.is_empty() => Some(key.to_owned()),
            (_, Some((key, _))) => Some(format!("{section}.{key}")),
            _ => None,
        };
        if let (Some(path), false) = (path, above.is_empty()) {
            found.entry(path).or_insert_with(|| above.join(" "));
        }
        above.clear();
    }
    found
}

#[cfg(test)]
mod tests {
    use std::path::{Path, PathBuf};

    use super::super::environment::Environment;
    use super::super::reading::Reading;
    use super::super::section::Section;
    use super::super::tests::{configuration_asked, integrators_asked};
    use super::*;

    const WRITTEN: &str = "cargo test config::schema with CALLBACKD_UPDATE=1 in the environment writes this file.";

    fn deploy(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
    }

    fn read(name: &str) -> (String, Table) {
        let text = std::fs::read_to_string(deploy(name)).unwrap();
        let table = text.parse().unwrap();
        (text, table)
    }

    /// Whether a file in the repository is as it should be; with `CALLBACKD_UPDATE=1`, makes it so.
    fn expect_file(name: &str, schema: &Json) {
        let (path, text) = (deploy("schemas").join(name), format!("{schema:#}\n"));
        if Environment::of_process().get("CALLBACKD_UPDATE").is_some() {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, &text).unwrap();
        }
        let found = std::fs::read_to_string(&path).unwrap_or_default();
        assert!(found == text, "{} is stale; {WRITTEN}", path.display());
    }

    #[test]
    fn the_schema_of_the_configuration_is_that_of_the_code() {
        let (text, example) = read("callbackd.example.toml");
        let description = format!(
            "callbackd.toml. No key is required here, as each can be an environment variable (CALLBACKD__BROKER__URL) instead. {WRITTEN}"
        );
        let file = File {
            title: "callbackd.toml",
            description: &description,
            example: &example,
            comments: comments(&text),
            shows_defaults: true,
            is_whole: false,
        };
        expect_file("callbackd.schema.json", &configuration_asked().schema(&file));
    }

    #[test]
    fn the_schema_of_the_integrators_is_that_of_the_code() {
        let (text, example) = read("integrators.example.toml");
        let mut all = comments(&text);
        // What an endpoint has from [delivery] is described there.
        for (path, comment) in comments(&read("callbackd.example.toml").0) {
            if let Some(key) = path.strip_prefix("delivery.") {
                all.insert(format!("integrator.endpoint.{key}"), comment);
            }
        }
        let description = format!("integrators.toml. {WRITTEN}");
        let file = File {
            title: "integrators.toml",
            description: &description,
            example: &example,
            comments: all,
            shows_defaults: false,
            is_whole: true,
        };
        expect_file("integrators.schema.json", &integrators_asked().schema(&file));
    }

    #[test]
    fn what_the_readers_ask_for_becomes_a_schema() {
        use super::super::kinds::{boolean, integer, text, word};
        let example: Table = "on = true\n[[list]]\nname = 'a'\nports = [1]\n".parse().unwrap();
        let environment = Environment::default();
        let reading = Reading::of(Path::new("x.toml"), &environment);
        Section::root(&reading, example.clone(), |root| {
            root.or("on", true, boolean);
            root.sections("list", 7, |section| {
                let name = section.required("name", word(9));
                section.call(&name.clone().unwrap_or_default());
                section.list("ports", 3, integer::<u16>(1..=9));
                section.optional("note", text(5));
                name
            });
        });
        let comments = comments("# On or off.\non = true\n\n# Of lists.\n\n[[list]]\n# Its\n# name.\nname = 'a'\n");
        let file = File { title: "t", description: "d", example: &example, comments, shows_defaults: true, is_whole: true };
        let schema = reading.asked().schema(&file);
        assert_eq!(schema["properties"]["on"], json!({"type": "boolean", "default": true, "description": "On or off."}));
        let list = &schema["properties"]["list"];
        assert_eq!((&list["type"], &list["maxItems"], list.get("description")), (&json!("array"), &json!(7), None));
        let item = &list["items"];
        assert_eq!((&item["required"], &item["additionalProperties"]), (&json!(["name"]), &json!(false)));
        assert_eq!(item["properties"]["name"]["description"], "Its name.");
        let ports = json!({"type": "array", "maxItems": 3, "items": {"type": "integer", "minimum": 1, "maximum": 9}});
        assert_eq!(item["properties"]["ports"], ports);
        assert_eq!(item["properties"]["note"], json!({"type": "string", "minLength": 1, "maxLength": 5}));
    }
}
