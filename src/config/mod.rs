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

mod broker;
mod delivery;
mod egress;
mod environment;
mod file;
mod headers;
mod integrators;
mod kinds;
pub mod locate;
mod operations;
mod problems;
mod reading;
pub mod reload;
mod secret;
mod section;
mod source;
pub(crate) mod units;
mod worker;

pub use broker::{Broker, BrokerUrl, Names};
pub use delivery::DeliveryDefaults;
pub use egress::{Egress, PrivateNetworks};
pub use environment::Environment;
pub use operations::{Admin, Log, LogFormat};
pub use problems::Problems;
pub use source::Source;
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
    pub delivery: DeliveryDefaults,
    /// Section `[egress]`.
    pub egress: Egress,
    /// Section `[admin]`.
    pub admin: Admin,
    /// Key `file` of section `[integrators]`, made relative to the configuration file's folder.
    pub integrators_file: PathBuf,
    /// Section `[log]`.
    pub log: Log,
}

/// Most bytes of `callbackd.toml`.
const CONFIG_LIMIT: u64 = 1 << 20;

/// Most bytes of `integrators.toml`: some 100,000 integrators.
const DIRECTORY_LIMIT: u64 = 64 << 20;

/// Loads `callbackd.toml` with the overrides among the environment's variables.
///
/// # Errors
/// All problems at once: a file that cannot be read, bad syntax, unknown keys, values that are wrong or out of range.
pub fn load(path: &Path, environment: impl IntoIterator<Item = (String, String)>) -> Result<Config, Problems> {
    let environment = environment.into_iter().collect();
    let mut table = file::read_table(path, CONFIG_LIMIT)?;
    let reading = Reading::overridden(path, &mut table, &environment);
    let config = read_config(&reading, table);
    reading.finish(config)
}

/// Loads `integrators.toml`, with the secrets that it names. An empty file is a directory with nobody in it.
///
/// # Errors
/// All problems at once, as [`load`].
pub fn load_directory(path: &Path, delivery: &DeliveryDefaults, egress: &Egress, environment: &Environment) -> Result<Directory, Problems> {
    let table = file::read_table(path, DIRECTORY_LIMIT)?;
    let reading = Reading::of(path, environment);
    let directory = Section::root(&reading, table, |root| integrators::read(root, delivery, egress));
    reading.finish(Some(directory))
}

/// Loads the configuration and the integrators' file that it names, with the environment of this process.
///
/// # Errors
/// All problems of both files; those of the second only when the first can be used.
pub fn load_all(path: &Path) -> Result<(Config, Directory), Problems> {
    let environment = Environment::of_process();
    let config = load(path, environment.clone())?;
    let directory = load_directory(&config.integrators_file, &config.delivery, &config.egress, &environment)?;
    Ok((config, directory))
}

fn read_config(reading: &Reading<'_>, table: Table) -> Option<Config> {
    Section::root(reading, table, |root| {
        let (broker, prefix) = root.section("broker", broker::read);
        let sources = source::read_all(root, &prefix);
        let ladder = root.section("wait", source::read_ladder);
        if let (Some(broker), Some(ladder)) = (&broker, &ladder) {
            source::refuse_shared_names(root, &sources, &broker.names, ladder);
        }
        let worker = root.section("worker", worker::read);
        let dead = root.section("dead", worker::read_dead);
        let delivery = root.section("delivery", |section| delivery::read(section, &DeliveryDefaults::default()));
        let egress = root.section("egress", egress::read);
        let admin = root.section("admin", operations::read_admin);
        let log = root.section("log", operations::read_log);
        let file = root.section("integrators", |section| section.or("file", "integrators.toml".to_owned(), kinds::text(4096)));
        let integrators_file = reading.resolve(&file);
        Some(Config { broker: broker?, sources, ladder: Arc::new(ladder?), worker, dead, delivery, egress, admin, integrators_file, log })
    })
}
