//! The events: what each number stands for, what is published and what has to arrive. Known from the number alone, so that
//! the judge needs nobody's word for it.

use sha2::{Digest as _, Sha256};

/// How an endpoint answers. Each character is one integrator with one endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Character {
    /// 200 at once.
    Prompt,
    /// 200 after a few milliseconds.
    Steady,
    /// Every third event gets 500 first and then 200.
    SecondTry,
    /// 200 for three seconds, 503 for one.
    Flapping,
    /// 200 after a tenth of a second.
    Slow,
    /// Every tenth event hangs at first.
    Hanging,
    /// 422, always.
    Refusing,
}

impl Character {
    /// All of them.
    pub const ALL: [Self; 7] = [Self::Prompt, Self::Steady, Self::SecondTry, Self::Flapping, Self::Slow, Self::Hanging, Self::Refusing];

    /// The integrator's key, also the first part of its endpoint's path.
    #[must_use]
    pub const fn key(self) -> &'static str {
        match self {
            Self::Prompt => "prompt",
            Self::Steady => "steady",
            Self::SecondTry => "second-try",
            Self::Flapping => "flapping",
            Self::Slow => "slow",
            Self::Hanging => "hanging",
            Self::Refusing => "refusing",
        }
    }

    /// Whose path that is.
    #[must_use]
    pub fn of_path(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|character| path == character.path())
    }

    /// The path of its endpoint.
    #[must_use]
    pub fn path(self) -> String {
        format!("/{}/hook", self.key())
    }

    /// A signing key of this integrator. They rotate: each reload brings the next generation.
    #[must_use]
    pub fn secret(self, generation: u32) -> [u8; 32] {
        Sha256::digest(format!("{} {generation}", self.key())).into()
    }
}

/// What is right for an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Destiny {
    /// It reaches its endpoint.
    Delivered(Character),
    /// Its endpoint refuses it until it is a dead letter.
    Dead(Character),
    /// Nobody can be told: it is among the rejected.
    Rejected,
}

/// One event.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Event(pub u64);

/// Of 50 events in a row.
const TURNS: u64 = 50;

impl Event {
    /// What is right for it.
    #[must_use]
    pub const fn destiny(self) -> Destiny {
        match self.0 % TURNS {
            0..14 => Destiny::Delivered(Character::Prompt),
            14..28 => Destiny::Delivered(Character::Steady),
            28..36 => Destiny::Delivered(Character::SecondTry),
            36..42 => Destiny::Delivered(Character::Flapping),
            42..44 => Destiny::Delivered(Character::Slow),
            44..46 => Destiny::Delivered(Character::Hanging),
            46..48 => Destiny::Dead(Character::Refusing),
            _ => Destiny::Rejected,
        }
    }

    /// Whom it is for.
    #[must_use]
    pub const fn character(self) -> Option<Character> {
        match self.destiny() {
            Destiny::Delivered(character) | Destiny::Dead(character) => Some(character),
            Destiny::Rejected => None,
        }
    }

    /// Its id.
    #[must_use]
    pub fn id(self) -> String {
        format!("chaos-{:08}", self.0)
    }

    /// The event with that id; nothing where it is none of ours.
    #[must_use]
    pub fn parse(id: &str) -> Option<Self> {
        let number = id.strip_prefix("chaos-")?;
        let event = Self(number.parse().ok()?);
        (event.id() == id).then_some(event)
    }

    /// The message as it is published: an envelope, or no JSON at all.
    #[must_use]
    pub fn message(self) -> String {
        let (id, filler) = (self.id(), self.filler());
        match self.character() {
            Some(character) => self.envelope(&id, character.key(), &filler),
            None if self.0.is_multiple_of(2) => self.envelope(&id, "nobody", &filler),
            None => format!("event {id} is no JSON {filler}"),
        }
    }

    fn envelope(self, id: &str, integrator: &str, filler: &str) -> String {
        let (topic, number) = (self.topic(), self.0);
        let data = if self.has_records() {
            format!(r#"[{{"status": 100, "key": "{filler}", "number": {number}}}]"#)
        } else {
            format!(r#"{{"identId": "{filler}", "number": {number}}}"#)
        };
        format!(r#"{{"id":"{id}","integrator":"{integrator}","topic":"{topic}","occurredAt":"2025-09-03T06:38:08Z","data":{data}}}"#)
    }

    /// The body that has to arrive, byte for byte.
    #[must_use]
    pub fn golden(self) -> String {
        let (filler, number) = (self.filler(), self.0);
        if self.has_records() {
            format!(r#"[{{"topic":"complianceRecord","complianceRecord":[{{"status":100,"key":"{filler}","number":{number}}}]}}]"#)
        } else {
            format!(r#"[{{"topic":"identResult","identId":"{filler}","number":{number}}}]"#)
        }
    }

    const fn has_records(self) -> bool {
        !self.0.is_multiple_of(3)
    }

    const fn topic(self) -> &'static str {
        if self.has_records() { "complianceRecord" } else { "identResult" }
    }

    /// 32 to 160 bytes that no other event has.
    fn filler(self) -> String {
        let digest = Sha256::digest(self.0.to_be_bytes());
        let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
        hex.repeat(1 + usize::from(digest[16] % 5))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_destiny_and_every_character_comes_up() {
        let destinies: Vec<Destiny> = (0..TURNS).map(|number| Event(number).destiny()).collect();
        for character in Character::ALL {
            assert!(destinies.iter().any(|destiny| matches!(destiny, Destiny::Delivered(c) | Destiny::Dead(c) if *c == character)));
        }
        assert!(destinies.contains(&Destiny::Rejected));
    }

    #[test]
    fn an_id_leads_back_to_its_event_and_nothing_else_does() {
        assert_eq!(Event::parse(&Event(7).id()), Some(Event(7)));
        assert_eq!(Event::parse("chaos-7"), None);
        assert_eq!(Event::parse("other"), None);
    }

    #[test]
    fn the_golden_body_is_what_the_message_says() {
        for number in 0..TURNS {
            let event = Event(number);
            let golden: serde_json::Value = serde_json::from_str::<serde_json::Value>(&event.golden()).unwrap()[0].take();
            let Ok(message) = serde_json::from_str::<serde_json::Value>(&event.message()) else { continue };
            let told = if golden["topic"] == "identResult" { &golden } else { &golden["complianceRecord"][0] };
            let data = if golden["topic"] == "identResult" { &message["data"] } else { &message["data"][0] };
            assert_eq!((&told["number"], &message["topic"]), (&data["number"], &golden["topic"]));
        }
    }
}
