//! `callbackd check`: is the configuration good, and is what it names there?

use std::path::PathBuf;

use futures_util::{StreamExt as _, stream};

use super::CliError;
use crate::broker::{Topology, TopologyError, connect};
use crate::config::{self, Config, locate::locate};
use crate::domain::auth::{Auth, AuthFault};
use crate::domain::integrator::{Directory, Endpoint};
use crate::domain::sign::SigningSecret;
use crate::egress::{Egress, Tokens};
use crate::store::{self, Found};
use crate::telemetry::Telemetry;

/// What a look that changes nothing does not prove.
const UNSEEN: &str = "whether what is there has the right arguments and bindings cannot be seen without declaring it";

/// What a log that cannot be written means.
const WITHOUT_LOG: &str =
    "the worker delivers all the same, but records nothing and keeps no pauses; to do without, set delivery_log.enabled = false";

/// Endpoints that are asked at one time.
const AT_ONCE: usize = 16;

/// Says whether the configuration and the integrators' file are good; all that is wrong at once.
#[derive(Debug, clap::Args)]
pub struct Check {
    /// Also ask the broker for its exchanges and queues (not for their arguments, which nobody can see), the delivery log's database whether this user could write it, each endpoint whether it answers (a HEAD request that says nothing), and token servers for a token. Nothing is made or changed
    #[arg(long)]
    online: bool,
    /// Also print the public key (whpk_...) of each ed25519 signing secret, for the integrator who checks signatures with it
    #[arg(long)]
    keys: bool,
}

impl Check {
    /// Loads both files and prints what is in them; with `--online` goes on to broker, delivery log and endpoints.
    ///
    /// # Errors
    /// [`CliError::Usage`] with every problem of the configuration, a line each; [`CliError::Failed`] when something that it
    /// names is not there.
    pub async fn run(self, path: Option<PathBuf>) -> Result<(), CliError> {
        let (config, directory) = config::load_all(&locate(path)?)?;
        let (sources, integrators, endpoints) = (config.sources.len(), directory.len(), directory.all().count());
        println!("ok: {}, {}, {}", counted(sources, "source"), counted(integrators, "integrator"), counted(endpoints, "endpoint"));
        if self.keys {
            public_keys(&directory).iter().for_each(|line| println!("{line}"));
        }
        if !self.online {
            return Ok(());
        }
        let broker = ask_broker(&config).await;
        let log = ask_log(&config).await;
        let missing = ask_endpoints(&config, &directory).await?;
        let endpoints = match missing {
            (0, 0) => Ok(()),
            (0, count) => Err(CliError::Failed(format!("no access token for {}", counted(count, "endpoint")))),
            (count, _) => Err(CliError::Failed(format!("no answer from {}", counted(count, "endpoint")))),
        };
        all_of([broker, log, endpoints])
    }
}

/// All that is wrong, a line each.
fn all_of(parts: [Result<(), CliError>; 3]) -> Result<(), CliError> {
    let wrong: Vec<String> = parts.into_iter().filter_map(|part| part.err().map(|error| error.to_string())).collect();
    if wrong.is_empty() { Ok(()) } else { Err(CliError::Failed(wrong.join("\n"))) }
}

/// A line for each ed25519 key that signs for an endpoint.
fn public_keys(directory: &Directory) -> Vec<String> {
    let keys_of = |endpoint: &Endpoint| endpoint.signing.iter().filter_map(SigningSecret::public_key).collect::<Vec<_>>();
    in_order(directory)
        .into_iter()
        .flat_map(|endpoint| {
            keys_of(endpoint).into_iter().map(|key| format!("public key of {}/{}: {key}", endpoint.integrator, endpoint.id))
        })
        .collect()
}

/// All endpoints by their names.
fn in_order(directory: &Directory) -> Vec<&Endpoint> {
    let mut endpoints: Vec<&Endpoint> = directory.all().map(|endpoint| &**endpoint).collect();
    endpoints.sort_by_key(|endpoint| (endpoint.integrator.clone(), endpoint.id.clone()));
    endpoints
}

/// Looks for every exchange and queue, changing nothing.
async fn ask_broker(config: &Config) -> Result<(), CliError> {
    let connection = connect(&config.broker, "check").await?;
    let found = Topology::new(config).check(&connection, config.broker.timeout).await;
    let _ = tokio::time::timeout(config.broker.timeout, connection.close(200, "OK".into())).await;
    println!("{}", judged(found, config).map_err(CliError::Failed)?);
    Ok(())
}

/// What a look at the broker means. Only what does not exist yet is for `run` to mend; anything else would stop it too.
fn judged(found: Result<usize, TopologyError>, config: &Config) -> Result<String, String> {
    let url = &config.broker.url;
    match found {
        Ok(objects) => Ok(format!("ok: broker {url}, {objects} exchanges and queues are there ({UNSEEN})")),
        Err(missing @ TopologyError::Missing { .. }) if config.broker.declare => {
            Ok(format!("broker {url}: {missing}\n(`callbackd run` declares what is missing, as broker.declare is true; {UNSEEN})"))
        }
        Err(wrong) => Err(format!("broker {url}: {wrong}")),
    }
}

/// Looks whether the delivery log could be written.
async fn ask_log(config: &Config) -> Result<(), CliError> {
    let Some(database) = &config.delivery_log.database else {
        println!("ok: no delivery log, as delivery_log.enabled is false");
        return Ok(());
    };
    let found = match store::check(database).await {
        Ok(Found::Tables) => "its tables are there",
        Ok(Found::NoTables) => "it lacks tables, which the first worker makes",
        Ok(Found::NoFile) => "it does not exist yet; the first worker makes it",
        Err(error) => return Err(CliError::Failed(format!("delivery_log.database: {database}: {error} ({WITHOUT_LOG})"))),
    };
    println!("ok: delivery log {database}: {found}");
    Ok(())
}

/// Asks every endpoint and says how many do not answer, and for how many there is no access token.
async fn ask_endpoints(config: &Config, directory: &Directory) -> Result<(usize, usize), CliError> {
    let egress = Egress::new(&config.egress).map_err(|error| CliError::Failed(error.to_string()))?;
    let tokens = Tokens::new(egress.clone(), Telemetry::default());
    let asked = stream::iter(in_order(directory)).map(|endpoint| {
        let (egress, tokens) = (egress.clone(), tokens.clone());
        async move {
            let answer = egress.reach(endpoint.url.as_url(), endpoint.tls.as_ref(), endpoint.policy.timeout).await;
            (endpoint, answer, ask_for_token(&tokens, endpoint).await)
        }
    });
    let mut answers = asked.buffered(AT_ONCE);
    let (mut silent, mut without_token) = (0, 0);
    while let Some((endpoint, answer, token)) = answers.next().await {
        let Endpoint { integrator, id, url, .. } = endpoint;
        match answer {
            Ok(status) => println!("ok: {integrator}/{id} at {url} answers (HEAD: {status})"),
            Err(failure) => {
                silent += 1;
                println!("no answer: {integrator}/{id} at {url}: {failure}");
            }
        }
        if let Err(fault) = token {
            without_token += 1;
            println!("no access token: {integrator}/{id}: {fault}");
        }
    }
    Ok((silent, without_token))
}

/// Whether there is an access token for an endpoint that wants one.
async fn ask_for_token(tokens: &Tokens, endpoint: &Endpoint) -> Result<(), AuthFault> {
    match &endpoint.auth {
        Auth::OAuth2(credentials) => tokens.bearer(credentials).await.map(|_| ()),
        Auth::None | Auth::Basic(_) => Ok(()),
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(declare: bool) -> Config {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("callbackd.toml");
        let text = format!("[broker]\nurl = \"amqp://broker.example\"\ndeclare = {declare}\n[[source]]\nname = \"a\"\nexchange = \"a\"\n");
        std::fs::write(&path, text).unwrap();
        config::load(&path, std::iter::empty()).unwrap()
    }

    #[test]
    fn only_missing_objects_are_for_run_to_mend_and_only_where_it_declares() {
        let missing = || Err(TopologyError::Missing { objects: Vec::new(), of: 3 });
        assert!(judged(missing(), &config(true)).unwrap().contains("`callbackd run` declares what is missing"));
        assert!(judged(missing(), &config(false)).is_err());
        for wrong in [TopologyError::Differs(Vec::new()), TopologyError::Denied(Vec::new()), TopologyError::Failed(Vec::new())] {
            assert!(judged(Err(wrong), &config(true)).is_err());
        }
        assert!(judged(Ok(3), &config(true)).unwrap().ends_with(&format!("3 exchanges and queues are there ({UNSEEN})")));
    }
}
