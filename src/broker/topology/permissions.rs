//! The least that each user of the broker needs where callbackd declares nothing itself (`broker.declare = false`).

use serde_json::{Value, json};

use super::{Purpose, Topology};
use crate::config::Config;

/// Who does what on the broker, by the names of its users.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users<'a> {
    /// Runs `callbackd run`: takes what is in the work and due queues, and publishes copies.
    pub worker: &'a str,
    /// Runs `callbackd dead`: looks at, takes and replays what was not delivered.
    pub operator: &'a str,
    /// Publishes events.
    pub publisher: &'a str,
}

/// Matches nothing but the name that is empty, which nothing has.
const NOTHING: &str = "^$";

impl Topology {
    /// The permissions of these users in a virtual host, as in a RabbitMQ definitions file. That exchanges and queues are there
    /// can be seen without any, and what the broker itself moves (waits that end, what it rejects) needs none.
    #[must_use]
    pub fn permissions(&self, config: &Config, vhost: &str, users: &Users<'_>) -> Value {
        let publish = [config.broker.names.publish.as_str()];
        let and_outcomes: Vec<&str> = publish.into_iter().chain(config.outcomes.exchange.as_deref()).collect();
        let sources: Vec<&str> = config.sources.iter().map(|source| source.exchange.as_str()).collect();
        let taken = self.queues_for(|purpose| matches!(purpose, Purpose::Work | Purpose::Due));
        let browsed = self.queues_for(|purpose| matches!(purpose, Purpose::Dead | Purpose::Rejected | Purpose::Unroutable));
        // The console and the API show letters, and replay them.
        let worker: Vec<&str> = taken.iter().chain(browsed.iter().filter(|_| config.admin.api)).copied().collect();
        let user = |user: &str, write: &[&str], read: &[&str]| {
            let (write, read) = (pattern(write), pattern(read));
            json!({"user": user, "vhost": vhost, "configure": NOTHING, "write": write, "read": read})
        };
        let all =
            [user(users.worker, &and_outcomes, &worker), user(users.operator, &publish, &browsed), user(users.publisher, &sources, &[])];
        json!({ "permissions": all })
    }

    fn queues_for(&self, fits: impl Fn(Purpose) -> bool) -> Vec<&str> {
        self.queues.iter().filter(|queue| fits(queue.purpose)).map(|queue| queue.name.as_str()).collect()
    }
}

/// A regular expression for these names and no other.
fn pattern(names: &[&str]) -> String {
    if names.is_empty() {
        NOTHING.to_owned()
    } else {
        format!("^({})$", names.iter().map(|name| literal(name)).collect::<Vec<_>>().join("|"))
    }
}

/// A text as a regular expression for itself.
fn literal(text: &str) -> String {
    let special = |character: char| character.is_ascii_punctuation() && !matches!(character, '_' | '-');
    text.chars().flat_map(|character| special(character).then_some('\\').into_iter().chain([character])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_means_the_names_themselves() {
        assert_eq!(pattern(&["callbacks.a-b_c", "x+(y)"]), r"^(callbacks\.a-b_c|x\+\(y\))$");
        assert_eq!(pattern(&[]), "^$");
    }
}
