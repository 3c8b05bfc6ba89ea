//! The chaos suite. `tests/chaos/run.sh` builds everything, starts a broker and calls this.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use callbackd_chaos::broker::Node;
use callbackd_chaos::campaign::{self, Wish};
use callbackd_chaos::control::{self, bare};
use callbackd_chaos::plan::plan;
use callbackd_chaos::report;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};

/// Breaks what callbackd stands on, and counts.
#[derive(Debug, Parser)]
enum Program {
    /// Events flow, things break, every event is accounted for.
    Run(Run),
    /// Workers with one flaw each, which the judge has to name.
    Controls(Place),
    /// Prints the plan of a seed.
    Plan(Size),
    /// One of those workers.
    #[command(hide = true)]
    Bare(bare::Orders),
}

#[derive(Debug, clap::Args)]
struct Run {
    #[command(flatten)]
    size: Size,
    #[command(flatten)]
    place: Place,
    /// Seconds in which there has to be a delivery after the broker accepts.
    #[arg(long, default_value = "5")]
    recovery: u64,
    /// The program under test.
    #[arg(long)]
    callbackd: PathBuf,
    /// libfaketime, the version for threads.
    #[arg(long)]
    faketime: PathBuf,
}

#[derive(Debug, clap::Args)]
struct Size {
    /// Events.
    #[arg(long, default_value = "3000")]
    events: u64,
    /// Faults.
    #[arg(long, default_value = "10")]
    faults: usize,
    /// Which faults, in which order; any number by default.
    #[arg(long)]
    seed: Option<u64>,
}

#[derive(Debug, clap::Args)]
struct Place {
    /// Folder of the running node (deploy/rabbitmq-node.sh).
    #[arg(long)]
    node: PathBuf,
    /// That script.
    #[arg(long)]
    node_script: PathBuf,
    /// For configuration, logs and ledgers.
    #[arg(long)]
    folder: PathBuf,
    /// The tables are written to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
}

impl Size {
    fn seed(&self) -> u64 {
        self.seed.unwrap_or_else(|| fastrand::u64(..1_000_000))
    }
}

fn main() -> anyhow::Result<ExitCode> {
    match Program::parse() {
        Program::Bare(orders) => bare::run(orders).map(|()| ExitCode::SUCCESS),
        Program::Plan(size) => {
            print_plan(size.seed(), size.faults);
            Ok(ExitCode::SUCCESS)
        }
        Program::Run(arguments) => interruptible(run(arguments)),
        Program::Controls(place) => interruptible(controls(place)),
    }
}

#[tokio::main]
async fn interruptible(work: impl Future<Output = anyhow::Result<ExitCode>>) -> anyhow::Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Dropping what runs kills its processes.
    tokio::select! {
        outcome = work => outcome,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

fn print_plan(seed: u64, faults: usize) {
    for planned in plan(seed, faults) {
        eprintln!("  {} for {} ms", planned.fault, planned.lasts.as_millis());
    }
}

async fn run(arguments: Run) -> anyhow::Result<ExitCode> {
    let Run { size, place, recovery, callbackd, faketime } = arguments;
    let node = Node::running(&place.node, &place.node_script)?;
    let (seed, faults) = (size.seed(), size.faults);
    let machine = format!("{}, {} cores, {}.", node.version().await?, cores(), build(&callbackd));
    let recovery = Duration::from_secs(recovery);
    let wish = Wish { events: size.events, faults, seed, recovery, program: callbackd, faketime, folder: place.folder.clone() };
    eprintln!("== {} events, {faults} faults, seed {seed}", wish.events);
    let outcome = campaign::run(&wish, node).await?;
    tell(&report::run(&wish, &outcome, &machine), place.out.as_deref())?;
    Ok(verdict(outcome.is_good()))
}

async fn controls(place: Place) -> anyhow::Result<ExitCode> {
    let node = Node::running(&place.node, &place.node_script)?;
    let findings = control::run(&node, &std::env::current_exe()?, &place.folder).await;
    tell(&report::controls(&findings), place.out.as_deref())?;
    for finding in findings.iter().filter(|finding| !finding.is_good()) {
        println!("\nFAILED: {} was not told from an honest worker\n{}", finding.flaw.name(), finding.complaint());
    }
    Ok(verdict(findings.iter().all(control::Finding::is_good)))
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZero::get)
}

fn build(program: &std::path::Path) -> &'static str {
    if program.components().any(|part| part.as_os_str() == "release") { "release build" } else { "debug build" }
}

fn tell(text: &str, out: Option<&std::path::Path>) -> anyhow::Result<()> {
    print!("{text}");
    if let Some(out) = out {
        std::fs::write(out, text).with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(())
}

const fn verdict(good: bool) -> ExitCode {
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
