//! From an HTTP request to a connection.

#![allow(clippy::disallowed_methods)]

use std::{net::SocketAddr, sync::Arc};

use axum::{
    body::Body,
    extract::{ConnectInfo, Request, State},
    http::{
        HeaderName, StatusCode,
        header::{RETRY_AFTER, SEC_WEBSOCKET_VERSION, UPGRADE},
    },
    response::{IntoResponse, Response},
};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::tungstenite::{
    Error,
    error::ProtocolError::{
        MissingConnectionUpgradeHeader, MissingSecWebSocketVersionHeader,
        MissingUpgradeWebSocketHeader,
    },
    handshake::server::create_response_with_body,
};

use super::{Shared, connection, count::Counted};

/// Answers `GET /ws`.
pub(super) async fn upgrade(State(shared): State<Arc<Shared>>, mut request: Request) -> Response {
    let response = match create_response_with_body(&request, Body::empty) {
        Ok(response) => response,
        Err(error) => return no_handshake(&error),
    };
    // A page of another origin could use the connection of whoever looks at it.
    if let Err(why) = (shared.parts.origins)(request.headers()) {
        return (StatusCode::FORBIDDEN, format!("{why}\n")).into_response();
    }
    if shared.leaving.borrow().is_some() {
        let header = [(RETRY_AFTER, "1")];
        let why = "the gateway leaves: connect again soon\n";
        return (StatusCode::SERVICE_UNAVAILABLE, header, why).into_response();
    }

    let address = request.extensions().get::<ConnectInfo<SocketAddr>>();
    let from = address.map_or_else(String::new, |ConnectInfo(address)| format!(" at {address}"));
    let upgrade = hyper::upgrade::on(&mut request);
    let open = Counted::new(&shared.open);
    tokio::spawn(async move {
        let _open = open;
        let cut = shared.cut.clone();
        let connection = async {
            // Else the client has left before it had the response.
            if let Ok(upgraded) = upgrade.await {
                connection::run(shared, TokioIo::new(upgraded), from).await;
            }
        };
        cut.run_until_cancelled(connection).await;
    });
    response
}

fn no_handshake(error: &Error) -> Response {
    let upgrade: &[(HeaderName, &str)] = &[(UPGRADE, "websocket"), (SEC_WEBSOCKET_VERSION, "13")];
    match error {
        Error::Protocol(
            MissingConnectionUpgradeHeader
            | MissingUpgradeWebSocketHeader
            | MissingSecWebSocketVersionHeader,
        ) => {
            let mut response =
                (StatusCode::UPGRADE_REQUIRED, "this is for WebSocket, version 13\n")
                    .into_response();
            for (name, value) in upgrade {
                response.headers_mut().insert(name, axum::http::HeaderValue::from_static(value));
            }
            response
        }
        error => {
            (StatusCode::BAD_REQUEST, format!("no WebSocket handshake: {error}\n")).into_response()
        }
    }
}
