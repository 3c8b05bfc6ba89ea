//! The lines about what upstream is told.

use tracing::{info, warn};

use super::{LOST_LIMIT, TEXT_LIMIT, cut, ms};
use crate::telemetry::facts::Fact;

pub(super) fn write(fact: &Fact<'_>) {
    match *fact {
        Fact::OutcomesReady { exchange } => info!(target: "callbackd", exchange, "outcomes ready"),
        Fact::OutcomesFailed { error, retry_in } => {
            warn!(target: "callbackd", error = &*cut(error, LOST_LIMIT), retry_in_ms = ms(retry_in), "outcomes failed");
        }
        Fact::OutcomesFull => warn!(target: "callbackd", "outcomes full: those that come are left out"),
        Fact::OutcomesRefused { error } => warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), "outcome refused"),
        Fact::OutcomesDropped { outcomes } => warn!(target: "callbackd", outcomes, "outcomes left out"),
        _ => {}
    }
}
