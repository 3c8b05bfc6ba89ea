//! Ports, images and files that are named in several places.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// The texts that name ports and images.
#[derive(Clone)]
pub(crate) struct Stack {
    pub(crate) dockerfile: String,
    pub(crate) compose_text: String,
    pub(crate) compose: Value,
    pub(crate) prometheus: Value,
    pub(crate) grafana_source: Value,
    /// Of the worker in the stack.
    pub(crate) worker: String,
    /// Every key with its default.
    pub(crate) example: String,
}

impl Stack {
    /// The port of health and metrics, wherever it is named.
    pub(crate) fn of_admin_port(&self) -> Vec<String> {
        let line = |text: &str, start: &str| text.lines().find_map(|line| line.strip_prefix(start)).unwrap_or_default().trim().to_owned();
        let last = |text: &str| text.trim_matches(['"', ' ']).rsplit(':').next().unwrap_or_default().to_owned();
        let probe = |text: &str| text.split("/dev/tcp/127.0.0.1/").nth(1).map(digits).unwrap_or_default();
        let probe_of_worker = self.compose["services"]["worker"]["healthcheck"]["test"].to_string();
        let named = BTreeMap::from([
            ("EXPOSE of the Dockerfile", line(&self.dockerfile, "EXPOSE ")),
            ("HEALTHCHECK of the Dockerfile", probe(&self.dockerfile)),
            ("admin.listen of the example", last(&line(&self.example, "listen = "))),
            ("admin.listen in the stack", last(&line(&self.worker, "listen = "))),
            ("the worker's port in docker-compose.yml", self.ports("worker").into_iter().map(|(_, inside)| inside).collect()),
            ("the worker's health check in docker-compose.yml", probe(&probe_of_worker)),
            (
                "the target of Prometheus",
                self.targets().into_iter().find(|(host, _)| host == "worker").map(|(_, port)| port).unwrap_or_default(),
            ),
        ]);
        let different: BTreeSet<&String> = named.values().collect();
        if different.len() == 1 && !different.contains(&String::new()) { Vec::new() } else { vec![format!("{named:?}")] }
    }

    /// What asks another service asks one that there is, at a port that it has.
    pub(crate) fn of_neighbours(&self) -> Vec<String> {
        let source = self.grafana_source["datasources"][0]["url"].as_str().unwrap_or_default().trim_start_matches("http://");
        let source = source.split_once(':').map(|(host, port)| (host.to_owned(), port.to_owned()));
        let asked = self.targets().into_iter().chain(source);
        // RabbitMQ's plugin for Prometheus has a port that is not published.
        let has =
            |host: &str, port: &str| self.ports(host).iter().any(|(_, inside)| inside == port) || (host, port) == ("rabbitmq", "15692");
        asked.filter(|(host, port)| !has(host, port)).map(|(host, port)| format!("{host}:{port} is asked and not there")).collect()
    }

    /// Ports are published to this machine alone, each once, and the heading of docker-compose.yml lists them.
    pub(crate) fn of_published_ports(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut met = BTreeSet::new();
        let heading = self.compose_text.split("\n\n").next().unwrap_or_default();
        for (service, _) in self.compose["services"].as_object().into_iter().flatten() {
            for (outside, inside) in self.ports(service) {
                let (address, port) = outside.rsplit_once(':').unwrap_or(("", &outside));
                if address != "127.0.0.1" {
                    problems.push(format!("{service}: {outside} is open to others"));
                }
                // A second one of a kind needs another port.
                let is_moved = port != inside && !service.ends_with("-2");
                if is_moved || !met.insert(port.to_owned()) || !heading.contains(port) {
                    problems.push(format!("{service}: {outside}:{inside} is taken, moved or not in the heading"));
                }
            }
        }
        problems
    }

    /// Health checks, order, and files that are mounted.
    pub(crate) fn of_services(&self, root: &Path) -> Vec<String> {
        let services = self.compose["services"].as_object().into_iter().flatten();
        let mut problems = Vec::new();
        for (name, service) in services {
            if service["healthcheck"]["test"].is_null() && service["healthcheck"]["disable"] != true {
                problems.push(format!("{name} has no health check"));
            }
            let needed = service["depends_on"].as_object().into_iter().flatten();
            problems.extend(
                needed.filter(|(other, _)| self.compose["services"][other].is_null()).map(|(other, _)| format!("{name} needs {other}")),
            );
            let mounts = service["volumes"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let files = mounts.filter_map(|mount| mount.strip_prefix("./")?.split(':').next());
            problems.extend(files.filter(|file| !root.join(file).exists()).map(|file| format!("{name} mounts {file}")));
        }
        problems
    }

    /// What a service publishes: outside, and inside.
    fn ports(&self, service: &str) -> Vec<(String, String)> {
        let ports = self.compose["services"][service]["ports"].as_array().into_iter().flatten().filter_map(Value::as_str);
        ports.filter_map(|port| port.rsplit_once(':')).map(|(outside, inside)| (outside.to_owned(), inside.to_owned())).collect()
    }

    fn targets(&self) -> Vec<(String, String)> {
        let jobs = self.prometheus["scrape_configs"].as_array().into_iter().flatten();
        let configs = jobs.flat_map(|job| job["static_configs"].as_array().into_iter().flatten());
        let targets = configs.flat_map(|config| config["targets"].as_array().into_iter().flatten()).filter_map(Value::as_str);
        targets.filter_map(|target| target.split_once(':')).map(|(host, port)| (host.to_owned(), port.to_owned())).collect()
    }
}

/// The images of others that texts name: each pinned by a version, and by the same one everywhere.
pub(crate) fn of_images<'a>(texts: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for line in texts.flat_map(str::lines).map(str::trim_start) {
        let image = ["image: ", "FROM ", "readonly IMAGE=", "IMAGE="].iter().find_map(|start| line.strip_prefix(start));
        let Some(image) = image.and_then(|image| image.split_whitespace().next()).map(|image| image.trim_matches(['"', '\''])) else {
            continue;
        };
        // Our own, and what a template or the environment fills in.
        if image.starts_with("callbackd") || image.contains(['{', '$']) {
            continue;
        }
        let (name, version) = image.rsplit_once(':').unwrap_or((image, ""));
        versions.entry(name.to_owned()).or_default().insert(version.to_owned());
    }
    let is_pinned = |version: &String| version.starts_with(|c: char| c.is_ascii_digit() || c == 'v') && version.contains('.');
    let loose = versions.into_iter().filter(|(_, versions)| versions.len() != 1 || !versions.iter().all(is_pinned));
    loose.map(|(name, versions)| format!("{name}: {versions:?}")).collect()
}

fn digits(text: &str) -> String {
    text.chars().take_while(char::is_ascii_digit).collect()
}
