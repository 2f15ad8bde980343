//! One webhook as it is configured: who may post to it, and where its replies may go.

use std::{collections::BTreeMap, fmt};

use axum::http::{HeaderMap, HeaderName};
use reqwest::Url;
use thiserror::Error;

use super::signature::{self, BadSignature};
use crate::gateway::{
    config::schema::{self, Secret},
    server::auth::bearer,
};

/// All webhooks, by name.
pub type Hooks = BTreeMap<String, Hook>;

/// A webhook.
#[derive(Clone, Eq, PartialEq)]
pub struct Hook {
    secret: Option<String>,
    bearer: Option<String>,
    callback: Option<Url>,
    callbacks: Vec<Url>,
}

/// Why a webhook's settings cannot be used. The key is below `hooks.<name>`.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("hooks.{hook}{key}: {why}")]
pub struct BadHook {
    hook: String,
    /// With its dot, or empty: the table itself.
    key: &'static str,
    why: String,
}

/// Why a request may not post to a webhook.
#[derive(Clone, Copy, Debug, Eq, Error, PartialEq)]
pub enum NotAllowed {
    /// It shows nothing.
    #[error(
        "the request is not authenticated: send `X-Lockkeeper-Signature: t=<unix>,v1=<hex>`, or \
         `Authorization: Bearer <token>`, as the hook is configured"
    )]
    Missing,
    /// Its bearer token is wrong, or the hook has none.
    #[error("the bearer token is wrong")]
    Bearer,
    /// It is signed, and the hook has no secret.
    #[error("the hook has no secret: send `Authorization: Bearer <token>`")]
    NoSecret,
    /// Its signature does not count.
    #[error(transparent)]
    Signature(BadSignature),
}

/// Why replies cannot be posted to an address.
#[derive(Clone, Debug, Eq, Error, PartialEq)]
pub enum BadCallback {
    /// It is no address.
    #[error("it is no address: {0}")]
    NoUrl(String),
    /// It is neither http nor https.
    #[error("it must be an http or https address")]
    Scheme,
    /// It would put a password into the journal.
    #[error("it must not hold a user or password")]
    UserInfo,
    /// The operator has not allowed it: a request could make us post into the inner network.
    #[error("its origin, {0}, is not among the hook's `callbacks`; ask the operator to add it")]
    NotListed(String),
}

impl Hook {
    /// As in the settings. `reveal` gives the text of a secret, or says why it cannot.
    ///
    /// # Errors
    ///
    /// Which key is wrong, and why.
    pub fn new(
        name: &str,
        settings: &schema::Hook,
        reveal: impl Fn(&Secret) -> Result<String, String>,
    ) -> Result<Self, BadHook> {
        let bad = |key, why: String| BadHook { hook: name.to_owned(), key, why };
        let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        if name.is_empty() || name.len() > 64 || !name.bytes().all(is_plain) {
            let why = "a hook's name is of letters, digits, `-`, `_` and `.`, at most 64";
            return Err(bad("", why.to_owned()));
        }
        let secret = |key, secret: &Option<Secret>| {
            let text = secret.as_ref().map(&reveal).transpose().map_err(|why| bad(key, why))?;
            match text {
                Some(text) if text.is_empty() => Err(bad(key, "it is empty".to_owned())),
                text => Ok(text),
            }
        };
        let callback = settings.callback.as_deref().map(address).transpose();
        let origins = settings.callbacks.iter().map(|text| origin(text));
        let hook = Self {
            secret: secret(".secret", &settings.secret)?,
            bearer: secret(".bearer", &settings.bearer)?,
            callback: callback.map_err(|error| bad(".callback", error.to_string()))?,
            callbacks: origins
                .collect::<Result<_, _>>()
                .map_err(|error| bad(".callbacks", error.to_string()))?,
        };
        if hook.secret.is_none() && hook.bearer.is_none() {
            let why = "set `secret` or `bearer`: without, anyone could post to it";
            return Err(bad("", why.to_owned()));
        }
        Ok(hook)
    }

    /// Of all that the settings have.
    ///
    /// # Errors
    ///
    /// The first hook and key that is wrong, and why.
    pub fn all(
        settings: &BTreeMap<String, schema::Hook>,
        reveal: impl Fn(&Secret) -> Result<String, String>,
    ) -> Result<Hooks, BadHook> {
        let hooks = settings.iter();
        hooks.map(|(name, hook)| Ok((name.clone(), Self::new(name, hook, &reveal)?))).collect()
    }

    /// Whether a request may go on before its body is read: false, it is signed, and the signature
    /// is to be checked with [`Self::check_signed`].
    ///
    /// # Errors
    ///
    /// Why it may not.
    pub fn check_bearer(&self, headers: &HeaderMap) -> Result<bool, NotAllowed> {
        if let Some(given) = bearer(headers) {
            let known = self.bearer.as_deref().ok_or(NotAllowed::Bearer)?;
            let is_right = signature::is_same(known.as_bytes(), given.as_bytes());
            return if is_right { Ok(true) } else { Err(NotAllowed::Bearer) };
        }
        let is_signed = [signature::HEADER, signature::HUB_HEADER];
        if !is_signed.into_iter().any(|name| headers.contains_key(name)) {
            return Err(NotAllowed::Missing);
        }
        self.secret.as_ref().map(|_| false).ok_or(NotAllowed::NoSecret)
    }

    /// Whether what is signed is of who knows the secret. `now` is in seconds since 1970.
    ///
    /// # Errors
    ///
    /// Why it is not.
    pub fn check_signed(
        &self,
        headers: &HeaderMap,
        now: u64,
        signed: &[u8],
    ) -> Result<(), NotAllowed> {
        let secret = self.secret.as_ref().ok_or(NotAllowed::NoSecret)?.as_bytes();
        let text = |name: &'static str| {
            let value = headers.get(HeaderName::from_static(name))?;
            Some(value.to_str().map_err(|_| BadSignature::Malformed))
        };
        let checked = match (text(signature::HEADER), text(signature::HUB_HEADER)) {
            (Some(header), _) => header.and_then(|it| signature::check(secret, now, it, signed)),
            (None, Some(header)) => header.and_then(|it| signature::check_hub(secret, it, signed)),
            (None, None) => return Err(NotAllowed::Missing),
        };
        checked.map_err(NotAllowed::Signature)
    }

    /// The signature of what we post, if the hook has a secret.
    pub fn sign(&self, now: u64, body: &[u8]) -> Option<String> {
        Some(signature::sign(self.secret.as_ref()?.as_bytes(), now, body))
    }

    /// Where replies go that ask for no other address.
    pub fn callback(&self) -> Option<&Url> {
        self.callback.as_ref()
    }

    /// The address that a request asks for.
    ///
    /// # Errors
    ///
    /// Why replies cannot go there.
    pub fn check_callback(&self, text: &str) -> Result<Url, BadCallback> {
        let url = address(text)?;
        let is_listed = self.callbacks.iter().any(|known| known.origin() == url.origin());
        if is_listed {
            Ok(url)
        } else {
            Err(BadCallback::NotListed(url.origin().ascii_serialization()))
        }
    }
}

impl fmt::Debug for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // A callback's path or query may be a secret, too.
        f.debug_struct("Hook")
            .field("callbacks", &self.callbacks.iter().map(Url::origin).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

fn address(text: &str) -> Result<Url, BadCallback> {
    let url = Url::parse(text).map_err(|error| BadCallback::NoUrl(error.to_string()))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(BadCallback::Scheme);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(BadCallback::UserInfo);
    }
    Ok(url)
}

/// `https://host:port`; a path would seem to restrict what it does not.
fn origin(text: &str) -> Result<Url, BadCallback> {
    let url = address(text)?;
    if url.path() != "/" || url.query().is_some() || url.fragment().is_some() {
        let why = "an origin has no path: write `https://host:port`";
        return Err(BadCallback::NoUrl(why.to_owned()));
    }
    Ok(url)
}
