//! Letters that are looked at, and nothing else.

use lapin::message::Delivery;
use serde::Serialize;
use utoipa::ToSchema;

use super::filter::{Filter, Queue};
use super::letter::Letter;
use super::pass::{Broken, Pass};
use super::unreadable::{Unreadable, put_last};
use crate::config::Config;

/// Most letters of one page.
pub const MOST_LISTED: usize = 1000;

/// Some of the letters of a queue.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = LetterPage)]
pub struct Page {
    /// The letters, in the order of the queue.
    pub letters: Vec<Letter>,
    /// Messages in the queue that could be looked at.
    pub seen: usize,
    /// Those that fit, on this page or not.
    pub fitting: usize,
    /// The position after which the next page begins; none where this is the last. What leaves the queue meanwhile moves the others.
    pub next: Option<u32>,
    /// A message that cannot be read hides others: which, and what to do.
    pub note: Option<String>,
}

/// Shows a queue, a window at a time: what of it is kept, in which order it stands. A message that cannot be read is put last, and what
/// stood behind it is not looked at.
///
/// # Errors
/// Those of `window`, and [`Broken`] when the broker cannot be worked with. Everything is back in the queue.
pub(crate) async fn look<E: From<Broken>>(
    config: &Config,
    queue: &str,
    mut is_kept: impl FnMut(&Letter) -> bool,
    mut window: impl FnMut(Vec<(Letter, Delivery)>) -> Result<(), E>,
) -> Result<Option<Unreadable>, E> {
    let mut pass = Pass::start(&config.broker, queue).await?;
    loop {
        let mut kept = Vec::new();
        let more = pass.window(|position, delivery| {
            let letter = Letter::read(&delivery, position, config);
            if is_kept(&letter) {
                kept.push((letter, delivery));
            }
        });
        let more = more.await;
        window(kept)?;
        match more {
            Ok(true) => {}
            Ok(false) => {
                pass.finish().await?;
                return Ok(None);
            }
            Err(Broken::Unreadable(met)) => {
                drop(pass);
                return Ok(Some(Unreadable { behind: met.behind, ..put_last(&config.broker, &met).await? }));
            }
            Err(broken) => return Err(broken.into()),
        }
    }
}

/// The letters of a queue that fit, at most `limit` (and [`MOST_LISTED`]) of those behind position `after`. The filter's own limit bounds
/// what fits. To be had from [`super::Jobs::letters`] where jobs run.
///
/// # Errors
/// [`Broken`] when the broker cannot be worked with.
pub async fn list(config: &Config, queue: Queue, filter: &Filter, after: u32, limit: usize) -> Result<Page, Broken> {
    let limit = limit.clamp(1, MOST_LISTED);
    let (mut seen, mut fitting, mut kept, mut next, mut letters) = (0, 0, 0, None, Vec::<Letter>::new());
    let mut last = 0;
    let is_kept = |letter: &Letter| {
        seen += 1;
        if !filter.fits(letter) || !filter.admits_another_after(fitting) {
            return false;
        }
        fitting += 1;
        if letter.position <= after {
            return false;
        }
        if kept == limit {
            next.get_or_insert(last);
            return false;
        }
        kept += 1;
        last = letter.position;
        true
    };
    let window = |kept: Vec<(Letter, Delivery)>| {
        letters.extend(kept.into_iter().map(|(letter, _)| letter));
        Ok::<(), Broken>(())
    };
    let unreadable = look(config, queue.name(config), is_kept, window).await?;
    Ok(Page { letters, seen, fitting, next, note: unreadable.map(|unreadable| unreadable.to_string()) })
}
