//! Responses of the admin port, always with headers that prevent misuse by a browser.

use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderName, HeaderValue, REFERRER_POLICY,
    WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{Response, StatusCode};
use serde_json::{Value, json};

use super::body::AdminBody;
use super::page;

/// Basic, so that a browser asks for the token; the user name is ignored. Chromium shows no prompt
/// for a scheme without a parameter.
const CHALLENGE: &str =
    r#"Basic realm="traffic-dam admin, any name, the token as password", Bearer realm="traffic-dam admin""#;

#[derive(Debug)]
pub(super) struct AdminError {
    pub(super) status: StatusCode,
    code: &'static str,
    message: String,
    allow: Option<&'static str>,
}

impl AdminError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, message: message.into(), allow: None }
    }

    pub(super) fn with_allow(mut self, methods: &'static str) -> Self {
        self.allow = Some(methods);
        self
    }

    pub(super) fn into_response(self) -> Response<AdminBody> {
        let body = json!({ "error": { "code": self.code, "message": self.message } });
        let mut response = json_answer(self.status, &body);
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(CHALLENGE));
        }
        if let Some(methods) = self.allow {
            response.headers_mut().insert(ALLOW, HeaderValue::from_static(methods));
        }
        response
    }
}

pub(super) fn json_answer(status: StatusCode, value: &Value) -> Response<AdminBody> {
    let mut text = value.to_string();
    text.push('\n');
    answer(status, "application/json", text)
}

pub(super) fn answer(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<AdminBody> {
    let mut response = Response::new(AdminBody::from(body.into()));
    *response.status_mut() = status;
    let fixed: [(HeaderName, &'static str); 5] = [
        (CONTENT_TYPE, content_type),
        (CACHE_CONTROL, "no-store"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
    ];
    let headers = response.headers_mut();
    for (name, value) in fixed {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers.insert(CONTENT_SECURITY_POLICY, page::policy());
    response
}
