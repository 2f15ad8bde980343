//! How the gateway speaks HTTP to others: Telegram, an agent's server, a webhook's callback.
#![allow(clippy::disallowed_methods)]

use std::time::Duration;

use reqwest::{Client, ClientBuilder, redirect};
use rustls::crypto::ring;
use tracing::warn;

/// A client for every use; clones share its connections.
///
/// It gives up on a connection after 10 s. A request has no time limit of its own: each caller sets
/// the one that it can bear. Redirects are not followed, as they would carry a token or a message
/// to a place that nobody named. The environment's proxies do not count. TLS is rustls with ring,
/// and trusts whom the system trusts; where the system has no certificates, it trusts nobody, and
/// plain HTTP still works.
///
/// To be made once: reading the system's certificates takes milliseconds.
pub fn client() -> Client {
    // Somebody else may have chosen a provider for the process already: theirs is as good.
    let _ = ring::default_provider().install_default();
    settings().build().unwrap_or_else(|error| {
        let error = &error as &dyn std::error::Error;
        warn!(error, "no certificates to trust: https will fail; install ca-certificates");
        let trusting_nobody = settings().tls_certs_only([]);
        trusting_nobody.build().expect("nothing of the system is needed to trust nobody")
    })
}

fn settings() -> ClientBuilder {
    Client::builder()
        .user_agent(concat!("lockkeeper-gateway/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(CONNECT)
        .redirect(redirect::Policy::none())
        .no_proxy()
        // A message that was half sent is its sender's affair, which knows whether it may go twice.
        .retry(reqwest::retry::never())
}

const CONNECT: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_is_made_with_the_systems_certificates_and_without_any() {
        client();
        assert!(client().get("https://localhost/").build().is_ok());
        settings().tls_certs_only([]).build().expect("a client that trusts nobody");
    }
}
