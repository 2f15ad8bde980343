//! What the server tells of itself: probes and metrics.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{
    Router,
    body::Body,
    http::{Request, StatusCode},
};
use lockkeeper::gateway::{
    journal::storage::Figures,
    server::{
        metrics::{AskFigures, Metrics},
        probes::{Identity, Probes, Readiness},
    },
};
use serde_json::{Value, json};
use tower::ServiceExt;

fn probes() -> Probes {
    let nonce = Some("8d5a".to_owned());
    Probes::new(Identity { generation: Some(3), nonce, iteration: 2 })
}

async fn get(router: Router, path: &str) -> (StatusCode, axum::http::HeaderMap, String) {
    let request = Request::get(path).body(Body::empty()).expect("a request");
    let Ok(response) = router.oneshot(request).await;
    let (head, body) = response.into_parts();
    let body = axum::body::to_bytes(body, usize::MAX).await.expect("it is whole");
    (head.status, head.headers, String::from_utf8(body.into()).expect("text"))
}

async fn probe(probes: &Probes, path: &str) -> (u16, Value) {
    let (status, headers, body) = get(probes.routes(), path).await;
    assert_eq!(headers["cache-control"], "no-store");
    assert_eq!(headers["content-type"], "application/json");
    (status.as_u16(), serde_json::from_str(&body).expect("JSON"))
}

#[tokio::test]
async fn it_is_live_until_the_first_instant_of_its_close() {
    let probes = probes();
    assert_eq!(probe(&probes, "/healthz").await.0, 200, "also while it starts");
    probes.started();
    let (status, told) = probe(&probes, "/healthz").await;
    assert_eq!((status, &told["ok"]), (200, &json!(true)));
    probes.closing();
    let (status, told) = probe(&probes, "/healthz").await;
    assert_eq!((status, &told["ok"]), (503, &json!(false)));
    probes.started();
    assert_eq!(probe(&probes, "/healthz").await.0, 503, "nothing calls a close off");
}

#[tokio::test]
async fn it_is_ready_when_started_with_its_journal_and_every_enabled_channel_and_no_drain() {
    let probes = probes();
    let reason = async |wanted: Option<&str>| {
        let (status, told) = probe(&probes, "/readyz").await;
        assert_eq!(told["reason"], json!(wanted));
        assert_eq!(told["ready"], json!(wanted.is_none()));
        assert_eq!(status, if wanted.is_none() { 200 } else { 503 });
        assert_eq!(probes.unready().as_deref(), wanted);
        told
    };
    reason(Some("the gateway starts")).await;
    probes.started();
    reason(Some("journal: not open yet")).await;
    probes.journal(Readiness::Ready);
    probes.set("chat", Readiness::Ready);
    probes.set("telegram", Readiness::NotReady("no answer from the Bot API".to_owned()));
    let told = reason(Some("telegram: no answer from the Bot API")).await;
    let each = json!({
        "chat": { "ready": true },
        "telegram": { "ready": false, "reason": "no answer from the Bot API" },
    });
    assert_eq!(told["channels"], each, "each is listed with its reason");
    probes.set("telegram", Readiness::Ready);
    reason(None).await;
    probes.draining(Some("waiting for turns"));
    reason(Some("the gateway drains: waiting for turns")).await;
    probes.draining(None);
    reason(None).await;
    probes.journal(Readiness::NotReady("the disk is full".to_owned()));
    reason(Some("journal: the disk is full")).await;
    probes.journal(Readiness::Ready);
    probes.set("imessage", Readiness::NotReady("imsg is not there".to_owned()));
    probes.remove("imessage");
    reason(None).await;
    probes.closing();
    reason(Some("the gateway closes")).await;
}

#[tokio::test]
async fn startup_tells_starting_or_started_with_generation_and_nonce() {
    let probes = probes();
    let told =
        |status| json!({ "status": status, "generation": 3, "nonce": "8d5a", "iteration": 2 });
    assert_eq!(probe(&probes, "/startupz").await, (503, told("starting")));
    probes.started();
    assert_eq!(probe(&probes, "/startupz").await, (200, told("started")));
    probes.closing();
    assert_eq!(probe(&probes, "/startupz").await.0, 200, "it had started");
    let alone = Probes::new(Identity::default());
    assert_eq!(probe(&alone, "/startupz").await.1["generation"], Value::Null, "without a parent");
}

fn metrics_with(figures: Option<Figures>) -> (Metrics, Router) {
    let metrics = Metrics::new();
    let ask: AskFigures = Arc::new(move || Box::pin(async move { figures }));
    let router = metrics.routes(ask);
    (metrics, router)
}

#[tokio::test]
async fn metrics_are_strict_openmetrics_text() {
    let figures = Figures { accepted: 1, dead_replies: 7, resent: 2, ..Figures::default() };
    let (metrics, router) = metrics_with(Some(figures));
    metrics.accepted("telegram", Duration::from_millis(3));
    metrics.accepted("a\"b\\c\nd", Duration::from_millis(3));
    metrics.refused("webhook", "journal");
    metrics.answered(2);
    metrics.reply("telegram", "delivered");
    metrics.reply("telegram", "failed");
    metrics.reply("telegram", "unknown");
    metrics.turn("ok", Duration::from_secs(2));
    metrics.connections(5);
    metrics.clients(4);
    metrics.reload("hot");
    metrics.life(3, 1);
    metrics.channel("telegram", Some(true));
    metrics.channel("chat", Some(false));
    metrics.drain(Some("turns"));

    let (status, headers, text) = get(router, "/metrics").await;
    assert_eq!(status, 200);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert_eq!(headers["content-type"], content_type);
    let samples = read_strictly(&text);
    for (name, value) in [
        ("accepted_messages_total{channel=\"telegram\"}", 1.0),
        ("accepted_messages_total{channel=\"a\\\"b\\\\c\\nd\"}", 1.0),
        ("refused_messages_total{channel=\"webhook\",reason=\"journal\"}", 1.0),
        ("answered_messages_total", 2.0),
        ("replies_total{channel=\"telegram\",outcome=\"delivered\"}", 1.0),
        ("replies_total{channel=\"telegram\",outcome=\"failed\"}", 1.0),
        ("replies_total{channel=\"telegram\",outcome=\"unknown\"}", 1.0),
        ("turns_total{outcome=\"ok\"}", 1.0),
        ("turn_seconds_count", 1.0),
        ("turn_seconds_sum", 2.0),
        ("turn_seconds_bucket{le=\"+Inf\"}", 1.0),
        ("accept_seconds_count", 2.0),
        ("connections", 5.0),
        ("clients", 4.0),
        ("reloads_total{result=\"hot\"}", 1.0),
        ("generation", 3.0),
        ("iteration", 1.0),
        ("channel_up{channel=\"telegram\"}", 1.0),
        ("channel_up{channel=\"chat\"}", 0.0),
        ("drain{step=\"turns\"}", 1.0),
        ("journal{kind=\"message\",state=\"accepted\"}", 1.0),
        ("journal{kind=\"reply\",state=\"dead\"}", 7.0),
        ("journal_resent", 2.0),
    ] {
        let name = format!("lockkeeper_gateway_{name}");
        assert_eq!(samples.get(&name), Some(&value), "{name}\n{text}");
    }
    assert!(samples["lockkeeper_gateway_start_time_seconds"] > 1.7e9, "{text}");
}

#[tokio::test]
async fn what_is_no_more_is_not_told_by_the_metrics() {
    let (metrics, router) = metrics_with(None);
    metrics.channel("telegram", Some(true));
    metrics.channel("telegram", None);
    metrics.drain(Some("turns"));
    metrics.drain(Some("replies"));
    let (_, _, text) = get(router.clone(), "/metrics").await;
    assert!(!text.contains("telegram") && !text.contains("turns\""), "{text}");
    assert!(text.contains("replies\"} 1"), "{text}");
    metrics.drain(None);
    let (_, _, text) = get(router, "/metrics").await;
    assert!(!text.contains("replies\""), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_journal_that_does_not_answer_does_not_hold_up_the_metrics() {
    let metrics = Metrics::new();
    let router = metrics.routes(Arc::new(|| Box::pin(std::future::pending())));
    let (status, _, text) = get(router, "/metrics").await;
    assert_eq!(status, 200);
    read_strictly(&text);
}

/// The samples of an OpenMetrics text, by name and labels. Panics at what the format forbids: a
/// sample outside its family, a family in two pieces or without type and help, counters without
/// `_total`, buckets that shrink, anything after `# EOF`.
fn read_strictly(text: &str) -> BTreeMap<String, f64> {
    let body = text.strip_suffix("# EOF\n").expect("it ends with # EOF and a line end");
    let mut samples = BTreeMap::new();
    let mut families: BTreeMap<&str, &str> = BTreeMap::new();
    let (mut helped, mut family, mut bucket) = ("", ("", ""), 0.0);
    for line in body.lines() {
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, help) = rest.split_once(' ').expect("a name and a help");
            assert!(!help.is_empty() && !families.contains_key(name), "{line}");
            helped = name;
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert_eq!(name, helped, "{line}");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert!(families.insert(name, kind).is_none(), "twice: {line}");
            (family, bucket) = ((name, kind), 0.0);
        } else if let Some(rest) = line.strip_prefix("# UNIT ") {
            let (name, unit) = rest.split_once(' ').expect("a name and a unit");
            assert!(name == family.0 && name.ends_with(&format!("_{unit}")), "{line}");
        } else {
            let (series, value) = line.rsplit_once(' ').expect("a sample and its value");
            let value: f64 = value.parse().unwrap_or_else(|_| panic!("no number: {line}"));
            let name = series.split('{').next().expect("a name");
            let suffix = name.strip_prefix(family.0).unwrap_or_else(|| panic!("astray: {line}"));
            match family.1 {
                "counter" => assert_eq!(suffix, "_total", "{line}"),
                "gauge" => assert_eq!(suffix, "", "{line}"),
                _ => assert!(["_count", "_sum", "_bucket"].contains(&suffix), "{line}"),
            }
            if suffix == "_bucket" {
                assert!(value >= bucket, "buckets shrink: {line}");
                bucket = value;
            }
            labels(series.strip_prefix(name).expect("it begins so"));
            assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {line}");
        }
    }
    samples
}

/// `{name="value",...}`, with `\`, `"` and line ends escaped.
fn labels(text: &str) {
    let Some(inner) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) else {
        return assert!(text.is_empty(), "{text}");
    };
    let mut rest = inner;
    while !rest.is_empty() {
        let (name, value) = rest.split_once("=\"").expect("a name");
        assert!(!name.is_empty() && name.bytes().all(|byte| byte.is_ascii_lowercase()), "{text}");
        let mut is_escaped = false;
        let end = value.find(|char| {
            let ends = char == '"' && !is_escaped;
            is_escaped = char == '\\' && !is_escaped;
            ends
        });
        rest = &value[end.expect("the value ends") + 1..];
        rest = if rest.is_empty() { rest } else { rest.strip_prefix(',').expect("a comma") };
    }
}
