//! What the tests of the operator's commands share: a configuration for a vhost, and a command line that runs in this process.

use callbackd::cli::CliError;
use callbackd::cli::dead::Dead;
use callbackd::config::{self, Config};
use clap::{Args as _, FromArgMatches as _};

use super::broker::Vhost;

/// The configuration of a worker on this vhost with the sources compliance and ident, and waits of one to four seconds.
///
/// # Panics
/// When the configuration is not accepted.
pub fn config_for(vhost: &Vhost) -> Config {
    config_at(&vhost.url())
}

/// The same for a URL.
///
/// # Panics
/// When the configuration is not accepted.
pub fn config_at(url: &str) -> Config {
    loaded(url, "[wait]\nshortest = \"1s\"\nlongest = \"4s\"\n")
}

/// The same with other sections instead of `[wait]`.
///
/// # Panics
/// When the configuration is not accepted.
pub fn config_with(vhost: &Vhost, sections: &str) -> Config {
    loaded(&vhost.url(), sections)
}

fn loaded(url: &str, sections: &str) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("callbackd.toml");
    let text = format!(
        "[broker]\nurl = \"{}\"\n{}{sections}\n[integrators]\nfile = \"integrators.toml\"\n",
        url,
        ["compliance", "ident"].map(|name| format!("[[source]]\nname = \"{name}\"\nexchange = \"{name}.events\"\n")).concat(),
    );
    std::fs::write(&path, text).expect("callbackd.toml");
    config::load(&path, []).unwrap_or_else(|problems| panic!("{problems}"))
}

/// Reads a command's arguments as the command line would.
///
/// # Panics
/// When clap refuses them.
pub fn parsed<C: clap::Args + clap::FromArgMatches>(arguments: &[&str]) -> C {
    let command = C::augment_args(clap::Command::new("test").no_binary_name(true));
    let matches = command.try_get_matches_from(arguments).unwrap_or_else(|error| panic!("{arguments:?}: {error}"));
    C::from_arg_matches(&matches).unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

/// Runs `callbackd dead …` and returns what it printed.
///
/// # Errors
/// What the command failed with.
pub async fn dead(config: &Config, arguments: &[&str]) -> Result<String, CliError> {
    let (out, done) = dead_with_output(config, arguments).await;
    done.map(|()| out)
}

/// The same, and what it printed before it failed.
pub async fn dead_with_output(config: &Config, arguments: &[&str]) -> (String, Result<(), CliError>) {
    let mut out = Vec::new();
    let done = parsed::<Dead>(arguments).run_to(config, &mut out).await;
    (String::from_utf8(out).expect("results are text"), done)
}
