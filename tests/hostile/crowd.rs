//! Thousands of connections that hang, at one time. Server and client are processes of their own, each with all the files that it may
//! have.

use std::io::{BufRead as _, BufReader, Read as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Instant;

use super::*;

/// Set for the processes of a test: what they are, and for the client how many connections it makes and where.
const ROLE: &str = "CALLBACKD_TEST_CROWD";

/// Memory for each connection, of a debug build: buffers of the client and its task.
const EACH: usize = 64 << 10;
const BASE: usize = 32 << 20;

#[tokio::test]
async fn a_thousand_connections_that_hang_end_in_time_and_take_little_memory() {
    crowd("crowd::a_thousand_connections_that_hang_end_in_time_and_take_little_memory", 1000).await;
}

#[tokio::test]
#[ignore = "needs 10,000 files for each of two processes"]
async fn ten_thousand_connections_that_hang_end_in_time_and_take_little_memory() {
    crowd("crowd::ten_thousand_connections_that_hang_end_in_time_and_take_little_memory", 10_000).await;
}

async fn crowd(test: &str, connections: usize) {
    match std::env::var(ROLE) {
        Err(_) => {
            let (mut server, mut said) = role(test, "server");
            let port =
                said.by_ref().lines().map_while(Result::ok).find_map(|line| line.strip_prefix("port ")?.parse::<u16>().ok()).unwrap();
            let (mut client, mut said) = role(test, &format!("{connections} {port}"));
            let mut text = String::new();
            said.read_to_string(&mut text).unwrap();
            let (status, _) = (client.wait().unwrap(), server.kill());
            let _ = server.wait();
            assert!(status.success() && text.contains("1 passed"), "{text}");
            println!("{text}");
        }
        Ok(role) if role == "server" => serve().await,
        Ok(role) => {
            let (count, port) = role.split_once(' ').unwrap();
            call(count.parse().unwrap(), port.parse().unwrap()).await;
        }
    }
}

/// Runs the test again in a role, with as many files as it may have; what it says.
fn role(test: &str, role: &str) -> (Child, BufReader<ChildStdout>) {
    let mut child = Command::new("sh");
    child.args(["-c", r#"ulimit -n "$(ulimit -H -n)" && exec "$0" --exact "$1" --nocapture --include-ignored"#]);
    let mut child = child.arg(std::env::current_exe().unwrap()).arg(test).env(ROLE, role).stdout(Stdio::piped()).spawn().unwrap();
    let said = BufReader::new(child.stdout.take().unwrap());
    (child, said)
}

/// Takes every connection, reads what comes and never answers. Ends with its parent, or by being killed.
async fn serve() {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(16_384).unwrap();
    println!("\nport {}", listener.local_addr().unwrap().port());
    let end = tokio::time::sleep(Duration::from_secs(120));
    let accept = async {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    };
    tokio::select! {
        () = accept => {}
        () = end => {}
    }
}

async fn call(connections: usize, port: u16) {
    let (egress, url) = (egress(), format!("http://127.0.0.1:{port}/hook"));
    let limit = TIMEOUT * u32::try_from(connections.div_ceil(1000)).unwrap();
    let before = resident();
    let start = Instant::now();
    let calls = (0..connections).map(|_| egress.attempt(request(&url), limit));
    let most = Arc::new(AtomicUsize::new(0));
    let sampled = Arc::clone(&most);
    let sampler = tokio::spawn(async move {
        loop {
            sampled.fetch_max(resident(), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    });
    let replies = join_all(calls).await;
    // Each from its own start: to start them all takes a while.
    let (all, took) = (start.elapsed(), replies.iter().map(|reply| reply.took).max().unwrap());
    sampler.abort();
    let held = most.load(Ordering::SeqCst).saturating_sub(before);
    let timeouts = replies.iter().filter(|reply| reply.outcome == Outcome::Failed(Failure::Timeout)).count();
    println!(
        "{connections} connections: {timeouts} timeouts, the longest after {took:?}, all after {all:?} (limit {limit:?}), {} KiB more at most",
        held >> 10
    );
    assert_eq!(timeouts, connections, "{:?}", replies.iter().find(|reply| reply.outcome != Outcome::Failed(Failure::Timeout)));
    assert!(took < limit + GRACE, "{took:?}");
    assert!(held < BASE + connections * EACH, "{held} bytes");
}
