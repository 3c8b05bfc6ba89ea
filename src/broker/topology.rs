//! Placeholder until the real one is merged.
use crate::config::Config;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable};
use lapin::{Connection, ExchangeKind};
use std::time::Duration;

pub struct Topology(Config);

#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct TopologyError(String);

impl From<lapin::Error> for TopologyError {
    fn from(e: lapin::Error) -> Self {
        Self(e.to_string())
    }
}

impl Topology {
    pub fn new(config: &Config) -> Self {
        Self(config.clone())
    }
    pub async fn declare(&self, connection: &Connection, _limit: Duration) -> Result<usize, TopologyError> {
        let ch = connection.create_channel().await?;
        let names = &self.0.broker.names;
        let durable = ExchangeDeclareOptions { durable: true, ..Default::default() };
        let mut alt = FieldTable::default();
        alt.insert("alternate-exchange".into(), AMQPValue::LongString(names.unroutable.clone().into()));
        ch.exchange_declare(names.unroutable.as_str().into(), ExchangeKind::Fanout, durable, FieldTable::default()).await?;
        ch.exchange_declare(names.route.as_str().into(), ExchangeKind::Direct, durable, alt).await?;
        ch.exchange_declare(names.publish.as_str().into(), ExchangeKind::Direct, durable, FieldTable::default()).await?;
        let mut n = 3;
        let text = |s: &str| AMQPValue::LongString(s.to_owned().into());
        let mut queues = vec![];
        for q in [&names.dead, &names.rejected, &names.unroutable] {
            queues.push((q.clone(), vec![("x-delivery-limit", AMQPValue::LongInt(1_000_000))]));
        }
        for s in &self.0.sources {
            ch.exchange_declare(s.exchange.as_str().into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
            for q in [s.queue.clone(), s.due_queue()] {
                queues.push((
                    q,
                    vec![
                        ("x-delivery-limit", AMQPValue::LongInt(100)),
                        ("x-dead-letter-exchange", text(&names.route)),
                        ("x-dead-letter-routing-key", text(&names.rejected)),
                        ("x-dead-letter-strategy", text("at-least-once")),
                        ("x-overflow", text("reject-publish")),
                    ],
                ));
            }
        }
        for (q, args) in queues {
            let mut t = FieldTable::default();
            t.insert("x-queue-type".into(), text("quorum"));
            for (k, v) in args {
                t.insert(k.into(), v);
            }
            ch.queue_declare(q.as_str().into(), QueueDeclareOptions { durable: true, ..Default::default() }, t).await?;
            for x in [&names.route, &names.publish] {
                ch.queue_bind(q.as_str().into(), x.as_str().into(), q.as_str().into(), QueueBindOptions::default(), FieldTable::default())
                    .await?;
            }
            n += 1;
        }
        for s in &self.0.sources {
            ch.queue_bind(
                s.queue.as_str().into(),
                s.exchange.as_str().into(),
                s.binding.as_str().into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await?;
        }
        Ok(n)
    }
    pub async fn check(&self, _connection: &Connection, _limit: Duration) -> Result<usize, TopologyError> {
        Ok(0)
    }
}
