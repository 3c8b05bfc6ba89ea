//! The names of things: opaque strings that must not be confused with one another.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

/// Why a text cannot be a name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadName {
    /// The text has no characters.
    #[error("is empty")]
    Empty,
    /// The text is longer than the limit, in bytes of UTF-8.
    #[error("is {length} bytes long, at most {limit} are allowed")]
    TooLong {
        /// Bytes found.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
}

macro_rules! name {
    ($(#[$doc:meta])* $name:ident, $limit:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Longest name accepted, in bytes.
            pub const LIMIT: usize = $limit;

            /// Takes any text that is neither empty nor over [`Self::LIMIT`]; nothing else is asked of it.
            ///
            /// # Errors
            /// [`BadName`] says which of the two it is.
            pub fn try_new(text: impl AsRef<str>) -> Result<Self, BadName> {
                let text = text.as_ref();
                match text.len() {
                    0 => Err(BadName::Empty),
                    length if length > Self::LIMIT => Err(BadName::TooLong { length, limit: Self::LIMIT }),
                    _ => Ok(Self(text.into())),
                }
            }

            /// The name as it came in.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// What makes two copies of an event the same event: the integrator's idempotency key starts here.
    EventId,
    1024
);
name!(
    /// The key of an integrator, as upstream and `integrators.toml` write it.
    IntegratorKey,
    255
);
name!(
    /// What an event is about, such as `complianceRecord`.
    Topic,
    255
);
name!(
    /// The name of an endpoint, unique within its integrator.
    EndpointId,
    64
);
name!(
    /// The name of a source of events, such as `compliance`.
    SourceName,
    64
);

impl Topic {
    /// The one topic that the classic format can carry.
    pub const COMPLIANCE_RECORD: &'static str = "complianceRecord";
    /// Provider attachments: delivered only to endpoints that name it in their topics.
    pub const IDENT_RESULT_KYC: &'static str = "identResultKYC";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_any_text_within_its_limit() {
        assert_eq!(EventId::try_new("Concedus+Q000020AA+14").unwrap().as_str(), "Concedus+Q000020AA+14");
        assert_eq!(EventId::try_new(""), Err(BadName::Empty));
        assert!(EventId::try_new("x".repeat(1024)).is_ok());
        assert_eq!(EventId::try_new("x".repeat(1025)), Err(BadName::TooLong { length: 1025, limit: 1024 }));
    }
}
