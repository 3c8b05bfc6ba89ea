//! The configuration: raw text in, valid types out, all problems at once.
//!
//! A file becomes a table (`file`), variables override it (`environment`), sections are read from it key by key
//! (`section`, `kinds`), and every problem is noted on the way (`reading`). There is one file for each group of keys.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use toml::Table;

use self::reading::Reading;
use self::section::Section;
use crate::domain::integrator::Directory;
use crate::domain::ladder::Ladder;
use crate::domain::policy::DeliveryPolicy;

mod auth;
mod broker;
mod delivery;
mod delivery_log;
mod egress;
mod environment;
mod file;
mod headers;
mod integrators;
mod kinds;
pub mod locate;
mod operations;
mod outcomes;
mod problems;
mod proxy;
mod reading;
pub mod reload;
#[cfg(test)]
mod schema;
mod secret;
mod section;
mod shown;
mod source;
mod tls;
mod traces;
mod units;
mod wanted;
mod worker;

pub use broker::{Broker, BrokerUrl, Names};
pub use delivery_log::{Database, DeliveryLog};
pub use egress::{Egress, OwnAddress, Ports};
pub use environment::Environment;
pub use operations::{Admin, ApiToken, Log, LogFormat};
pub use outcomes::Outcomes;
pub use problems::Problems;
pub use proxy::Proxy;
pub use source::Source;
pub use traces::{Collector, Traces};
pub use units::{parse_duration, parse_future, parse_past, parse_rate};
pub use worker::{Dead, Worker};

/// Everything `callbackd.toml` and its environment overrides say, valid.
#[derive(Debug, Clone)]
pub struct Config {
    /// Section `[broker]`.
    pub broker: Broker,
    /// Sections `[[source]]`, at least one.
    pub sources: Vec<Source>,
    /// Section `[wait]`.
    pub ladder: Arc<Ladder>,
    /// Section `[worker]`.
    pub worker: Worker,
    /// Section `[dead]`.
    pub dead: Dead,
    /// Section `[delivery]`.
    pub delivery: DeliveryPolicy,
    /// Section `[egress]`.
    pub egress: Egress,
    /// Section `[delivery_log]`.
    pub delivery_log: DeliveryLog,
    /// Section `[outcomes]`.
    pub outcomes: Outcomes,
    /// Section `[traces]`.
    pub traces: Traces,
    /// Section `[admin]`.
    pub admin: Admin,
    /// Key `file` of section `[integrators]`, made relative to the configuration file's folder.
    pub integrators_file: PathBuf,
    /// Key `secrets_dir` of the same section, made relative in the same way: the only folder from which that file may take
    /// secrets. `None`: any but the system's own.
    pub secrets_dir: Option<PathBuf>,
    /// Section `[log]`.
    pub log: Log,
}

/// Most bytes of `callbackd.toml`.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Most bytes of `integrators.toml`: some 100,000 integrators.
const DIRECTORY_LIMIT: u64 = 64 << 20;

/// Most bytes of a path: Linux opens none that is longer.
const PATH_LIMIT: usize = 4096;

/// Loads `callbackd.toml` with the overrides among the environment's variables.
///
/// # Errors
/// All problems at once: a file that cannot be read, bad syntax, unknown keys, values that are wrong or out of range.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    load_with(path, &environment.into_iter().collect())
}

/// The same with an environment that may hold overrides that cannot be read.
///
/// # Errors
/// As [`load`].
pub fn load_with(path: &Path, environment: &Environment) -> Result<Config, Problems> {
    let mut table = file::read_table(path, CONFIG_LIMIT)?;
    let reading = Reading::overridden(path, &mut table, environment);
    let (config, _) = read_config(&reading, table);
    reading.finish(config)
}

/// Loads `integrators.toml`, with the secrets that it names. An empty file is a directory with nobody in it. With
/// `secrets_dir`, the files of secrets must lie below it.
///
/// # Errors
/// All problems at once, as [`load`].
pub fn load_directory(
    path: &Path,
    secrets_dir: Option<&Path>,
    delivery: &DeliveryPolicy,
    egress: &Egress,
    environment: &Environment,
) -> Result<Directory, Problems> {
    let table = file::read_table(path, DIRECTORY_LIMIT)?;
    let reading = Reading::of_integrators(path, secrets_dir, environment);
    let directory = Section::root(&reading, table, |root| integrators::read(root, delivery, egress));
    reading.finish(Some(directory))
}

/// Loads the configuration and the integrators' file that it names, with the environment of this process.
///
/// # Errors
/// All problems of both files; those of the second only when the first says where it is.
pub fn load_all(path: &Path) -> Result<(Config, Directory), Problems> {
    let environment = Environment::of_process();
    let mut table = file::read_table(path, CONFIG_LIMIT)?;
    let reading = Reading::overridden(path, &mut table, &environment);
    let (config, integrators) = read_config(&reading, table);
    match reading.finish(config) {
        Ok(config) => {
            let secrets_dir = config.secrets_dir.as_deref();
            let directory = load_directory(&config.integrators_file, secrets_dir, &config.delivery, &config.egress, &environment)?;
            Ok((config, directory))
        }
        Err(problems) => Err(problems.and(integrators.and_then(|integrators| integrators.problems(&environment)))),
    }
}

/// What the problems of the integrators' file depend on. Where it is wrong itself, the default stands in its place.
struct Integrators {
    file: PathBuf,
    secrets_dir: Option<PathBuf>,
    delivery: DeliveryPolicy,
    egress: Egress,
}

impl Integrators {
    fn problems(&self, environment: &Environment) -> Option<Problems> {
        load_directory(&self.file, self.secrets_dir.as_deref(), &self.delivery, &self.egress, environment).err()
    }
}

/// The configuration, and what is known of the integrators whether or not it can be used.
fn read_config(reading: &Reading<'_>, table: Table) -> (Option<Config>, Option<Integrators>) {
    Section::root(reading, table, |root| {
        let (broker, prefix) = root.section("broker", broker::read);
        let sources = source::read_all(root, &prefix);
        let ladder = root.section("wait", source::read_ladder);
        if let (Some(broker), Some(ladder)) = (&broker, &ladder) {
            source::refuse_shared_names(reading, &sources, &broker.names, ladder);
        }
        let worker = root.section("worker", worker::read);
        let dead = root.section("dead", worker::read_dead);
        let delivery = root.section("delivery", |section| delivery::read(section, &DeliveryPolicy::default()));
        let mut egress = root.section("egress", egress::read);
        let delivery_log = root.section("delivery_log", delivery_log::read);
        let outcomes = root.section("outcomes", outcomes::read);
        if let Some(broker) = &broker {
            outcomes::refuse_shared_exchange(reading, &outcomes, &broker.names, &sources);
        }
        let traces = root.section("traces", traces::read);
        let admin = root.section("admin", operations::read_admin);
        egress.own = own_addresses(broker.as_ref(), &admin, egress.proxy.as_ref());
        egress.own.extend(delivery_log.database.as_ref().and_then(Database::address));
        egress.own.extend(traces.endpoint.as_ref().and_then(Collector::address));
        let log = root.section("log", operations::read_log);
        let before = reading.problem_count();
        let (integrators_file, secrets_dir) = root.section("integrators", |section| {
            let file = section.or("file", "integrators.toml".to_owned(), kinds::text(PATH_LIMIT));
            (reading.resolve(&file), section.optional("secrets_dir", kinds::text(PATH_LIMIT)).map(|folder| reading.resolve(&folder)))
        });
        // A file whose name is wrong is not the one by the default name, nor is any folder the one that is wrong.
        let is_known = reading.problem_count() == before;
        let integrators = is_known.then(|| Integrators {
            file: integrators_file.clone(),
            secrets_dir: secrets_dir.clone(),
            delivery,
            egress: egress.clone(),
        });
        let config = broker.zip(ladder).map(|(broker, ladder)| {
            let ladder = Arc::new(ladder);
            Config {
                broker,
                sources,
                ladder,
                worker,
                dead,
                delivery,
                egress,
                delivery_log,
                outcomes,
                traces,
                admin,
                integrators_file,
                secrets_dir,
                log,
            }
        });
        (config, integrators)
    })
}

/// Where no endpoint is, whatever is allowed.
fn own_addresses(broker: Option<&Broker>, admin: &Admin, proxy: Option<&Proxy>) -> Vec<OwnAddress> {
    let admin = OwnAddress { host: admin.listen.ip().to_string(), port: admin.listen.port() };
    std::iter::once(admin).chain(broker.and_then(|broker| broker.url.address())).chain(proxy.map(Proxy::address)).collect()
}

#[cfg(test)]
pub(crate) use tests::example_configuration;

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use toml::Value;

    use super::*;

    fn example(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(name)
    }

    /// The paths of all keys of a table, lists left out of them.
    fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Table(table) => table.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(value, &path, found);
                found.insert(path);
            }),
            Value::Array(list) => list.iter().for_each(|value| keys(value, path, found)),
            _ => {}
        }
    }

    fn missing(asked: BTreeSet<String>, example: &Table) -> Vec<String> {
        let mut shown = BTreeSet::new();
        keys(&Value::Table(example.clone()), "", &mut shown);
        assert!(asked.len() > 10, "{asked:?}");
        asked.into_iter().filter(|key| !shown.contains(key)).collect()
    }

    fn environment_of_the_configuration() -> Environment {
        let token = ("CALLBACKD_OPS_TOKEN".to_owned(), "not-a-secret-not-a-secret-not-a-secret".to_owned());
        let hash = ("CALLBACKD_HASH_SECRET".to_owned(), "not-a-secret-not-a-secret".to_owned());
        [token, hash].into_iter().collect()
    }

    /// The example configuration.
    pub(crate) fn example_configuration() -> Config {
        load_with(&example("callbackd.example.toml"), &environment_of_the_configuration()).unwrap()
    }

    /// What is asked for while the example configuration is read.
    pub(super) fn configuration_asked() -> schema::Asked {
        let (path, environment) = (example("callbackd.example.toml"), environment_of_the_configuration());
        let mut table = file::read_table(&path, CONFIG_LIMIT).unwrap();
        let reading = Reading::overridden(&path, &mut table, &environment);
        read_config(&reading, table).0.unwrap();
        let asked = reading.asked();
        reading.finish(Some(asked)).unwrap()
    }

    #[test]
    fn the_example_configuration_is_good_shows_every_key_and_the_defaults() {
        let (path, environment) = (example("callbackd.example.toml"), environment_of_the_configuration());
        let shown = load_with(&path, &environment).unwrap();
        assert_eq!(missing(configuration_asked().keys(), &file::read_table(&path, CONFIG_LIMIT).unwrap()), [""; 0]);

        let folder = tempfile::tempdir().unwrap();
        let least = folder.path().join("least.toml");
        let sources =
            "[[source]]\nname = 'compliance'\nexchange = 'compliance.events'\n[[source]]\nname = 'ident'\nexchange = 'ident.events'";
        std::fs::write(&least, format!("broker.url = 'amqp://guest:guest@127.0.0.1:5672/%2f'\n{sources}")).unwrap();
        let mut defaults = load_with(&least, &environment).unwrap();
        // What differs: optional keys that have to be shown, and the folder.
        defaults.delivery.retry.max_attempts = Some(1000);
        defaults.delivery.rate = shown.delivery.rate;
        assert!(shown.delivery.rate.is_some());
        defaults.delivery_log.hash_secret.clone_from(&shown.delivery_log.hash_secret);
        assert!(shown.delivery_log.hash_secret.is_some());
        assert!(format!("{:?}", shown.delivery_log.database).ends_with("deploy/callbackd.db)"), "{:?}", shown.delivery_log.database);
        defaults.delivery_log.database.clone_from(&shown.delivery_log.database);
        assert_eq!((defaults.outcomes.exchange.take(), shown.outcomes.exchange.as_deref()), (None, Some("callbacks.outcomes")));
        defaults.outcomes.exchange.clone_from(&shown.outcomes.exchange);
        assert_eq!(format!("{:?}", shown.traces.endpoint), "Some(http://127.0.0.1:4318)");
        defaults.traces.endpoint.clone_from(&shown.traces.endpoint);
        defaults.egress.own.extend(shown.traces.endpoint.as_ref().and_then(Collector::address));
        defaults.secrets_dir.clone_from(&shown.secrets_dir);
        assert_eq!(shown.secrets_dir, Some(example("secrets/integrators")));
        assert_eq!(shown.admin.tokens.len(), 1);
        defaults.admin.tokens.clone_from(&shown.admin.tokens);
        assert_eq!(defaults.integrators_file, folder.path().join("integrators.toml"));
        defaults.integrators_file.clone_from(&shown.integrators_file);
        assert_eq!(format!("{shown:#?}"), format!("{defaults:#?}"));
    }

    /// What is asked for while the example of the integrators is read.
    pub(super) fn integrators_asked() -> schema::Asked {
        let secret = |name: &str| (name.to_owned(), "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw".to_owned());
        let pem = [
            ("ACME_CLIENT_CERTIFICATE", include_str!("../../tests/fixtures/tls/server.pem")),
            ("ACME_CLIENT_KEY", include_str!("../../tests/fixtures/tls/server.key")),
            ("ACME_AUTHORITY", include_str!("../../tests/fixtures/tls/ca.pem")),
        ]
        .map(|(name, text)| (name.to_owned(), text.to_owned()));
        let secrets = ["ACME_SIGNING_SECRET", "ACME_STATIC_SECRET", "ACME_CLIENT_SECRET", "GLOBEX_PASSWORD"].map(secret);
        let environment: Environment = secrets.into_iter().chain(pem).collect();
        let path = example("integrators.example.toml");
        let table = file::read_table(&path, DIRECTORY_LIMIT).unwrap();
        let reading = Reading::of(&path, &environment);
        let egress = Egress::default();
        let directory = Section::root(&reading, table, |root| integrators::read(root, &DeliveryPolicy::default(), &egress));
        let asked = reading.asked();
        reading.finish(Some(())).unwrap();
        assert_eq!((directory.len(), directory.all().count()), (2, 2));
        asked
    }

    #[test]
    fn the_example_integrators_are_good_and_show_every_key() {
        let table = file::read_table(&example("integrators.example.toml"), DIRECTORY_LIMIT).unwrap();
        assert_eq!(missing(integrators_asked().keys(), &table), [""; 0]);
    }
}
