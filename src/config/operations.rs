//! Sections `[admin]` and `[log]`: what operators see.

use std::net::{Ipv4Addr, SocketAddr};

use toml::Value;
use tracing_subscriber::EnvFilter;

use super::kinds::{Fault, any_text, choice, text};
use super::problems::quoted;
use super::section::Section;

/// The side for operators and probes.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    /// Where to listen.
    pub listen: SocketAddr,
}

/// What the log looks like.
#[derive(Debug, Clone)]
pub struct Log {
    /// Its shape.
    pub format: LogFormat,
    /// A directive of `tracing_subscriber::EnvFilter`.
    pub level: String,
}

/// The shape of log lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For eyes.
    Human,
    /// For machines, one object a line.
    Json,
}

pub(super) fn read_admin(section: &mut Section<'_>) -> Admin {
    Admin { listen: section.or("listen", (Ipv4Addr::LOCALHOST, 9464).into(), address) }
}

pub(super) fn read_log(section: &mut Section<'_>) -> Log {
    let formats = &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)];
    Log { format: section.or("format", LogFormat::default(), choice(formats)), level: section.or("level", "info".to_owned(), level) }
}

fn address(value: &Value) -> Result<SocketAddr, Fault> {
    let text = any_text(value)?;
    let fault = || Fault::content(format!(r#"{} is no address with a port; write for example "127.0.0.1:9464""#, quoted(text)));
    text.parse().map_err(|_| fault())
}

fn level(value: &Value) -> Result<String, Fault> {
    let level = text(1024)(value)?;
    // The strict way to read it: the other one drops what it does not understand.
    match EnvFilter::builder().parse(&level) {
        Ok(_) => Ok(level),
        Err(_) => Err(Fault::content(format!(r#"{} is no filter; write for example "info" or "info,lapin=warn""#, quoted(&level)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_and_a_level_is_a_filter() {
        assert_eq!(address(&Value::from("[::]:0")), Ok("[::]:0".parse().unwrap()));
        assert!(address(&Value::from("localhost:9464")).unwrap_err().into_text().starts_with("\"localhost:9464\" is no address"));
        assert_eq!(level(&Value::from("info,lapin=warn")), Ok("info,lapin=warn".to_owned()));
        assert!(level(&Value::from("info,lapin=loud")).unwrap_err().into_text().starts_with("\"info,lapin=loud\" is no filter"));
    }
}
