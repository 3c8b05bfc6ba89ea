//! The command `callbackd`: parses the command line, runs the command, maps its error to an exit code.

use std::env;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use callbackd::cli::Cli;
use clap::Parser as _;
use clap::error::ErrorKind;

/// An event takes some sixty small allocations: this allocator makes them in a tenth less CPU for the whole program.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// Bad usage or configuration (`EX_USAGE` of sysexits.h).
const USAGE: u8 = 64;

/// The variable that the standard library takes the stack size of new threads from, in bytes.
const STACK: &str = "RUST_MIN_STACK";
/// Room for the deepest nesting that fits into a message's headers (26,000 levels of five bytes in a frame of 128 KiB), of which
/// a debug build was measured to need 7 KiB each. Address space, not memory: what is not used is never touched.
const ROOM: &str = "268435456";
/// Threads of our own do not parse headers.
const OWN_STACK: usize = 2 << 20;

fn main() -> ExitCode {
    start_with_room_for_nesting();
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            let asked_for = matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion);
            return if asked_for { ExitCode::SUCCESS } else { ExitCode::from(USAGE) };
        }
    };
    // One thread: measured to take 1.3 to 1.7 times less CPU than two worker threads for the same work.
    let runtime = tokio::runtime::Builder::new_current_thread().thread_stack_size(OWN_STACK).enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("callbackd: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(cli.run());
    // Whatever still runs (a name look-up, a request that was given up) ends with the process, and must not keep it alive. Nor is the
    // runtime shut down under it: the AMQP library's thread, met while it connects, would panic into the last lines of the log.
    std::mem::forget(runtime);
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("callbackd: {error}");
            ExitCode::from(error.exit_code())
        }
    }
}

/// Starts the program anew, under the same process id, with larger stacks for threads that others make.
///
/// The AMQP library reads nested headers by recursion without a limit, on a thread of its own: a message of a few kilobytes
/// would overflow its stack and end the process, again at every redelivery. Where the program cannot be started anew, it goes
/// on as it is.
fn start_with_room_for_nesting() {
    if env::var_os(STACK).is_some() {
        return;
    }
    let Ok(program) = env::current_exe() else { return };
    // Returns only when it fails.
    let _ = Command::new(program).args(env::args_os().skip(1)).env(STACK, ROOM).exec();
}
