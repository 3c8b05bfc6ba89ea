//! Sections `[[source]]` and `[wait]`: the streams of events, and the ladder that each has.

use std::collections::{HashMap, HashSet};
use std::num::NonZeroU16;
use std::time::Duration;

use super::broker::{NAME_LIMIT, Names, name};
use super::kinds::{Fault, duration, integer, text, word};
use super::reading::Reading;
use super::section::Section;
use crate::domain::ladder::{Ladder, Rung};
use crate::domain::names::SourceName;

/// One stream of events.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its name, which labels metrics.
    pub name: SourceName,
    /// The exchange that upstream publishes to.
    pub exchange: String,
    /// The queue of first attempts.
    pub queue: String,
    /// The binding key between the two.
    pub binding: String,
    /// Most messages of each of the source's two queues in our hands at one time.
    pub prefetch: NonZeroU16,
}

impl Source {
    /// The queue of retries that are due.
    #[must_use]
    pub fn due_queue(&self) -> String {
        format!("{}.due", self.queue)
    }

    /// The key under which the broker moves what it rejects from the work queue, or from the due queue, to the rejected. It
    /// says where a message came from, and no publisher can write it.
    #[must_use]
    pub fn rejection_key(&self, due: bool) -> String {
        if due { format!("{}.rejected", self.due_queue()) } else { format!("{}.rejected", self.queue) }
    }

    /// The queue of one rung of this source's ladder.
    #[must_use]
    pub fn wait_queue(&self, rung: Rung) -> String {
        format!("{}.wait.{rung}", self.queue)
    }

    fn queues(&self, ladder: &Ladder) -> Vec<String> {
        let waits = ladder.rungs().map(|rung| self.wait_queue(rung));
        [self.queue.clone(), self.due_queue()].into_iter().chain(waits).collect()
    }
}

/// Most sources: each has two connections and about sixty queues.
const LIMIT: usize = 64;

/// AMQP's limit on an exchange's name and on a routing key, in bytes.
const SHORT_STRING: usize = 255;

/// Reads `[[source]]`, at least one.
pub(super) fn read_all(root: &mut Section<'_>, prefix: &str) -> Vec<Source> {
    let mut names = HashSet::new();
    let sources = root.sections("source", LIMIT, |section| {
        let source = read(section, prefix)?;
        if !names.insert(source.name.clone()) {
            section.problem("name", format!("{:?} stands there twice", source.name.as_str()));
        }
        Some(source)
    });
    if sources.is_none() {
        root.problem("source", "is missing; write at least one [[source]] with a name and an exchange");
    }
    if sources.as_ref().is_some_and(Vec::is_empty) {
        root.problem("source", "has no entry that could be read; at least one is needed");
    }
    sources.unwrap_or_default()
}

/// Reads `[wait]`.
pub(super) fn read_ladder(section: &mut Section<'_>) -> Option<Ladder> {
    let range = Ladder::SHORTEST..=Ladder::LONGEST;
    let shortest = section.or("shortest", Duration::from_secs(1), duration(range.clone()));
    let longest = section.or("longest", Duration::from_secs(6 * 3600), duration(range));
    Ladder::try_new(shortest, longest).map_err(|error| section.problem_here(error.to_string())).ok()
}

/// Refuses names that two things on the broker would share.
pub(super) fn refuse_shared_names(reading: &Reading<'_>, sources: &[Source], names: &Names, ladder: &Ladder) {
    let mut queues: HashMap<String, String> = HashMap::new();
    let fixed = [("dead", &names.dead), ("rejected", &names.rejected), ("unroutable", &names.unroutable)];
    let fixed = fixed.map(|(key, name)| (format!("broker.names.{key}"), vec![name.clone()]));
    let of_sources = sources.iter().map(|source| (format!("source[{:?}].queue", source.name.as_str()), source.queues(ladder)));
    for (path, wanted) in fixed.into_iter().chain(of_sources) {
        // One clash is enough: two sources with the same queue share all the rungs too.
        if let Some((name, other)) = wanted.iter().find_map(|name| queues.get_key_value(name)) {
            reading.problem(&path, &format!("the queue {name:?} is also that of {other}"));
        }
        queues.extend(wanted.into_iter().map(|name| (name, path.clone())));
    }

    let mut exchanges: HashMap<&str, String> = HashMap::new();
    for source in sources {
        exchanges.insert(&source.exchange, format!("source[{:?}].exchange", source.name.as_str()));
    }
    for (key, name) in [("route", &names.route), ("publish", &names.publish), ("unroutable", &names.unroutable)] {
        let path = format!("broker.names.{key}");
        if let Some(other) = exchanges.insert(name, path.clone()) {
            reading.problem(&path, &format!("the exchange {name:?} is also that of {other}"));
        }
    }
}

fn read(section: &mut Section<'_>, prefix: &str) -> Option<Source> {
    let name_of_source = section.required("name", |value| SourceName::try_new(word(SourceName::LIMIT)(value)?).map_err(Fault::content));
    let exchange = section.required("exchange", text(SHORT_STRING));
    let queue = section.optional("queue", name(NAME_LIMIT));
    let binding = section.or("binding", "#".to_owned(), text(SHORT_STRING));
    let prefetch = section.or("prefetch", DEFAULT_PREFETCH, integer_u16(1..=65535));
    let name = name_of_source?;
    let queue = queue.unwrap_or_else(|| format!("{prefix}.{name}"));
    Some(Source { name, exchange: exchange?, queue, binding, prefetch })
}

/// Measured: from about 500 on more gains nothing at HTTP rates; twice that leaves room for slow endpoints.
const DEFAULT_PREFETCH: NonZeroU16 = NonZeroU16::new(1000).unwrap();

/// A whole number from 1 on.
pub(super) fn integer_u16(range: std::ops::RangeInclusive<i64>) -> impl Fn(&toml::Value) -> Result<NonZeroU16, Fault> {
    let read = integer::<u16>(range);
    move |value| NonZeroU16::new(read(value)?).ok_or_else(|| Fault::content("must be at least 1"))
}
