//! The chat page at `/`: a person's way to the chat channel.
//!
//! ```text
//!   chat.js     the page: elements, socket, clock, storage
//!     ├─▶ client.js   what is known, and what to do next: facts in, actions out
//!     └─▶ words.js    how it is said to people
//! ```
//!
//! It is part of the program and asks nobody but the gateway that served it: no build step, no
//! framework, no other host. The token never gets here. It stands in the address's fragment
//! (`/#token=...`), which browsers keep to themselves, or is typed into the page.

use axum::{
    Router,
    http::{
        HeaderMap, StatusCode,
        header::{
            CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
            REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
        },
    },
    response::{IntoResponse, Response},
    routing::get,
};
use sha2::{Digest, Sha256};

/// `GET` and `HEAD` of the page and all that it is made of. Public: the page holds no secret.
pub fn routes() -> Router {
    ASSETS.iter().fold(Router::new(), |router, asset| {
        let tag = asset.tag();
        router.route(asset.path, get(async move |headers: HeaderMap| asset.answer(&tag, &headers)))
    })
}

/// A file of the page.
struct Asset {
    path: &'static str,
    media_type: &'static str,
    text: &'static str,
}

impl Asset {
    fn answer(&self, tag: &str, request: &HeaderMap) -> Response {
        let headers = [
            (CONTENT_TYPE, self.media_type),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
            // Kept, but asked for again each time: a new gateway never has the page of an old one.
            (CACHE_CONTROL, "no-cache"),
            (ETAG, tag),
        ];
        if is_known(tag, request) {
            (StatusCode::NOT_MODIFIED, headers).into_response()
        } else {
            (headers, self.text).into_response()
        }
    }

    /// Changes with the text, and only with it.
    fn tag(&self) -> String {
        let digest = Sha256::digest(self.text);
        let hex: String = digest[..16].iter().map(|byte| format!("{byte:02x}")).collect();
        format!("\"{hex}\"")
    }
}

/// Whether the browser already has it. A proxy that compresses makes a tag weak: `W/"..."`.
fn is_known(tag: &str, request: &HeaderMap) -> bool {
    request
        .get_all(IF_NONE_MATCH)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .any(|known| known == "*" || known.strip_prefix("W/").unwrap_or(known) == tag)
}

const ASSETS: [Asset; 6] = [
    Asset {
        path: "/",
        media_type: "text/html; charset=utf-8",
        text: include_str!("page/index.html"),
    },
    Asset {
        path: "/style.css",
        media_type: "text/css; charset=utf-8",
        text: include_str!("page/style.css"),
    },
    Asset { path: "/chat.js", media_type: JAVASCRIPT, text: include_str!("page/chat.js") },
    Asset { path: "/client.js", media_type: JAVASCRIPT, text: include_str!("page/client.js") },
    Asset { path: "/words.js", media_type: JAVASCRIPT, text: include_str!("page/words.js") },
    Asset {
        path: "/favicon.svg",
        media_type: "image/svg+xml",
        text: include_str!("page/favicon.svg"),
    },
];

const JAVASCRIPT: &str = "text/javascript; charset=utf-8";

/// `connect-src 'self'` is the gateway's own WebSocket, too (CSP 3). A `ws:` beside it would let the
/// page talk to any host.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
                      connect-src 'self'; img-src 'self' data:; base-uri 'none'; \
                      form-action 'none'; frame-ancestors 'none'";
