//! What can be wrong with the topology, and what to do about it.

use std::fmt;
use std::time::Duration;

use super::Binding;

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
    #[error("{} of {of} exchanges and queues are missing; create them with `callbackd topology apply` or set broker.declare = true; missing: {}",
        .objects.len(), named(.objects))]
    Missing {
        /// What is missing.
        objects: Vec<Object>,
        /// How many were looked for.
        of: usize,
    },
    /// These exist, but not as declared. Nothing was changed about them.
    #[error("{} on the broker with other arguments; delete them when empty or change the configuration; different: {}",
        counted(.0, "exists", "exist"), named(.0))]
    Differs(Vec<Refusal>),
    /// The broker's user may not declare these.
    #[error("{} refused; give the broker's user the permission, or create the objects from `callbackd topology export` \
        and set broker.declare = false; refused: {}", counted(.0, "is", "are"), named(.0))]
    Denied(Vec<Refusal>),
    /// The broker refused for another reason, or the connection ended.
    #[error("{} not declared or found: {}", counted(.0, "was", "were"), named(.0))]
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

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (broker says: {})", self.object, self.broker_says)
    }
}

fn counted(refusals: &[Refusal], one: &str, many: &str) -> String {
    match refusals.len() {
        1 => format!("1 object {one}"),
        count => format!("{count} objects {many}"),
    }
}

fn named<T: fmt::Display>(all: &[T]) -> String {
    all.iter().map(T::to_string).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn queue(name: &str) -> Object {
        Object::Queue(name.to_owned())
    }

    #[test]
    fn errors_tell_the_number_and_the_remedy_before_the_names() {
        let missing = TopologyError::Missing { objects: vec![queue("a"), Object::Exchange("b".to_owned())], of: 135 };
        assert_eq!(
            missing.to_string(),
            "2 of 135 exchanges and queues are missing; create them with `callbackd topology apply` or set broker.declare = true; \
             missing: queue a, exchange b"
        );
        let refusal = Refusal { object: queue("callbacks.dead"), broker_says: "inequivalent arg".to_owned() };
        assert_eq!(
            TopologyError::Differs(vec![refusal.clone()]).to_string(),
            "1 object exists on the broker with other arguments; delete them when empty or change the configuration; \
             different: queue callbacks.dead (broker says: inequivalent arg)"
        );
        assert_eq!(
            TopologyError::Denied(vec![refusal.clone(), refusal]).to_string(),
            "2 objects are refused; give the broker's user the permission, or create the objects from `callbackd topology export` \
             and set broker.declare = false; refused: queue callbacks.dead (broker says: inequivalent arg), \
             queue callbacks.dead (broker says: inequivalent arg)"
        );
    }

    #[test]
    fn the_remedy_survives_a_log_line_of_500_bytes_however_much_is_missing() {
        let objects: Vec<Object> = (0..135).map(|n| queue(&format!("callbacks.compliance.wait.{n}"))).collect();
        let text = TopologyError::Missing { of: objects.len(), objects }.to_string();
        assert!(text[..500].contains("set broker.declare = true"), "{text}");
        assert!(text.ends_with("queue callbacks.compliance.wait.134"), "{text}");
    }
}
