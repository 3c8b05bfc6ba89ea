//! Secrets: a value, `{ env = "NAME" }` or `{ file = "path" }`. No problem ever shows one.

use secrecy::SecretString;
use toml::{Table, Value};

use super::file::read_text;
use super::kinds::Fault;
use super::reading::Reading;

/// No secret is longer: it would be a wrong file.
const LIMIT: u64 = 64 * 1024;

/// What a secret can be written as.
const FORMS: &str = r#"write a text, { env = "NAME" } or { file = "path" }"#;

/// Reads a secret: from the file itself, a variable, or another file, whose last line break is no part of it.
pub(super) fn secret<'r>(reading: &'r Reading<'r>) -> impl Fn(&Value) -> Result<SecretString, Fault> {
    move |value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Table(table) => from_elsewhere(reading, table)?,
            // Not shown, whatever it is: a number may be the secret itself.
            _ => return Err(Fault::Kind(format!("is no secret; {FORMS}"))),
        };
        if text.is_empty() { Err(Fault::content("is empty")) } else { Ok(text.into()) }
    }
}

fn from_elsewhere(reading: &Reading<'_>, table: &Table) -> Result<String, Fault> {
    let place = table.iter().next().filter(|_| table.len() == 1);
    match place.map(|(key, value)| (key.as_str(), value.as_str())) {
        Some(("env", Some(name))) => from_variable(reading, name),
        Some(("file", Some(path))) => from_file(reading, path),
        _ => Err(Fault::content(format!("is no secret; {FORMS}"))),
    }
}

fn from_variable(reading: &Reading<'_>, name: &str) -> Result<String, Fault> {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    if !name.bytes().all(letters) || name.is_empty() || name.len() > 100 {
        // Not shown: it may be the secret itself.
        return Err(Fault::content("env is no name of a variable"));
    }
    let set = reading.environment().get(name).map(str::to_owned);
    set.ok_or_else(|| Fault::content(format!("the environment variable {name} is not set (or is not UTF-8)")))
}

fn from_file(reading: &Reading<'_>, path: &str) -> Result<String, Fault> {
    let path = reading.resolve(path);
    let mut text = read_text(&path, LIMIT).map_err(|problem| Fault::content(format!("the file {path:?} {problem}")))?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use secrecy::ExposeSecret as _;

    use super::super::environment::Environment;
    use super::*;

    #[test]
    fn a_secret_comes_from_the_value_a_variable_or_a_file() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("key"), "from the file\r\n").unwrap();
        std::fs::write(folder.path().join("long"), "CANARY".repeat(20_000)).unwrap();
        std::fs::write(folder.path().join("nothing"), "\n").unwrap();
        let environment: Environment = [("NAME".to_owned(), "from the variable\n".to_owned())].into_iter().collect();
        let file = folder.path().join("x.toml");
        let reading = Reading::of(&file, &environment);
        let read =
            |toml: &str| secret(&reading)(&toml.parse().unwrap()).map_err(Fault::into_text).map(|text| text.expose_secret().to_owned());

        assert_eq!(read("'value'"), Ok("value".to_owned()));
        assert_eq!(read("{ env = 'NAME' }"), Ok("from the variable\n".to_owned()));
        assert_eq!(read("{ file = 'key' }"), Ok("from the file".to_owned()));
        assert_eq!(read(&format!("{{ file = {:?} }}", folder.path().join("key"))), Ok("from the file".to_owned()));

        assert_eq!(read("{ env = 'OTHER' }").unwrap_err(), "the environment variable OTHER is not set (or is not UTF-8)");
        assert_eq!(read("{ env = 'CANARY==' }").unwrap_err(), "env is no name of a variable");
        assert!(read("{ file = 'none' }").unwrap_err().contains("none\" cannot be read: No such file"));
        assert!(read("{ file = 'long' }").unwrap_err().ends_with("is over 65536 bytes long"));
        assert_eq!(read("{ file = 'nothing' }").unwrap_err(), "is empty");
        for bad in ["{ env = 'NAME', file = 'key' }", "{}", "{ value = 'CANARY' }", "{ env = 1 }", "['CANARY']", "17"] {
            assert_eq!(read(bad).unwrap_err(), format!("is no secret; {FORMS}"), "{bad}");
        }
    }
}
