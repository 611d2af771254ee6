//! Explains how the rules would treat a request described by a query.

use std::net::IpAddr;
use std::sync::Arc;

use http::Method;
use serde_json::{Value, json};

use super::App;
use crate::config::Settings;
use crate::layers::identify::address_id;
use crate::layers::limit::{RuleCounting, served_by};
use crate::layers::paths::Paths;
use crate::limit::denial::quota_in_words;
use crate::limit::{ExpectedCost, Explained, RuleView, Served, Subject};
use crate::models::ModelTable;
use crate::openai::kinds::{self, Output};
use crate::request::{CallerId, CallerNamespace, CallerRights, Class, Kind};

/// Default path of a query.
const PATH: &str = "/v1/chat/completions";

#[derive(Debug, Default)]
struct ExplainQuery {
    caller: Option<String>,
    team: Option<String>,
    model: Option<String>,
    path: Option<String>,
    ip: Option<IpAddr>,
    class: Class,
    cost: ExpectedCost,
    /// `true` if the query gives `output_tokens`.
    told_output: bool,
}

/// Kind and metric label of a call at `path`. A path that is not allowed is its own label.
fn kind_of(paths: &Paths, path: &str) -> (Kind, Arc<str>) {
    // A path allowed for both methods counts as a model call.
    let found = [Method::POST, Method::GET].iter().find_map(|method| paths.find(method, path).ok());
    found.map_or_else(|| (Kind::Path, path.into()), |matched| (matched.kind, matched.label))
}

impl ExplainQuery {
    fn read(query: &str) -> Result<Self, String> {
        let mut question = Self::default();
        for pair in query.split('&').filter(|pair| !pair.is_empty()) {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let value = value.replace('+', " ");
            let value = percent_encoding::percent_decode_str(&value).decode_utf8_lossy().into_owned();
            let number =
                || value.parse().map_err(|_| format!("`{name}` must be a number; found \"{value}\""));
            match name {
                "prompt_tokens" => question.cost.prompt_tokens = number()?,
                "output_tokens" => {
                    question.cost.expected_output = number()?;
                    question.told_output = true;
                }
                // The API takes these two for "no bound".
                "max_tokens" if matches!(&*value, "-1" | "-2") => question.cost.max_output = None,
                "max_tokens" => question.cost.max_output = Some(number()?),
                "ip" => {
                    let fault = |_| format!("`ip` must be an IP address; found \"{value}\"");
                    question.ip = Some(value.parse().map_err(fault)?);
                }
                "class" => {
                    let fault =
                        || format!("`class` must be `critical`, `interactive` or `batch`; found \"{value}\"");
                    question.class = Class::parse(&value).ok_or_else(fault)?;
                }
                "caller" => question.caller = Some(caller_of(value)),
                "team" => question.team = Some(value),
                "model" => question.model = Some(value),
                "path" if !value.starts_with('/') || value.contains(['?', '#']) => {
                    return Err(format!("`path` must begin with `/` and have no query; found \"{value}\""));
                }
                "path" => question.path = Some(value),
                _ => {
                    return Err(format!(
                        "unknown parameter `{name}`; allowed are `caller`, `team`, `model`, `path`, `ip`, \
                         `class`, `prompt_tokens`, `output_tokens`, `max_tokens`"
                    ));
                }
            }
        }
        Ok(question)
    }
}

/// Returns the id under which a caller is counted: that of an address may be that of its network.
fn caller_of(asked: String) -> String {
    match CallerId::parse(&asked) {
        Some(CallerId { namespace: CallerNamespace::Address, name }) => {
            name.parse().map_or_else(|_| asked.clone(), address_id)
        }
        _ => asked,
    }
}

fn shown(explained: &Explained, subject: &Subject<'_>) -> Value {
    let rule = &*explained.rule;
    let per: Vec<_> = rule.per.iter().map(|per| per.as_str()).collect();
    let mut shown = json!({
        "rule": rule.name,
        "per": per,
        "key": explained.key(subject),
        "unit": rule.unit.as_str(),
        "quota": quota_in_words(rule),
        "decision": "not_matched",
    });
    let (Some(seen), Some(fields)) = (&explained.seen, shown.as_object_mut()) else { return shown };
    let RuleView { amount, level, .. } = seen;
    for (name, value) in [
        ("decision", json!(seen.decision(rule.mode).as_str())),
        ("amount", json!(amount)),
        ("limit", json!(rule.capacity())),
        ("remaining", json!(level.remaining)),
        ("reset_ms", json!(seen.reset_ms())),
        ("wait_ms", json!(seen.wait_ms())),
    ] {
        fields.insert(name.to_owned(), value);
    }
    shown
}

impl App {
    /// Returns the rights of the caller, if it has a key.
    fn rights(&self, settings: &Settings, caller: &str) -> Option<CallerRights> {
        let CallerId { namespace: CallerNamespace::Key, name: id } = CallerId::parse(caller)? else {
            return None;
        };
        if let Some(key) = settings.callers.keys.iter().find(|key| *key.id == *id) {
            return Some(key.rights.clone());
        }
        Some(self.0.redis_parts.as_ref()?.callers.as_ref()?.known(id)?.rights.clone())
    }

    /// Returns the state of every rule for the request that `query` describes.
    pub(super) async fn explained(&self, query: String) -> Result<Value, String> {
        let question = ExplainQuery::read(&query)?;
        let live = self.0.live.load_full();
        let path = question.path.as_deref().unwrap_or(PATH);
        let rights = question.caller.as_deref().and_then(|caller| self.rights(&live.settings, caller));
        let CallerRights { limits: own, models, .. } = rights.unwrap_or_default();
        let (kind, route) = kind_of(&live.paths, path);
        let kind = kinds::row(kind);
        let caller = question.caller.as_deref().unwrap_or("anonymous");
        let table = ModelTable::new(&live.settings.model_specs());
        let model_route = table.route(question.model.as_deref(), models.as_deref(), 0, true);
        // As for a real request: only calls that name a model are assigned to a pool.
        let (counted, pool) = match kind.names_model() {
            true => served_by(&self.0.fleet.load(), question.model.as_deref(), model_route.as_ref()),
            false => ("".into(), None),
        };
        let unnamed = pool.as_ref().map_or(&[][..], |pool| &pool.models);
        let names = model_route.as_ref().map_or(&[][..], |route| route.names());
        let mut cost = question.cost;
        if !question.told_output && kind.output != Output::Nothing {
            // The estimate that a real request would get.
            let model = question.model.as_deref();
            cost.expected_output = self.0.estimates.output(caller, model, cost.max_output);
        }
        let subject = Subject {
            own: own.as_ref(),
            caller,
            team: question.team.as_deref(),
            ip: question.ip,
            model: question.model.as_deref(),
            served: Served { counted_as: Some(&counted), default_models: unnamed, names },
            route: &route,
            path,
            class: question.class,
        };
        let (counted, rules) = match &live.counting {
            RuleCounting::Memory(rule_set) => {
                ("memory", rule_set.explain(&subject, &cost, self.0.clock.now()))
            }
            RuleCounting::Shared(rules) => match rules.explain(&subject, &cost).await {
                Ok(explained) => ("redis", explained),
                Err(alone) => ("alone", alone),
            },
        };
        let rules: Vec<_> = rules.iter().map(|rule| shown(rule, &subject)).collect();
        Ok(json!({ "caller": subject.caller, "path": path, "counted": counted, "rules": rules }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_or_its_fault_is_said() {
        let question =
            ExplainQuery::read("caller=key%3Aa+b&model=m&prompt_tokens=7&ip=::1&class=batch").unwrap();
        assert_eq!((question.caller.as_deref(), question.model.as_deref()), (Some("key:a b"), Some("m")));
        assert_eq!((question.cost.prompt_tokens, question.class), (7, Class::Batch));
        assert_eq!(ExplainQuery::read("max_tokens=-1").unwrap().cost.max_output, None);
        for (asked, counted) in [
            ("ip:2001:db8::1", "ip:2001:db8::/64"),
            ("ip:2001:db8::/64", "ip:2001:db8::/64"),
            ("ip:192.0.2.1", "ip:192.0.2.1"),
            ("key:a", "key:a"),
        ] {
            let question = ExplainQuery::read(&format!("caller={asked}")).unwrap();
            assert_eq!(question.caller.as_deref(), Some(counted));
        }
        for (query, words) in [
            ("user=a", "unknown parameter `user`"),
            ("prompt_tokens=-1", "must be a number; found \"-1\""),
            ("ip=here", "must be an IP address"),
            ("class=vip", "found \"vip\""),
            ("path=nope", "must begin with `/`"),
            ("path=/v1/chat/completions%3Fx=1", "have no query"),
            ("max_tokens=-3", "must be a number"),
        ] {
            assert!(ExplainQuery::read(query).is_err_and(|fault| fault.contains(words)), "{query}");
        }
    }
}
