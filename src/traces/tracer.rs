//! Where spans wait to be exported.

use super::span::Span;
use crate::clock;
use crate::telemetry::backlog::{Backlog, Pushed, Weighed};
use crate::telemetry::{Fact, Observer, Telemetry};

/// Makes spans of facts and keeps them until they are exported. What finds no room is left out and counted.
pub struct Tracer {
    backlog: Backlog<Span>,
    ratio: f64,
    telemetry: Telemetry,
}

impl Tracer {
    /// Nothing yet. Losses are told through `telemetry`, which must not be observed by this tracer.
    #[must_use]
    pub fn new(ratio: f64, limit: usize, telemetry: Telemetry) -> Self {
        Self { backlog: Backlog::new(limit), ratio, telemetry }
    }

    pub(super) const fn backlog(&self) -> &Backlog<Span> {
        &self.backlog
    }

    /// Spans that were taken are done with.
    pub(super) fn release(&self, spans: &[Box<Span>]) {
        let released = self.backlog.release(spans);
        self.telemetry.trace_spans_waiting(released.held);
        if released.dropped > 0 {
            self.telemetry.record(&Fact::TracesDropped { spans: released.dropped });
        }
    }

    /// Gives up what is left, and tells how many that were with those that were left out before.
    pub(super) fn give_up(&self) {
        let (left, before) = self.backlog.give_up();
        self.telemetry.trace_spans_waiting(0);
        self.telemetry.trace_spans_dropped(left);
        if left + before > 0 {
            self.telemetry.record(&Fact::TracesDropped { spans: left + before });
        }
    }

    fn push(&self, span: Span) {
        match self.backlog.push(span) {
            Pushed::Waits(held) => self.telemetry.trace_spans_waiting(held),
            Pushed::LeftOut { is_first } => {
                self.telemetry.trace_spans_dropped(1);
                if is_first {
                    self.telemetry.record(&Fact::TracesFull);
                }
            }
        }
    }
}

impl Observer for Tracer {
    fn see(&self, fact: &Fact<'_>) {
        let is_span = matches!(
            fact,
            Fact::Settled { .. } | Fact::Attempted { .. } | Fact::Waits { .. } | Fact::DeadLettered { .. } | Fact::Rejected { .. }
        );
        if is_span {
            Span::all_of(fact, self.ratio, clock::now()).for_each(|span| self.push(span));
        }
    }
}

impl Weighed for Span {
    fn weight(&self) -> usize {
        self.size()
    }
}
