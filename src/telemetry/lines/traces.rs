//! The lines about the export of spans.

use tracing::{info, warn};

use super::{TEXT_LIMIT, cut, ms};
use crate::telemetry::facts::Fact;

pub(super) fn write(fact: &Fact<'_>) {
    match *fact {
        Fact::TracesReady { collector } => info!(target: "callbackd", collector, "traces ready"),
        Fact::TracesFailed { error, retry_in } => {
            warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), retry_in_ms = ms(retry_in), "traces failed");
        }
        Fact::TracesFull => warn!(target: "callbackd", "traces full: spans that come are left out"),
        Fact::TracesRefused { error } => warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), "traces refused"),
        Fact::TracesDropped { spans } => warn!(target: "callbackd", spans, "traces left out"),
        _ => {}
    }
}
