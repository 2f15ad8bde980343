//! Who may talk to the server: the token, and pages by their origin.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use axum::{Router, body::Body, http::Request, routing::get};
use lockkeeper::gateway::server::auth::{
    Access, Denied, Token, TokenError, host_allowed, origin_allowed,
};
use tempfile::tempdir;
use tower::ServiceExt;

const LOOPBACK: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
const ANY: IpAddr = IpAddr::V4(Ipv4Addr::UNSPECIFIED);

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).expect("it is there").permissions().mode() & 0o7777
}

#[test]
fn a_token_is_made_once_for_its_owner_alone() {
    let folder = tempdir().expect("a folder");
    let made = Token::in_folder(folder.path()).expect("it is made");
    let path = folder.path().join("token");
    assert_eq!(mode(&path), 0o600);
    assert_eq!(fs::read_to_string(&path).expect("text"), format!("{}\n", made.reveal()));
    assert_eq!(made.reveal().len(), 64);
    assert!(made.reveal().bytes().all(|byte| byte.is_ascii_hexdigit()));
    assert_eq!(Token::in_folder(folder.path()).expect("it is read"), made);
    let other = tempdir().expect("a folder");
    assert_ne!(Token::in_folder(other.path()).expect("it is made"), made);
    assert_eq!(fs::read_dir(folder.path()).expect("listed").count(), 1, "nothing is left over");
}

#[test]
fn a_token_is_neither_read_nor_made_through_a_link() {
    let folder = tempdir().expect("a folder");
    let elsewhere = folder.path().join("elsewhere");
    symlink(&elsewhere, folder.path().join("token")).expect("a link");
    let error = Token::in_folder(folder.path()).expect_err("it is a link");
    assert!(matches!(error, TokenError::NotAFile { .. }), "{error}");
    assert!(!elsewhere.exists(), "nothing was written there");

    let folder = tempdir().expect("a folder");
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").expect("a file");
    symlink(&victim, folder.path().join("token.new")).expect("a link");
    Token::in_folder(folder.path()).expect("what is left of a crash is in nobody's way");
    assert_eq!(fs::read_to_string(&victim).expect("text"), "mine");
}

#[test]
fn a_token_that_others_can_read_is_refused_with_what_to_do() {
    let folder = tempdir().expect("a folder");
    Token::in_folder(folder.path()).expect("it is made");
    let path = folder.path().join("token");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
    let error = Token::in_folder(folder.path()).expect_err("others can read it").to_string();
    assert!(error.contains(&path.display().to_string()) && error.contains("remove it"), "{error}");
}

#[test]
fn a_token_that_is_no_secret_is_refused() {
    for text in ["", "short", "0123456789abcde", "0123456789 abcdef", "0123456789abcdefä"] {
        let error = Token::chosen(text, "server.token").expect_err(text).to_string();
        assert!(error.starts_with("server.token: ") && !error.contains("0123"), "{error}");
    }
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("token");
    fs::write(&path, "cut").expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
    let error = Token::in_folder(folder.path()).expect_err("it is too short").to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    fs::remove_file(&path).expect("ours");
    fs::create_dir(&path).expect("a folder");
    let error = Token::in_folder(folder.path()).expect_err("it is a folder");
    assert!(matches!(error, TokenError::NotAFile { .. }), "{error}");
}

#[test]
fn a_token_is_the_same_text_and_never_shown() {
    let token = Token::chosen("0123456789abcdef", "server.token").expect("long enough");
    assert!(token.is("0123456789abcdef"));
    for other in
        ["", "0123456789abcde", "0123456789abcdeF", "0123456789abcdef\0", " 0123456789abcdef"]
    {
        assert!(!token.is(other), "{other:?}");
    }
    assert_eq!(format!("{token:?}"), "Token(..)");
}

#[test]
fn pages_may_connect_from_the_same_or_a_listed_origin_and_programs_always() {
    let listed = ["https://chat.example.org".to_owned()];
    for (origin, host, may) in [
        (None, None, true),
        (None, Some("127.0.0.1:18780"), true),
        (Some("http://127.0.0.1:18780"), Some("127.0.0.1:18780"), true),
        (Some("http://LOCALHOST:18780"), Some("localhost:18780"), true),
        (Some("https://gw.example.org"), Some("gw.example.org"), true),
        (Some("https://chat.example.org"), Some("127.0.0.1:18780"), true),
        (Some("http://chat.example.org"), Some("127.0.0.1:18780"), false),
        (Some("https://chat.example.org.evil.net"), Some("127.0.0.1:18780"), false),
        (Some("https://evil.net"), Some("127.0.0.1:18780"), false),
        (Some("http://127.0.0.1:9999"), Some("127.0.0.1:18780"), false),
        (Some("null"), Some("127.0.0.1:18780"), false),
        (Some("null"), Some("null"), false),
        (Some(""), Some(""), false),
        (Some("https://evil.net"), None, false),
        (Some("file://x"), Some("x"), false),
    ] {
        assert_eq!(origin_allowed(origin, host, &listed), may, "{origin:?} {host:?}");
    }
}

#[test]
fn at_a_loopback_address_only_loopback_names_and_listed_hosts_are_ours() {
    let listed = ["https://chat.example.org".to_owned(), "http://dev.example.org:8080/".to_owned()];
    for (host, is_ours) in [
        (None, true),
        (Some("localhost"), true),
        (Some("localhost:18780"), true),
        (Some("LocalHost:18780"), true),
        (Some("gw.localhost:1"), true),
        (Some("127.0.0.1:18780"), true),
        (Some("127.9.9.9"), true),
        (Some("[::1]:18780"), true),
        (Some("[::1]"), true),
        (Some("chat.example.org"), true),
        (Some("dev.example.org:8080"), true),
        (Some("evil.net"), false),
        (Some("evil.net:18780"), false),
        (Some("localhost.evil.net"), false),
        (Some("evillocalhost"), false),
        (Some("127.0.0.1.evil.net"), false),
        (Some("192.168.0.1"), false),
        (Some("ä.localhost"), true),
        (Some("äocalhost"), false),
        (Some(""), false),
    ] {
        assert_eq!(host_allowed(host, LOOPBACK, &listed), is_ours, "{host:?}");
        assert!(host_allowed(host, ANY, &listed), "elsewhere every name is: {host:?}");
    }
}

fn access(bound: IpAddr) -> Access {
    let token = Token::chosen("0123456789abcdef", "server.token").expect("long enough");
    Access::new(SocketAddr::new(bound, 18780), token, Vec::new())
}

async fn status(router: Router, headers: &[(&str, &str)]) -> u16 {
    let mut request = Request::get("/").body(Body::empty()).expect("a request");
    for (name, value) in headers {
        let name: axum::http::HeaderName = name.parse().expect("a name");
        request.headers_mut().insert(name, value.parse().expect("a value"));
    }
    let Ok(response) = router.oneshot(request).await;
    response.status().as_u16()
}

fn router() -> Router {
    Router::new().route("/", get(async || "secret"))
}

#[tokio::test]
async fn who_does_not_know_the_token_gets_401() {
    let guarded = access(LOOPBACK).guard_token(router());
    for (given, expected) in [
        ("Bearer 0123456789abcdef", 200),
        ("bearer 0123456789abcdef", 200),
        ("Bearer 0123456789abcdeF", 401),
        ("Basic 0123456789abcdef", 401),
        ("0123456789abcdef", 401),
        ("Bearer", 401),
    ] {
        let headers = [("authorization", given)];
        assert_eq!(status(guarded.clone(), &headers).await, expected, "{given}");
    }
    assert_eq!(status(guarded, &[]).await, 401);
}

#[tokio::test]
async fn metrics_are_open_at_a_loopback_address_and_need_the_token_elsewhere() {
    assert_eq!(status(access(LOOPBACK).guard_token_from_afar(router()), &[]).await, 200);
    assert_eq!(status(access(ANY).guard_token_from_afar(router()), &[]).await, 401);
}

#[tokio::test]
async fn foreign_pages_get_403_until_their_origin_is_listed() {
    let access = access(LOOPBACK);
    let guarded = access.guard_pages(router());
    let own = [("host", "localhost:18780"), ("origin", "http://localhost:18780")];
    assert_eq!(status(guarded.clone(), &own).await, 200);
    let foreign = [("host", "localhost:18780"), ("origin", "https://evil.net")];
    assert_eq!(status(guarded.clone(), &foreign).await, 403);
    let rebound = [("host", "evil.net:18780"), ("origin", "http://evil.net:18780")];
    assert_eq!(status(guarded.clone(), &rebound).await, 403, "DNS rebinding");
    access.set_origins(vec!["https://evil.net".to_owned()]);
    assert_eq!(status(guarded, &foreign).await, 200, "the operator's word");
    assert!(Denied::Origin.to_string().contains("server.origins"));
}
