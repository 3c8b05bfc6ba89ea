//! Secrets: a value, `{ env = "NAME" }` or `{ file = "path" }`. No problem ever shows one.

use std::io;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use toml::{Table, Value};

use super::PATH_LIMIT;
use super::environment::PREFIX;
use super::file::read_text;
use super::kinds::Fault;
use super::reading::Reading;
use super::wanted::Wanted;

/// No secret is longer: it would be a wrong file.
const LIMIT: u64 = 64 * 1024;

/// Where the machine and the process show themselves as files, and where Kubernetes puts the account of the pod. `/var/run`
/// leads to `/run` on most systems, so both names of the last stand here.
const SYSTEM: [&str; 5] = ["/proc", "/sys", "/dev", "/run/secrets/kubernetes.io", "/var/run/secrets/kubernetes.io"];

/// What a secret can be written as.
const FORMS: &str = r#"write a text, { env = "NAME" } or { file = "path" }"#;

/// Where the secrets of a file may come from.
#[derive(Debug, Clone, Copy)]
pub(super) enum Places<'e> {
    /// Any variable and any file: whoever writes `callbackd.toml` decides what the process does anyway.
    Any,
    /// `integrators.toml` is often written by others, and what it calls a secret is sent to a URL of their choice. So no
    /// variable that sets up callbackd, and only files below the folder; without one, all but the system's own.
    Integrators {
        /// `[integrators] secrets_dir`.
        folder: Option<&'e Path>,
    },
}

/// Reads a secret: from the file itself, a variable, or another file, whose last line break is no part of it.
pub(super) fn secret<'r>(reading: &'r Reading<'r>) -> impl Fn(&Value) -> Result<SecretString, Fault> {
    move |value| {
        let text = match value {
            Value::String(text) => text.clone(),
            Value::Table(table) => from_elsewhere(reading, table)?,
            // Not shown, whatever it is: a number may be the secret itself.
            _ => return Err(Fault::Kind(format!("is no secret; {FORMS}"), Wanted::Secret)),
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
    if matches!(reading.places(), Places::Integrators { .. }) && name.starts_with(PREFIX) {
        let problem = format!("the environment variable {name} is a setting of callbackd; name one that does not start with `{PREFIX}`");
        return Err(Fault::content(problem));
    }
    let set = reading.environment().get(name).map(str::to_owned);
    set.ok_or_else(|| Fault::content(format!("the environment variable {name} is not set (or is not UTF-8)")))
}

fn from_file(reading: &Reading<'_>, path: &str) -> Result<String, Fault> {
    if path.len() > PATH_LIMIT {
        return Err(Fault::content(format!("file is no path: it is over {PATH_LIMIT} bytes long")));
    }
    let path = reading.resolve(path);
    let fault = |problem: String| Fault::content(format!("the file {path:?} {problem}"));
    // What is read is what was admitted: no link is followed a second time.
    let place = reading.places().admit(&path).map_err(fault)?;
    let mut text = read_text(&place, LIMIT).map_err(fault)?;
    if text.ends_with('\n') {
        text.pop();
        if text.ends_with('\r') {
            text.pop();
        }
    }
    Ok(text)
}

impl Places<'_> {
    /// The file that a path leads to, if secrets may come from there. All symbolic links are followed first, in the
    /// folder's own path too: a mounted Secret of Kubernetes consists of links that stay inside it.
    fn admit(self, path: &Path) -> Result<PathBuf, String> {
        let Self::Integrators { folder } = self else { return Ok(path.to_owned()) };
        let place = path.canonicalize().map_err(|error| format!("cannot be read: {error}"))?;
        match folder {
            Some(folder) => {
                let cannot = |error: io::Error| format!("cannot be judged, as integrators.secrets_dir {folder:?} cannot be found: {error}");
                if place.starts_with(folder.canonicalize().map_err(cannot)?) {
                    Ok(place)
                } else {
                    Err(format!("does not lie below integrators.secrets_dir, {folder:?}; put it there"))
                }
            }
            None => match SYSTEM.iter().find(|system| place.starts_with(system)) {
                Some(system) => Err(format!("lies below {system}, where no secrets for integrators are; put it elsewhere")),
                None => Ok(place),
            },
        }
    }
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

    /// Reads a secret as one of `integrators.toml` in a folder, with `secrets_dir` in the same folder.
    fn read(folder: &Path, secrets_dir: Option<&str>, toml: &str) -> Result<String, String> {
        let variables = [("CALLBACKD__BROKER__URL", "CANARY"), ("CALLBACKD_OTHER", "other")];
        let environment: Environment = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).into_iter().collect();
        let secrets_dir = secrets_dir.map(|secrets_dir| folder.join(secrets_dir));
        let file = folder.join("integrators.toml");
        let reading = Reading::of_integrators(&file, secrets_dir.as_deref(), &environment);
        let secret = secret(&reading)(&toml.parse().unwrap()).map_err(Fault::into_text);
        secret.map(|text| text.expose_secret().to_owned()).map_err(|problem| problem.replace(&format!("{}/", folder.display()), ""))
    }

    #[test]
    fn integrators_cannot_name_a_variable_that_sets_up_callbackd() {
        let folder = Path::new("/etc/callbackd");
        let problem =
            "the environment variable CALLBACKD__BROKER__URL is a setting of callbackd; name one that does not start with `CALLBACKD__`";
        assert_eq!(read(folder, None, "{ env = 'CALLBACKD__BROKER__URL' }").unwrap_err(), problem);
        assert_eq!(read(folder, None, "{ env = 'CALLBACKD_OTHER' }"), Ok("other".to_owned()));
    }

    #[test]
    fn integrators_cannot_name_a_file_of_the_system_by_any_way() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/proc/self", folder.path().join("myself")).unwrap();
        std::fs::write(folder.path().join("key"), "mine").unwrap();
        let refused = "\" lies below /proc, where no secrets for integrators are; put it elsewhere";
        for path in ["/proc/self/environ", "/./proc/self/environ", "/proc/self/../self/environ", "myself/environ"] {
            let problem = read(folder.path(), None, &format!("{{ file = '{path}' }}")).unwrap_err();
            assert!(problem.ends_with(refused), "{path}: {problem}");
        }
        assert!(read(folder.path(), None, "{ file = '/dev/null' }").unwrap_err().contains(" lies below /dev, "));
        assert!(read(folder.path(), None, "{ file = '.' }").unwrap_err().ends_with("is no plain file"));
        assert!(read(folder.path(), None, &format!("{{ file = '{}' }}", "x".repeat(5000))).unwrap_err().ends_with("over 4096 bytes long"));
        assert_eq!(read(folder.path(), None, "{ file = 'key' }"), Ok("mine".to_owned()));
        for place in ["/var/run/secrets/kubernetes.io/serviceaccount/token", "/run/secrets/kubernetes.io/x"] {
            assert!(SYSTEM.iter().any(|system| Path::new(place).starts_with(system)), "{place}");
        }
    }

    #[test]
    fn with_a_folder_for_secrets_no_path_and_no_link_leads_out_of_it() {
        use std::os::unix::fs::symlink;
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        std::fs::create_dir_all(path("mounted/..v1")).unwrap();
        std::fs::create_dir(path("mounted-not")).unwrap();
        for name in ["mounted/..v1/key", "mounted-not/key", "outside"] {
            std::fs::write(path(name), name).unwrap();
        }
        symlink("..v1", path("mounted/..data")).unwrap();
        symlink("..data/key", path("mounted/key")).unwrap();
        symlink("../outside", path("mounted/out")).unwrap();
        symlink("mounted", path("linked")).unwrap();

        for secrets_dir in ["mounted", "linked", "mounted/../mounted/"] {
            for good in ["mounted/key", "linked/key", "mounted-not/../mounted/..data/key"] {
                let read = read(folder.path(), Some(secrets_dir), &format!("{{ file = '{good}' }}"));
                assert_eq!(read, Ok("mounted/..v1/key".to_owned()), "{secrets_dir} {good}");
            }
        }
        for bad in ["outside", "mounted-not/key", "mounted/out", "mounted/../outside", "/etc/passwd", "/proc/self/environ"] {
            let problem = read(folder.path(), Some("mounted"), &format!("{{ file = '{bad}' }}")).unwrap_err();
            let expected = format!("the file {bad:?} does not lie below integrators.secrets_dir, \"mounted\"; put it there");
            assert_eq!(problem, expected, "{bad}");
        }
        let none = read(folder.path(), Some("none"), "{ file = 'mounted/key' }").unwrap_err();
        assert!(none.contains("integrators.secrets_dir \"none\" cannot be found: No such file"), "{none}");
        assert!(read(folder.path(), Some("mounted"), "{ file = 'mounted' }").unwrap_err().ends_with("is no plain file"));
    }
}
