//! What can be wrong with the topology, and what to do about it.

use std::fmt;
use std::time::Duration;

use super::Binding;

const DENIED: &str =
    "give the broker's user the permission, or create the objects from `callbackd topology export` and set `broker.declare = false`";

/// Something on the broker, as errors name it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Object {
    /// An exchange by its name.
    Exchange(String),
    /// A queue by its name.
    Queue(String),
    /// A binding.
    Binding(Binding),
}

/// An object that the broker refused, and its words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// What was declared.
    pub object: Object,
    /// What the broker said.
    pub broker_says: String,
}

/// Why the topology is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TopologyError {
    /// These do not exist: all that are missing.
    #[error("missing on the broker: {}; create them with `callbackd topology apply` or by importing `callbackd topology export`", list(.0))]
    Missing(Vec<Object>),
    /// These exist, but not as declared. Nothing was changed about them.
    #[error("{}", differing(.0))]
    Differs(Vec<Refusal>),
    /// The broker's user may not declare these.
    #[error("{}; {DENIED}", refused(.0))]
    Denied(Vec<Refusal>),
    /// The broker refused for another reason, or the connection ended.
    #[error("{}", refused(.0))]
    Failed(Vec<Refusal>),
    /// The broker did not answer within the limit.
    #[error("no answer from the broker within {}.{:03} s about {object}", .limit.as_secs(), .limit.subsec_millis())]
    TimedOut {
        /// What was asked for.
        object: Object,
        /// The limit.
        limit: Duration,
    },
}

impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exchange(name) => write!(f, "exchange {name}"),
            Self::Queue(name) => write!(f, "queue {name}"),
            Self::Binding(binding) => write!(f, "binding of {} to {}", binding.queue, binding.exchange),
        }
    }
}

fn list(objects: &[Object]) -> String {
    objects.iter().map(Object::to_string).collect::<Vec<_>>().join(", ")
}

fn differing(refusals: &[Refusal]) -> String {
    let line = |one: &Refusal| {
        format!(
            "{} exists with other arguments (broker says: {}); delete it when empty or change the configuration",
            one.object, one.broker_says
        )
    };
    refusals.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn refused(refusals: &[Refusal]) -> String {
    refusals.iter().map(|one| format!("{} could not be declared or found: {}", one.object, one.broker_says)).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_the_object_and_the_remedy() {
        let queue = |name: &str| Object::Queue(name.to_owned());
        let missing = TopologyError::Missing(vec![queue("a"), Object::Exchange("b".to_owned())]).to_string();
        assert!(missing.starts_with("missing on the broker: queue a, exchange b; create them with"), "{missing}");
        let refusal = Refusal { object: queue("callbacks.dead"), broker_says: "inequivalent arg".to_owned() };
        let differs = TopologyError::Differs(vec![refusal]).to_string();
        assert_eq!(
            differs,
            "queue callbacks.dead exists with other arguments (broker says: inequivalent arg); \
             delete it when empty or change the configuration"
        );
    }
}
