//! The benchmark. `tests/bench/run.sh` builds everything, starts a broker and calls this.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use callbackd_bench::contestant::Programs;
use callbackd_bench::floor::{self, Floor};
use callbackd_bench::measure;
use callbackd_bench::reception;
use callbackd_bench::report::Report;
use callbackd_bench::scenario::{ALL, Extent, Scenario};
use callbackd_bench::stage::Stage;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;

/// Measures callbackd against what bare programs on the same libraries reach.
#[derive(Debug, Parser)]
enum Program {
    /// Starts everything else and measures.
    Measure(Arguments),
    /// The receiver; it writes its port to that file.
    Receive {
        /// The file.
        port_file: PathBuf,
    },
    /// The naive floor.
    Naive(Floor),
    /// The best floor.
    Best(Floor),
}

#[derive(Debug, clap::Args)]
struct Arguments {
    /// Rounds of what is compared.
    #[arg(long, default_value = "5")]
    rounds: u32,
    /// Only these; may be given several times, or separated by commas.
    #[arg(long, value_enum, value_delimiter = ',')]
    only: Vec<Scenario>,
    /// One round of a tenth of the events, to see that everything works.
    #[arg(long)]
    quick: bool,
    /// The tables are written to this file too.
    #[arg(long)]
    out: Option<PathBuf>,
    /// Folder of the running node (deploy/rabbitmq-node.sh).
    #[arg(long)]
    node: PathBuf,
    /// The binary that is measured.
    #[arg(long)]
    callbackd: PathBuf,
    /// The Node program.
    #[arg(long)]
    script: PathBuf,
    /// For configuration and logs.
    #[arg(long)]
    folder: PathBuf,
}

fn main() -> anyhow::Result<ExitCode> {
    match Program::parse() {
        Program::Measure(arguments) => measure_all(&arguments),
        Program::Receive { port_file } => reception::run(&port_file).map(|()| ExitCode::SUCCESS),
        Program::Naive(floor) => floor::naive::run(floor).map(|()| ExitCode::SUCCESS),
        Program::Best(floor) => floor::best::run(floor).map(|()| ExitCode::SUCCESS),
    }
}

#[tokio::main(flavor = "current_thread")]
async fn measure_all(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    // Dropping what runs kills its processes.
    tokio::select! {
        outcome = run(arguments) => outcome,
        _ = interrupt.recv() => Ok(ExitCode::from(130)),
        _ = terminate.recv() => Ok(ExitCode::from(143)),
    }
}

async fn run(arguments: &Arguments) -> anyhow::Result<ExitCode> {
    let started = Instant::now();
    let number = |name: &str| -> anyhow::Result<u32> {
        let file = arguments.node.join(name);
        Ok(fs::read_to_string(&file).with_context(|| format!("no {}", file.display()))?.trim().parse()?)
    };
    let bench = std::env::current_exe()?;
    let programs =
        Programs { callbackd: arguments.callbackd.clone(), bench, node: arguments.script.clone(), folder: arguments.folder.clone() };
    let load = measure::load();
    let mut stage = Stage::set_up(programs, u16::try_from(number("port")?)?, number("vm")?).await?;
    let version = stage.broker.version().await?;
    let extent = Extent { rounds: if arguments.quick { 1 } else { arguments.rounds }, quick: arguments.quick };
    let mut report = Report::default();
    for scenario in ALL {
        if arguments.only.is_empty() || arguments.only.contains(&scenario) {
            scenario.run(&mut stage, extent, &mut report).await;
        }
    }
    let took = started.elapsed().as_secs();
    let quick = if extent.quick { " A quick try: these figures say little." } else { "" };
    let machine = format!(
        "{}, {version}. Rounds: {}. Took {} min {} s; load before {load}.{quick}",
        measure::machine(),
        extent.rounds,
        took / 60,
        took % 60
    );
    let text = report.markdown(&machine);
    print!("{text}");
    if let Some(out) = &arguments.out {
        fs::write(out, &text).with_context(|| format!("cannot write {}", out.display()))?;
    }
    Ok(if report.all_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
