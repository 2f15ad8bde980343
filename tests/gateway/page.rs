//! The chat page as it is served, and its logic, which needs no browser.

use std::{path::Path, process::Command};

use axum::{
    Router,
    body::{Body, to_bytes},
    http::{Request, Response, StatusCode, header},
};
use lockkeeper::gateway::page;
use tower::ServiceExt;

const PATHS: [&str; 6] = ["/", "/style.css", "/chat.js", "/client.js", "/words.js", "/favicon.svg"];

#[tokio::test]
async fn each_file_of_the_page_is_served_with_its_type_and_the_strict_policy() {
    for path in PATHS {
        let response = ask(path, None).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        let media_type = match path {
            "/" => "text/html; charset=utf-8",
            "/style.css" => "text/css; charset=utf-8",
            "/favicon.svg" => "image/svg+xml",
            _ => "text/javascript; charset=utf-8",
        };
        assert_eq!(header_of(&response, header::CONTENT_TYPE), media_type, "{path}");
        assert_eq!(header_of(&response, header::X_CONTENT_TYPE_OPTIONS), "nosniff");
        assert_eq!(header_of(&response, header::REFERRER_POLICY), "no-referrer");
        assert_eq!(header_of(&response, header::CACHE_CONTROL), "no-cache");
        assert_eq!(
            header_of(&response, header::CONTENT_SECURITY_POLICY),
            "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
             img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        );
    }
}

#[tokio::test]
async fn a_page_that_the_browser_has_is_not_sent_again() {
    for path in PATHS {
        let tag = header_of(&ask(path, None).await, header::ETAG);
        for known in [tag.clone(), format!("W/{tag}"), format!("\"other\", {tag}"), "*".to_owned()]
        {
            let response = ask(path, Some(&known)).await;
            assert_eq!(response.status(), StatusCode::NOT_MODIFIED, "{path} {known}");
            assert_eq!(header_of(&response, header::ETAG), tag);
            assert_eq!(text(response).await, "");
        }
        assert_eq!(ask(path, Some("\"other\"")).await.status(), StatusCode::OK, "{path}");
    }
}

#[tokio::test]
async fn no_file_of_the_page_names_another_host_or_makes_markup_of_text() {
    for path in PATHS {
        let text = text(ask(path, None).await).await;
        let own = text.replace("http://www.w3.org/2000/svg", "");
        for banned in [
            "http:",
            "https://",
            "//cdn",
            "@import",
            "url(",
            "innerHTML",
            "outerHTML",
            "insertAdjacentHTML",
            "document.write",
            "eval(",
            " style=",
            " onclick=",
        ] {
            assert!(!own.contains(banned), "{path} has {banned}");
        }
    }
}

#[tokio::test]
async fn every_file_that_the_page_names_is_served() {
    for path in PATHS {
        let text = text(ask(path, None).await).await;
        let quoted = text.split('"').filter(|part| {
            [".js", ".css", ".svg"].iter().any(|end| part.ends_with(end)) && !part.contains(' ')
        });
        for name in quoted {
            let path = format!("/{}", name.trim_start_matches("./"));
            assert!(PATHS.contains(&path.as_str()), "{path}");
        }
    }
}

#[test]
fn the_pages_client_keeps_its_promises_under_node() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/gateway/page");
    let ran = Command::new("node").arg("--test").current_dir(tests).output();
    let ran = ran.expect("node is not there: `apt-get install nodejs`, on Debian (18 or newer)");
    let said = String::from_utf8_lossy(&ran.stdout);
    assert!(ran.status.success(), "{said}\n{}", String::from_utf8_lossy(&ran.stderr));
    assert!(!said.contains("# pass 0"), "no test was found: {said}");
}

async fn ask(path: &str, known: Option<&str>) -> Response<Body> {
    let mut request = Request::get(path);
    if let Some(known) = known {
        request = request.header(header::IF_NONE_MATCH, known);
    }
    let routes: Router = page::routes();
    routes.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

fn header_of(response: &Response<Body>, name: header::HeaderName) -> String {
    response.headers()[name].to_str().unwrap().to_owned()
}

async fn text(response: Response<Body>) -> String {
    let bytes = to_bytes(response.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(bytes.to_vec()).unwrap()
}
