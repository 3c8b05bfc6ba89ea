//! A request as it goes over the wire, for people to look at.

use crate::domain::request::CallbackRequest;

/// The bytes that [`super::Egress::attempt`] sends: the same lines, though the order of headers may differ. Values that
/// are marked sensitive read `(hidden)` unless `show_secrets`; the URL's path and query are always there.
#[must_use]
pub fn as_sent(request: &CallbackRequest, show_secrets: bool) -> Vec<u8> {
    let url = &request.url;
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    let port = url.port().map(|port| format!(":{port}")).unwrap_or_default();
    let mut text = format!("POST {}{query} HTTP/1.1\r\n", url.path()).into_bytes();
    text.extend_from_slice(format!("host: {}{port}\r\n", url.host_str().unwrap_or_default()).as_bytes());
    for (name, value) in &request.headers {
        let hidden = value.is_sensitive() && !show_secrets;
        text.extend_from_slice(name.as_str().as_bytes());
        text.extend_from_slice(b": ");
        text.extend_from_slice(if hidden { b"(hidden)" } else { value.as_bytes() });
        text.extend_from_slice(b"\r\n");
    }
    text.extend_from_slice(format!("content-length: {}\r\n\r\n", request.body.len()).as_bytes());
    text.extend_from_slice(&request.body);
    text
}
