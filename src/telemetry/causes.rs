//! The closed sets of causes and outcomes that facts carry: each is a label of a metric or a word of the log.

/// Why something waits in the ladder. A closed set: it labels a metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum WaitCause {
    /// An attempt failed and will be made again.
    Retry,
    /// It came back before its time, as no rung is as long as the whole wait: another turn of the same wait.
    HoldUntil,
    /// Nobody by the event's integrator or endpoint is configured.
    Configuration,
    /// Its endpoint's lane is full, and it makes room.
    Parked,
    /// Its endpoint's circuit is open.
    Circuit,
    /// Its endpoint answered 410 and is not told for now.
    Paused,
    /// An operator has paused its endpoint.
    Held,
    /// The worker stops, and the event has been told at another endpoint already.
    Stopping,
}

impl WaitCause {
    /// Every cause, for metrics that start at zero.
    pub const ALL: [Self; 8] =
        [Self::Retry, Self::HoldUntil, Self::Configuration, Self::Parked, Self::Circuit, Self::Paused, Self::Held, Self::Stopping];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::HoldUntil => "hold_until",
            Self::Configuration => "configuration",
            Self::Parked => "parked",
            Self::Circuit => "circuit",
            Self::Paused => "paused",
            Self::Held => "held",
            Self::Stopping => "stopping",
        }
    }
}

/// Why an endpoint that answered 410 is told again. A closed set: it stands in logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ResumeCause {
    /// Its configuration has changed.
    ConfigurationChanged,
    /// Its time is over.
    TimeOver,
}

impl ResumeCause {
    /// The name in logs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigurationChanged => "configuration_changed",
            Self::TimeOver => "time_over",
        }
    }
}

/// How a message ended, for the count of events by source and outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum EventOutcome {
    /// No endpoint wants it.
    Skipped,
    /// Every delivery that was due is made.
    Delivered,
    /// At least one delivery waits in the ladder.
    Waiting,
    /// At least one delivery is dead.
    Dead,
    /// It is, or one of its deliveries is, rejected.
    Rejected,
}

impl EventOutcome {
    /// Every outcome, for metrics that start at zero.
    pub const ALL: [Self; 5] = [Self::Skipped, Self::Delivered, Self::Waiting, Self::Dead, Self::Rejected];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Skipped => "skipped",
            Self::Delivered => "delivered",
            Self::Waiting => "waiting",
            Self::Dead => "dead",
            Self::Rejected => "rejected",
        }
    }
}

/// Why a request to `/api` is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ApiRefusal {
    /// There is no bearer token.
    NoToken,
    /// The token is none of the configured ones.
    WrongToken,
    /// And so were many others in the same second.
    TooManyWrongTokens,
    /// More than its token may make.
    TooManyRequests,
    /// It names a host that is not this machine.
    ForeignHost,
    /// A page from elsewhere makes it.
    ForeignOrigin,
    /// Its token may look, and this would change something.
    ReadOnly,
}

impl ApiRefusal {
    /// Every reason, for metrics that start at zero.
    pub const ALL: [Self; 7] = [
        Self::NoToken,
        Self::WrongToken,
        Self::TooManyWrongTokens,
        Self::TooManyRequests,
        Self::ForeignHost,
        Self::ForeignOrigin,
        Self::ReadOnly,
    ];

    /// The name in logs and metrics.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoToken => "no_token",
            Self::WrongToken => "wrong_token",
            Self::TooManyWrongTokens => "too_many_wrong_tokens",
            Self::TooManyRequests => "too_many_requests",
            Self::ForeignHost => "foreign_host",
            Self::ForeignOrigin => "foreign_origin",
            Self::ReadOnly => "read_only",
        }
    }
}
