//! The lines about the delivery log.

use tracing::{debug, info, warn};

use super::{TEXT_LIMIT, cut, ms};
use crate::telemetry::facts::Fact;

pub(super) fn write(fact: &Fact<'_>) {
    match *fact {
        Fact::DeliveryLogReady { database } => info!(target: "callbackd", database, "delivery log ready"),
        Fact::DeliveryLogFailed { error, retry_in } => {
            warn!(target: "callbackd", error = &*cut(error, TEXT_LIMIT), retry_in_ms = ms(retry_in), "delivery log failed");
        }
        Fact::DeliveryLogFull => warn!(target: "callbackd", "delivery log full: entries are left out"),
        Fact::DeliveryLogWritten { entries, dropped: 0 } => debug!(target: "callbackd", entries, "delivery log written"),
        Fact::DeliveryLogWritten { entries, dropped } => {
            warn!(target: "callbackd", entries, dropped, "delivery log written, with entries left out before");
        }
        Fact::DeliveryLogTrimmed { entries } => debug!(target: "callbackd", entries, "delivery log trimmed"),
        _ => {}
    }
}
