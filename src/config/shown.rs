//! The configuration in force as operators see it: every key with its value, in the shape of the file, without secrets.

use std::time::Duration;

use serde_json::{Value, json};

use super::units::{show_duration, show_size};
use super::{Config, DeliveryLog, Egress, LogFormat, Ports};
use crate::domain::policy::DeliveryPolicy;

/// What stands in the place of a secret.
const SECRET: &str = "(secret)";

impl Config {
    /// Every key with its value, defaults included. Secrets read `(secret)`, and of URLs stand scheme, host and port.
    #[must_use]
    pub fn shown(&self) -> Value {
        json!({
            "broker": self.broker(),
            "source": self.sources.iter().map(|source| json!({
                "name": source.name.as_str(), "exchange": source.exchange, "queue": source.queue, "binding": source.binding,
                "prefetch": source.prefetch,
            })).collect::<Vec<_>>(),
            "wait": { "shortest": time(self.ladder.shortest()), "longest": time(self.ladder.longest()) },
            "worker": {
                "max_body": size(self.worker.max_body), "max_bytes_in_flight": size(self.worker.max_bytes_in_flight),
                "unknown_integrator_wait": time(self.worker.unknown_integrator_wait), "stop_timeout": time(self.worker.stop_timeout),
            },
            "dead": { "retention": time(self.dead.retention) },
            "delivery": delivery(&self.delivery),
            "egress": egress(&self.egress),
            "delivery_log": delivery_log(&self.delivery_log),
            "outcomes": {
                "exchange": self.outcomes.exchange, "events": self.outcomes.events.iter().map(|kind| kind.as_str()).collect::<Vec<_>>(),
                "memory": size(self.outcomes.memory),
            },
            "traces": self.traces(),
            "admin": self.admin(),
            "integrators": {
                "file": self.integrators_file.display().to_string(),
                "secrets_dir": self.secrets_dir.as_ref().map(|folder| folder.display().to_string()),
            },
            "log": { "format": format(self.log.format), "level": self.log.level },
        })
    }

    fn broker(&self) -> Value {
        let broker = &self.broker;
        let names = &broker.names;
        json!({
            "url": broker.url.to_string(), "declare": broker.declare, "heartbeat": time(broker.heartbeat), "timeout": time(broker.timeout),
            "publish_channels": broker.publish_channels,
            "names": {
                "route": names.route, "publish": names.publish, "dead": names.dead, "rejected": names.rejected,
                "unroutable": names.unroutable,
            },
        })
    }

    fn traces(&self) -> Value {
        let headers = self.traces.headers.keys().map(|name| (name.to_string(), json!(SECRET))).collect::<serde_json::Map<_, _>>();
        json!({
            "endpoint": self.traces.endpoint.as_ref().map(ToString::to_string), "headers": headers, "ratio": self.traces.ratio,
            "timeout": time(self.traces.timeout), "memory": size(self.traces.memory),
        })
    }

    fn admin(&self) -> Value {
        let tokens: Vec<Value> = self
            .admin
            .tokens
            .iter()
            .map(|token| json!({ "name": token.name, "secret": SECRET, "read_only": token.is_read_only }))
            .collect();
        json!({
            "listen": self.admin.listen.to_string(), "api": self.admin.api, "console": self.admin.console,
            "path_prefix": self.admin.path_prefix, "token": tokens,
        })
    }
}

fn delivery(policy: &DeliveryPolicy) -> Value {
    let (batch, circuit, retry) = (&policy.batch, &policy.circuit, &policy.retry);
    json!({
        "timeout": time(policy.timeout), "max_in_flight": policy.max_in_flight,
        "rate": policy.rate.map(|rate| format!("{}/{}", rate.requests, time(rate.per).trim_start_matches('1'))),
        "batch": { "max_events": batch.max_events, "max_wait": time(batch.max_wait), "max_bytes": size(batch.max_bytes) },
        "circuit": {
            "consecutive": circuit.consecutive, "failure_rate": circuit.failure_rate, "window": time(circuit.window),
            "initial_wait": time(circuit.initial_wait), "max_wait": time(circuit.max_wait),
        },
        "retry": {
            "initial": time(retry.initial), "multiplier": retry.multiplier, "max_delay": time(retry.max_delay), "max_age": time(retry.max_age),
            "jitter": retry.jitter, "max_attempts": retry.max_attempts, "max_retry_after": time(retry.max_retry_after),
        },
    })
}

fn egress(egress: &Egress) -> Value {
    let nets = |nets: &[ipnet::IpNet]| nets.iter().map(ToString::to_string).collect::<Vec<_>>();
    let ports = match &egress.ports {
        Ports::Any => json!("any"),
        Ports::Only(ports) => json!(ports),
    };
    let proxy = egress.proxy.as_ref().map_or_else(|| json!(false), |proxy| json!(proxy.to_string()));
    json!({
        "allow_http": egress.allow_http, "allow_private_networks": egress.allow_private_networks, "allow_cidrs": nets(&egress.allow_cidrs),
        "deny_cidrs": nets(&egress.deny_cidrs), "ports": ports, "proxy": proxy,
    })
}

fn delivery_log(log: &DeliveryLog) -> Value {
    json!({
        "enabled": log.database.is_some(), "database": log.database.as_ref().map(ToString::to_string), "retention": time(log.retention),
        "search_keys": log.search_keys.names().iter().map(|name| &**name).collect::<Vec<_>>(), "hash_secret": log.hash_secret.as_ref().map(|_| SECRET), "store_payloads": log.stores_payloads,
        "payload_retention": time(log.payload_retention), "memory": size(log.memory),
    })
}

const fn format(format: LogFormat) -> &'static str {
    match format {
        LogFormat::Auto => "auto",
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    }
}

fn time(duration: Duration) -> String {
    show_duration(duration)
}

fn size(bytes: usize) -> String {
    show_size(u64::try_from(bytes).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::config::tests::{configuration_asked, example_configuration};

    fn keys(value: &Value, path: &str, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(table) => table.iter().for_each(|(key, value)| {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                keys(value, &path, found);
                found.insert(path);
            }),
            Value::Array(list) => list.iter().for_each(|value| keys(value, path, found)),
            _ => {}
        }
    }

    #[test]
    fn every_key_is_shown_and_no_secret() {
        let shown = example_configuration().shown();
        let mut found = BTreeSet::new();
        keys(&shown, "", &mut found);
        // Of the prefix remains what it went into.
        let missing: Vec<String> =
            configuration_asked().keys().into_iter().filter(|key| !found.contains(key) && key != "broker.prefix").collect();
        assert_eq!(missing, [""; 0]);
        let text = shown.to_string();
        assert!(!text.contains("not-a-secret") && !text.contains("guest"), "{text}");
        assert_eq!((&shown["delivery"]["rate"], &shown["delivery"]["retry"]["max_age"]), (&json!("1000/s"), &json!("3d")));
    }
}
