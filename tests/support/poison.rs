//! Messages that are legal AMQP and that lapin cannot write: an id that is no UTF-8, headers nested without end.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

/// What no UTF-8 text holds.
const NO_UTF8: &[u8] = &[0xff, 0xfe, 0x80];
const METHOD: u8 = 1;
const HEADER: u8 = 2;
const BODY: u8 = 3;
const FRAME_END: u8 = 0xce;

/// Publishes such a message to a queue, through the default exchange, and returns when the broker has confirmed it.
///
/// # Panics
/// When the broker does not play along.
pub async fn publish_poison(url: &str, queue: &str) {
    let (url, queue) = (url::Url::parse(url).expect("an AMQP URL"), queue.to_owned());
    // Of the properties, the delivery mode (bit 12) and the message id (bit 7).
    let properties = [&(1_u16 << 12 | 1 << 7).to_be_bytes()[..], &[2], &short(NO_UTF8)].concat();
    tokio::task::spawn_blocking(move || Wire::open(&url).publish(&queue, &properties)).await.expect("the poison is published");
}

/// Publishes a message whose one header is an array in an array, `depth` levels in all, and returns when the broker has
/// confirmed it.
///
/// # Panics
/// When the broker does not play along.
pub async fn publish_nested(url: &str, queue: &str, depth: usize) {
    let (url, queue) = (url::Url::parse(url).expect("an AMQP URL"), queue.to_owned());
    let mut value = Vec::new();
    for level in 0..depth {
        // From the inside out, in the order of the wire: the type `A` and the length of what is inside.
        value.extend(u32::try_from(level * 5).expect("small").to_be_bytes().iter().rev().chain(b"A"));
    }
    value.reverse();
    let table = [short(b"x"), value].concat();
    let headers = [&u32::try_from(table.len()).expect("small").to_be_bytes()[..], &table].concat();
    // Of the properties, the headers (bit 13) and the delivery mode (bit 12).
    let properties = [&(1_u16 << 13 | 1 << 12).to_be_bytes()[..], &headers, &[2]].concat();
    tokio::task::spawn_blocking(move || Wire::open(&url).publish(&queue, &properties)).await.expect("the message is published");
}

/// A connection that speaks just enough AMQP 0-9-1, frame by frame.
struct Wire(TcpStream);

impl Wire {
    fn open(url: &url::Url) -> Self {
        let address = (url.host_str().expect("a host"), url.port().unwrap_or(5672));
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a limit");
        let mut wire = Self(stream);
        wire.0.write_all(b"AMQP\x00\x00\x09\x01").expect("written");
        wire.expect((10, 10));
        let credentials = format!("\0{}\0{}", url.username(), url.password().unwrap_or_default());
        let credentials_size = u32::try_from(credentials.len()).expect("short").to_be_bytes();
        wire.method(0, (10, 11), &[&[0; 4], &short(b"PLAIN"), &credentials_size, credentials.as_bytes(), &short(b"en_US")]);
        wire.expect((10, 30));
        wire.method(0, (10, 31), &[&1_u16.to_be_bytes(), &131_072_u32.to_be_bytes(), &0_u16.to_be_bytes()]);
        let vhost = percent_encoding::percent_decode_str(url.path().trim_start_matches('/')).collect::<Vec<u8>>();
        wire.method(0, (10, 40), &[&short(&vhost), &[0, 0]]);
        wire.expect((10, 41));
        wire.method(1, (20, 10), &[&[0]]);
        wire.expect((20, 11));
        wire.method(1, (85, 10), &[&[0]]);
        wire.expect((85, 11));
        wire
    }

    fn publish(mut self, queue: &str, properties: &[u8]) {
        let body = b"{}";
        self.method(1, (60, 40), &[&[0, 0], &short(b""), &short(queue.as_bytes()), &[1]]);
        let size = (body.len() as u64).to_be_bytes();
        self.frame(HEADER, 1, &[&60_u16.to_be_bytes()[..], &[0, 0], &size, properties].concat());
        self.frame(BODY, 1, body);
        self.expect((60, 80));
        self.method(0, (10, 50), &[&200_u16.to_be_bytes(), &short(b""), &[0; 4]]);
        self.expect((10, 51));
    }

    fn method(&mut self, channel: u16, (class, method): (u16, u16), arguments: &[&[u8]]) {
        let name = [class.to_be_bytes(), method.to_be_bytes()].concat();
        self.frame(METHOD, channel, &[name, arguments.concat()].concat());
    }

    fn frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = u32::try_from(payload.len()).expect("a small frame");
        let frame = [&[kind][..], &channel.to_be_bytes(), &size.to_be_bytes(), payload, &[FRAME_END]].concat();
        self.0.write_all(&frame).expect("written");
    }

    fn expect(&mut self, wanted: (u16, u16)) {
        let mut head = [0; 7];
        self.0.read_exact(&mut head).expect("a frame");
        let size = u32::from_be_bytes([head[3], head[4], head[5], head[6]]) as usize;
        let mut payload = vec![0; size + 1];
        self.0.read_exact(&mut payload).expect("a whole frame");
        let method = (u16::from_be_bytes([payload[0], payload[1]]), u16::from_be_bytes([payload[2], payload[3]]));
        assert_eq!(method, wanted, "the broker's answer: {}", String::from_utf8_lossy(&payload));
    }
}

fn short(text: &[u8]) -> Vec<u8> {
    [&[u8::try_from(text.len()).expect("a short string")], text].concat()
}
