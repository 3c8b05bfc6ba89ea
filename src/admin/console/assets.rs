//! What pages are made of beside their text. Each has its version in its name or a hash in its link, so that browsers may keep it.

use std::sync::LazyLock;

use axum::extract::Path;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use sha2::{Digest as _, Sha256};

/// A file, its type and its text.
type Asset = (&'static str, &'static str, &'static str);

const SCRIPT: &str = "text/javascript; charset=utf-8";
const STYLE: &str = "text/css; charset=utf-8";

/// `htmx` (0BSD) and `uPlot` (MIT) as their authors publish them, with their licences beside them in the source.
const ASSETS: [Asset; 6] = [
    ("console.css", STYLE, include_str!("assets/console.css")),
    ("console.js", SCRIPT, include_str!("assets/console.js")),
    ("htmx-2.0.11.min.js", SCRIPT, include_str!("assets/htmx-2.0.11.min.js")),
    ("uPlot-1.6.32.iife.min.js", SCRIPT, include_str!("assets/uPlot-1.6.32.iife.min.js")),
    ("uPlot-1.6.32.min.css", STYLE, include_str!("assets/uPlot-1.6.32.min.css")),
    ("icon.svg", "image/svg+xml", include_str!("assets/icon.svg")),
];

/// Changes with any of them.
static VERSION: LazyLock<String> = LazyLock::new(|| {
    let hash = ASSETS.iter().fold(Sha256::new(), |hash, (.., text)| hash.chain_update(text)).finalize();
    hash.iter().take(8).map(|byte| format!("{byte:02x}")).collect()
});

/// The path of a file, without the prefix of the console.
pub(super) fn path(name: &str) -> String {
    format!("/assets/{}/{name}", *VERSION)
}

/// Answers with a file.
pub(super) async fn asset(Path((_, name)): Path<(String, String)>) -> Response {
    match ASSETS.iter().find(|(known, ..)| *known == name) {
        Some((_, kind, text)) => {
            ([(header::CONTENT_TYPE, *kind), (header::CACHE_CONTROL, "public, max-age=31536000, immutable")], *text).into_response()
        }
        None => StatusCode::NOT_FOUND.into_response(),
    }
}
