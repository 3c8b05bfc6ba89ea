//! `callbackd dead show`: one message with all its headers.

use lapin::message::Delivery;
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::filter::Selection;
use crate::cli::CliError;
use crate::cli::terminal::{Out, bytes, line, plain};
use crate::clock;
use crate::config::Config;
use crate::domain::time::Timestamp;
use crate::letters::{Letter, look};

/// One message, the first that fits: what became of it, and then all its headers.
#[derive(Debug, clap::Args)]
pub(super) struct Show {
    #[command(flatten)]
    selection: Selection,
    /// The body too, as it is: it may hold personal data.
    #[arg(long)]
    body: bool,
}

impl Show {
    pub(super) async fn run(self, config: &Config, out: Out<'_>) -> Result<(), CliError> {
        let filter = self.selection.filter(clock::now())?;
        let queue = self.selection.queue(config);
        let (mut found, mut fitting) = (None, 0_usize);
        let is_kept = |letter: &Letter| {
            let fits = filter.fits(letter);
            fitting += usize::from(fits);
            fits && fitting == 1
        };
        let window = |mut kept: Vec<(Letter, Delivery)>| {
            found = found.take().or_else(|| kept.pop());
            Ok::<(), CliError>(())
        };
        let unreadable = look(config, queue, is_kept, window).await?;
        let Some((letter, delivery)) = found else {
            let hidden = unreadable.map(|unreadable| format!("; {unreadable}")).unwrap_or_default();
            return Err(CliError::Failed(format!("no message of {queue} fits{hidden}")));
        };
        if let Some(unreadable) = unreadable {
            eprintln!("{unreadable}");
        }
        if fitting > 1 {
            eprintln!("{fitting} messages fit; this is the first");
        }
        summary(out, &letter)?;
        print(out, &delivery)?;
        if self.body {
            bytes(out, &[b"\n", &delivery.data, b"\n"])?;
        }
        Ok(())
    }
}

/// What a support engineer asks first.
fn summary(out: Out<'_>, letter: &Letter) -> Result<(), CliError> {
    let text = |text: &Option<String>| text.as_deref().map_or_else(|| "-".to_owned(), plain);
    let time = |at: Option<Timestamp>| at.map_or_else(|| "-".to_owned(), |at| at.to_string());
    let why = match (&letter.reason, &letter.detail) {
        (Some(reason), Some(detail)) => format!("{}: {}", plain(reason), plain(detail)),
        (reason, _) => text(reason),
    };
    // The error's text repeats a status.
    let answer = letter.last_error.as_deref().map(plain).or_else(|| letter.last_status.map(|status| format!("answered {status}")));
    for (name, value) in [
        ("event", text(&letter.event)),
        ("integrator", text(&letter.integrator)),
        ("endpoint", text(&letter.endpoint)),
        ("topic", text(&letter.topic)),
        ("why", why),
        ("here since", time(letter.dead_at)),
        ("attempts", letter.attempts.to_string()),
        ("first attempt", time(letter.first_attempt_at)),
        ("last attempt", time(letter.last_attempt_at)),
        ("last answer", answer.unwrap_or_else(|| "-".to_owned())),
        ("replayed at", time(letter.replayed_at)),
        ("source", text(&letter.source)),
        ("position", letter.position.to_string()),
        ("body", format!("{} bytes", letter.size)),
    ] {
        line(out, &format!("{name:<16} {value}"))?;
    }
    line(out, "")
}

fn print(out: Out<'_>, delivery: &Delivery) -> Result<(), CliError> {
    line(out, &format!("exchange         {}", plain(delivery.exchange.as_str())))?;
    line(out, &format!("routing key      {}", plain(delivery.routing_key.as_str())))?;
    let properties = &delivery.properties;
    let texts: [(&str, &Option<ShortString>); 10] = [
        ("content type", properties.content_type()),
        ("content encoding", properties.content_encoding()),
        ("correlation id", properties.correlation_id()),
        ("reply to", properties.reply_to()),
        ("expiration", properties.expiration()),
        ("message id", properties.message_id()),
        ("type", properties.kind()),
        ("user id", properties.user_id()),
        ("app id", properties.app_id()),
        ("cluster id", properties.cluster_id()),
    ];
    for (name, text) in texts {
        if let Some(text) = text {
            line(out, &format!("{name:<16} {}", plain(text.as_str())))?;
        }
    }
    let numbers = [
        ("delivery mode", properties.delivery_mode().map(u64::from)),
        ("priority", properties.priority().map(u64::from)),
        ("timestamp", *properties.timestamp()),
    ];
    for (name, number) in numbers {
        if let Some(number) = number {
            line(out, &format!("{name:<16} {number}"))?;
        }
    }
    for (name, value) in properties.headers().iter().flatten() {
        line(out, &format!("header           {}: {}", plain(name.as_str()), shown(value)))?;
    }
    Ok(())
}

fn shown(value: &AMQPValue) -> String {
    match value {
        AMQPValue::LongString(text) => plain(&text.to_string()),
        AMQPValue::ShortString(text) => plain(text.as_str()),
        AMQPValue::ByteArray(bytes) => format!("{} bytes", bytes.len()),
        AMQPValue::FieldArray(values) => format!("[{}]", values.as_slice().iter().map(shown).collect::<Vec<_>>().join(", ")),
        AMQPValue::FieldTable(fields) => table(fields),
        AMQPValue::Boolean(value) => value.to_string(),
        AMQPValue::ShortShortInt(number) => number.to_string(),
        AMQPValue::ShortShortUInt(number) => number.to_string(),
        AMQPValue::ShortInt(number) => number.to_string(),
        AMQPValue::ShortUInt(number) => number.to_string(),
        AMQPValue::LongInt(number) => number.to_string(),
        AMQPValue::LongUInt(number) => number.to_string(),
        AMQPValue::LongLongInt(number) => number.to_string(),
        AMQPValue::Timestamp(seconds) => seconds.to_string(),
        AMQPValue::Float(number) => number.to_string(),
        AMQPValue::Double(number) => number.to_string(),
        AMQPValue::DecimalValue(decimal) => format!("{}e-{}", decimal.value, decimal.scale),
        AMQPValue::Void => "-".to_owned(),
    }
}

fn table(fields: &FieldTable) -> String {
    let fields: Vec<String> = fields.into_iter().map(|(name, value)| format!("{}: {}", plain(name.as_str()), shown(value))).collect();
    format!("{{{}}}", fields.join(", "))
}
