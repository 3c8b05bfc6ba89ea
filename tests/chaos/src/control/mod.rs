//! The negative controls: a suite that cannot fail proves nothing. Eight small workers with one flaw each, and an honest one
//! beside each of them in the same scene: the judge has to name the flawed one and to acquit the honest one.

pub mod bare;
mod scene;

use std::path::Path;

use clap::ValueEnum as _;
use tokio::task::JoinSet;

use crate::broker::Node;
use crate::judge::Judgement;

/// What a worker can do wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Flaw {
    /// Acknowledges an event before it is told.
    AckBeforePost,
    /// Acknowledges before the broker has confirmed the copy.
    AckBeforeConfirm,
    /// Takes a copy that came back for one that is safe.
    IgnoreReturned,
    /// Takes a copy that was refused for one that is safe.
    IgnoreNack,
    /// Has its retries wait in a queue that forwards them at most once.
    AtMostOnceWait,
    /// Acknowledges a dead letter before the broker has confirmed its replay.
    AckBeforeReplay,
    /// Publishes on the channel on which it acknowledges.
    OneChannel,
    /// Drops what comes while its own line is full.
    DropWhenFull,
}

impl Flaw {
    /// Its name on the command line and in tables.
    #[must_use]
    pub fn name(self) -> String {
        self.to_possible_value().map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// What the judge has to say of a worker with it.
    #[must_use]
    pub const fn verdict(self) -> &'static str {
        match self {
            Self::OneChannel => "duplicates",
            _ => "lost",
        }
    }
}

/// What came of a flaw.
#[derive(Debug)]
pub struct Finding {
    /// The flaw.
    pub flaw: Flaw,
    flawed: anyhow::Result<Judgement>,
    innocent: anyhow::Result<Judgement>,
}

impl Finding {
    /// Whether the judge named the flawed worker and acquitted the honest one.
    #[must_use]
    pub fn is_good(&self) -> bool {
        let named = |judgement: &Judgement| judgement.violations.iter().any(|violation| violation.name == self.flaw.verdict());
        self.flawed.as_ref().is_ok_and(named) && self.innocent.as_ref().is_ok_and(|judgement| judgement.violations.is_empty())
    }

    /// What the judge says of the flawed worker.
    #[must_use]
    pub fn guilty(&self) -> String {
        said(&self.flawed)
    }

    /// What the judge says of the honest worker in the same scene.
    #[must_use]
    pub fn honest(&self) -> String {
        said(&self.innocent)
    }

    /// The histories that the judge tells of what went wrong against expectation.
    #[must_use]
    pub fn complaint(&self) -> String {
        let texts = |judgement: &anyhow::Result<Judgement>| match judgement {
            Ok(judgement) => judgement.violations.iter().map(|violation| format!("{}{}\n", violation.name, violation.text)).collect(),
            Err(error) => format!("{error:#}\n"),
        };
        format!("flawed: {}honest: {}", texts(&self.flawed), texts(&self.innocent))
    }
}

fn said(judgement: &anyhow::Result<Judgement>) -> String {
    match judgement {
        Ok(judgement) if judgement.violations.is_empty() => "nothing".to_owned(),
        Ok(judgement) => {
            let named: Vec<String> =
                judgement.violations.iter().map(|violation| format!("{} {}", violation.count, violation.name)).collect();
            named.join(", ")
        }
        Err(error) => format!("the scene broke: {error:#}"),
    }
}

/// Runs all of them, flawed and honest side by side.
pub async fn run(node: &Node, program: &Path, folder: &Path) -> Vec<Finding> {
    // At-least-once forwarding tries again after this long what found no queue; three minutes otherwise.
    let eval = "application:set_env(rabbit, dead_letter_worker_publisher_confirm_timeout, 1000).";
    if let Err(error) = node.ctl(&["-q", "eval", eval]).await {
        eprintln!("{error:#}");
    }
    let mut playing = JoinSet::new();
    // An alarm is the whole node's, so it comes when nothing else is played.
    let (alone, together): (Vec<&Flaw>, Vec<&Flaw>) = Flaw::value_variants().iter().partition(|flaw| **flaw == Flaw::OneChannel);
    for flaw in together {
        let (node, program, folder) = (node.clone(), program.to_owned(), folder.to_owned());
        playing.spawn(async move { try_flaw(&node, &program, &folder, *flaw).await });
    }
    let mut findings = playing.join_all().await;
    for flaw in alone {
        findings.push(try_flaw(node, program, folder, *flaw).await);
    }
    findings.sort_by_key(|finding| finding.flaw as usize);
    findings
}

async fn try_flaw(node: &Node, program: &Path, folder: &Path, flaw: Flaw) -> Finding {
    if flaw == Flaw::OneChannel {
        // An alarm is the whole node's, so one after the other.
        let flawed = scene::play(node.clone(), program, folder, (flaw, true)).await;
        return Finding { flaw, flawed, innocent: scene::play(node.clone(), program, folder, (flaw, false)).await };
    }
    let mut pair = JoinSet::new();
    for flawed in [true, false] {
        let (node, program, folder) = (node.clone(), program.to_owned(), folder.to_owned());
        pair.spawn(async move { (flawed, scene::play(node, &program, &folder, (flaw, flawed)).await) });
    }
    let (mut guilty, mut innocent) = (Err(anyhow::anyhow!("not played")), Err(anyhow::anyhow!("not played")));
    while let Some(played) = pair.join_next().await {
        match played {
            Ok((true, judgement)) => guilty = judgement,
            Ok((false, judgement)) => innocent = judgement,
            Err(error) => eprintln!("{error}"),
        }
    }
    Finding { flaw, flawed: guilty, innocent }
}
