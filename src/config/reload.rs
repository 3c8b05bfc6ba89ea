//! A new `integrators.toml` comes into force while the worker runs; a bad one never does.
//!
//! The file is asked for its metadata every second: that also sees the symbolic links that a mounted ConfigMap swaps, and
//! works on every file system. A change is loaded when it has stood still for a second, so that a file half written
//! is not taken for a whole one.

use std::fs::Metadata;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use super::{Config, Egress, Environment, Problems, load_directory};
use crate::domain::integrator::Directory;
use crate::domain::policy::DeliveryPolicy;
use crate::telemetry::{Fact, Telemetry};

/// How often the file is looked at.
const INTERVAL: Duration = Duration::from_secs(1);

/// After so many looks at a refused file it is tried again, because a secret's file that it names may be there by then.
const LOOKS_BEFORE_RETRY: u32 = 30;

/// Asks for a reload at once: what SIGHUP does. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct ReloadTrigger(Arc<Reloads>);

#[derive(Debug, Default)]
struct Reloads {
    asked: Notify,
    done: Notify,
}

impl ReloadTrigger {
    /// Loads the integrators again, changed or not. Several calls before it happens are one.
    pub fn reload(&self) {
        self.0.asked.notify_one();
    }

    /// Returns when a reload that was asked for is over, whatever came of it; at once where one was since the last time.
    pub async fn done(&self) {
        self.0.done.notified().await;
    }

    /// Returns when a reload has been asked for since the last time.
    pub(crate) async fn asked(&self) {
        self.0.asked.notified().await;
    }
}

/// Watches the integrators' file until `stop`. The receiver holds the directory that is in force: `first`, then every valid
/// version. One that is not valid leaves the old one in force and is told once. Must be called within a runtime.
#[must_use]
pub fn watch_directory(
    config: &Config,
    first: Directory,
    telemetry: Telemetry,
    stop: CancellationToken,
) -> (watch::Receiver<Arc<Directory>>, ReloadTrigger) {
    let (in_force, receiver) = watch::channel(Arc::new(first));
    let trigger = ReloadTrigger::default();
    let origin = Origin {
        file: config.integrators_file.clone(),
        secrets_dir: config.secrets_dir.clone(),
        delivery: config.delivery,
        egress: config.egress.clone(),
        environment: Environment::of_process(),
    };
    let watcher = Watcher { origin: Arc::new(origin), in_force, telemetry, trigger: trigger.clone(), interval: INTERVAL };
    tokio::spawn(async move { stop.run_until_cancelled(watcher.run()).await });
    (receiver, trigger)
}

/// What a directory is made from.
#[derive(Debug)]
struct Origin {
    file: PathBuf,
    secrets_dir: Option<PathBuf>,
    delivery: DeliveryPolicy,
    egress: Egress,
    environment: Environment,
}

impl Origin {
    fn load(&self) -> Result<Directory, Problems> {
        load_directory(&self.file, self.secrets_dir.as_deref(), &self.delivery, &self.egress, &self.environment)
    }
}

/// What is seen of a file without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Look {
    /// It is there. Device and inode are those that symbolic links lead to; the time of change is not set back by tools
    /// that keep the time of modification.
    File { place: (u64, u64), length: u64, modified: (i64, i64), changed: (i64, i64) },
    /// It cannot be looked at.
    Nothing(io::ErrorKind),
}

impl From<io::Result<Metadata>> for Look {
    fn from(metadata: io::Result<Metadata>) -> Self {
        match metadata {
            Ok(found) => Self::File {
                place: (found.dev(), found.ino()),
                length: found.len(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            },
            Err(error) => Self::Nothing(error.kind()),
        }
    }
}

/// When to load: pure, so that a test can show it every look it likes.
#[derive(Debug, Default)]
struct Patience {
    last: Option<Look>,
    loaded: Option<Look>,
    refused: Option<Problems>,
    looks_since: u32,
}

impl Patience {
    /// Whether the file is to be loaded after this look: it stands still, and is not the version that was loaded before or
    /// has been refused for a while.
    fn is_time(&mut self, look: &Look) -> bool {
        let still = self.last.as_ref() == Some(look);
        self.last = Some(look.clone());
        self.looks_since = self.looks_since.saturating_add(1);
        let again = self.refused.is_some() && self.looks_since >= LOOKS_BEFORE_RETRY;
        still && (self.loaded.as_ref() != Some(look) || again)
    }

    /// Notes what came of loading, and says whether there is something to tell of it.
    fn note(&mut self, look: Look, result: Result<(), &Problems>) -> bool {
        let new_version = self.loaded.as_ref() != Some(&look);
        let new_problems = result.is_err() && self.refused.as_ref() != result.err();
        self.loaded = Some(look);
        self.looks_since = 0;
        self.refused = result.err().cloned();
        result.is_ok() || new_version || new_problems
    }
}

#[derive(Debug)]
struct Watcher {
    origin: Arc<Origin>,
    in_force: watch::Sender<Arc<Directory>>,
    telemetry: Telemetry,
    trigger: ReloadTrigger,
    interval: Duration,
}

impl Watcher {
    async fn run(self) {
        let mut patience = Patience::default();
        // The file may have changed between the first directory and this moment, so what is in force is loaded again.
        // Nothing is told of it unless it is refused.
        self.load(&mut patience, Telling::Refusal).await;
        loop {
            let asked = tokio::select! {
                () = self.trigger.asked() => true,
                () = tokio::time::sleep(self.interval) => false,
            };
            if asked {
                self.load(&mut patience, Telling::Everything).await;
                self.trigger.0.done.notify_one();
            } else if patience.is_time(&self.look().await) {
                self.load(&mut patience, Telling::News).await;
            }
        }
    }

    async fn look(&self) -> Look {
        tokio::fs::metadata(&self.origin.file).await.into()
    }

    async fn load(&self, patience: &mut Patience, telling: Telling) {
        let look = self.look().await;
        let origin = Arc::clone(&self.origin);
        // Only a panic or the end of the runtime can keep the result back; the next look tries again.
        let Ok(result) = tokio::task::spawn_blocking(move || origin.load()).await else { return };
        let news = patience.note(look, result.as_ref().map(|_| ()));
        match result {
            Ok(directory) => {
                let (integrators, endpoints) = (directory.len(), directory.all().count());
                self.telemetry.configured(&directory);
                self.in_force.send_replace(Arc::new(directory));
                if telling != Telling::Refusal {
                    self.telemetry.record(&Fact::Reloaded { integrators, endpoints });
                }
            }
            Err(problems) if news || telling == Telling::Everything => {
                self.telemetry.record(&Fact::ReloadRefused { problems: problems.lines() });
            }
            Err(_) => {}
        }
    }
}

/// What is told of loading.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Telling {
    /// That the file was refused.
    Refusal,
    /// Whatever has not been told before.
    News,
    /// The result, whatever it is: somebody asked for it.
    Everything,
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn file(length: u64) -> Look {
        Look::File { place: (1, 1), length, modified: (0, 0), changed: (0, 0) }
    }

    fn problems(line: &str) -> Problems {
        Problems::one(line.to_owned())
    }

    #[test]
    fn a_change_is_loaded_once_when_it_stands_still() {
        let mut patience = Patience::default();
        patience.note(file(1), Ok(()));
        assert!((0..100).all(|_| !patience.is_time(&file(1))));
        assert!(!patience.is_time(&file(2)));
        assert!(!patience.is_time(&file(3)));
        assert!(patience.is_time(&file(3)));
        assert!(patience.note(file(3), Ok(())));
        assert!((0..100).all(|_| !patience.is_time(&file(3))));
    }

    #[test]
    fn a_refused_version_is_told_once_and_tried_again_later() {
        let mut patience = Patience::default();
        assert!(patience.note(file(1), Err(&problems("a"))));
        let waited = (0..1000).take_while(|_| !patience.is_time(&file(1))).count();
        assert_eq!(waited, 29);
        assert!(!patience.note(file(1), Err(&problems("a"))));
        assert!(patience.note(file(1), Err(&problems("b"))));
        assert!(patience.note(file(2), Err(&problems("b"))));
        assert!(patience.note(file(2), Ok(())));
    }

    #[test]
    fn a_file_that_vanishes_is_a_change_and_so_is_one_that_comes_back() {
        let gone = Look::Nothing(io::ErrorKind::NotFound);
        let mut patience = Patience::default();
        patience.note(file(1), Ok(()));
        assert!(!patience.is_time(&gone));
        assert!(patience.is_time(&gone));
        assert!(patience.note(gone.clone(), Err(&problems("gone"))));
        assert!(!patience.is_time(&file(1)));
        assert!(patience.is_time(&file(1)));
    }

    #[tokio::test]
    async fn a_bad_version_leaves_the_old_one_in_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("integrators.toml");
        let egress = Egress::default();
        let environment = Environment::default();
        let origin = Origin { file: path.clone(), secrets_dir: None, delivery: DeliveryPolicy::default(), egress, environment };
        let (in_force, receiver) = watch::channel(Arc::new(Directory::new()));
        let (telemetry, trigger) = (Telemetry::default(), ReloadTrigger::default());
        let watcher = Watcher { origin: Arc::new(origin), in_force, telemetry, trigger, interval: INTERVAL };
        let mut patience = Patience::default();

        std::fs::write(&path, "[[integrator]]\nkey = 'acme'\nendpoint = [{ id = 'main', url = 'https://acme.example/' }]").unwrap();
        watcher.load(&mut patience, Telling::News).await;
        let first = Arc::clone(&receiver.borrow());
        assert_eq!((first.len(), patience.refused.is_some()), (1, false));

        for bad in ["[[integrator]]\nkey = 'globex'", "[[integrator", "\u{0}"] {
            std::fs::write(&path, bad).unwrap();
            watcher.load(&mut patience, Telling::News).await;
            assert!(Arc::ptr_eq(&first, &receiver.borrow()) && patience.refused.is_some(), "{bad}");
        }
        std::fs::remove_file(&path).unwrap();
        watcher.load(&mut patience, Telling::News).await;
        assert!(Arc::ptr_eq(&first, &receiver.borrow()));

        std::fs::write(&path, "").unwrap();
        watcher.load(&mut patience, Telling::News).await;
        assert!(receiver.borrow().is_empty() && patience.refused.is_none());
    }
}
