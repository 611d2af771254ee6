//! How the rules stand to a request that somebody asks about.

use std::net::IpAddr;

use serde_json::{Value, json};

use super::App;
use crate::layers::limit::Counting;
use crate::limit::denial::quota_in_words;
use crate::limit::meter::Shortage;
use crate::limit::rule::{Mode, Per};
use crate::limit::{Cost, Explained, Seen, Subject};
use crate::request::Class;

/// What is asked about when the question does not say.
const PATH: &str = "/v1/chat/completions";

const fn per_name(per: Per) -> &'static str {
    match per {
        Per::Caller => "caller",
        Per::Ip => "ip",
        Per::Model => "model",
        Per::Route => "route",
        Per::Team => "team",
        Per::All => "all",
    }
}

/// The query of a question, its fields known and readable.
#[derive(Debug, Default)]
struct Question {
    caller: Option<String>,
    team: Option<String>,
    model: Option<String>,
    path: Option<String>,
    ip: Option<IpAddr>,
    class: Class,
    cost: Cost,
}

impl Question {
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
                "output_tokens" => question.cost.expected_output = number()?,
                "max_tokens" => question.cost.max_output = Some(number()?),
                "ip" => {
                    let fault = |_| format!("`ip` must be an address; found \"{value}\"");
                    question.ip = Some(value.parse().map_err(fault)?);
                }
                "class" => {
                    let fault =
                        || format!("`class` must be `critical`, `interactive` or `batch`; found \"{value}\"");
                    question.class = Class::parse(&value).ok_or_else(fault)?;
                }
                "caller" => question.caller = Some(value),
                "team" => question.team = Some(value),
                "model" => question.model = Some(value),
                "path" => question.path = Some(value),
                _ => {
                    return Err(format!(
                        "unknown parameter `{name}`; here may be `caller`, `team`, `model`, `path`, `ip`, `class`, \
                         `prompt_tokens`, `output_tokens`, `max_tokens`"
                    ));
                }
            }
        }
        Ok(question)
    }
}

fn shown(explained: &Explained) -> Value {
    let rule = &*explained.rule;
    let per: Vec<_> = rule.per.iter().map(|per| per_name(*per)).collect();
    let mut shown = json!({
        "rule": rule.name,
        "per": per,
        "unit": rule.unit.as_str(),
        "quota": quota_in_words(rule),
        "decision": "not_matched",
    });
    let (Some(Seen { amount, level, shortage }), Some(fields)) = (&explained.seen, shown.as_object_mut())
    else {
        return shown;
    };
    let decision = match (shortage, rule.mode) {
        (None, _) => "allowed",
        (Some(_), Mode::Enforce) => "refused",
        (Some(_), Mode::Observe) => "would_refuse",
    };
    let wait = match shortage {
        Some(Shortage::Wait(wait)) => json!(wait.as_nanos().div_ceil(1_000_000)),
        Some(Shortage::Never) | None => Value::Null,
    };
    fields.insert("decision".to_owned(), decision.into());
    fields.insert("amount".to_owned(), json!(amount));
    fields.insert("limit".to_owned(), json!(rule.capacity()));
    fields.insert("remaining".to_owned(), json!(level.remaining));
    fields.insert("reset_ms".to_owned(), json!(level.reset.as_nanos().div_ceil(1_000_000)));
    fields.insert("wait_ms".to_owned(), wait);
    shown
}

impl App {
    /// Says how every rule stands to the request that `query` describes.
    pub(super) async fn explained(&self, query: String) -> Result<Value, String> {
        let question = Question::read(&query)?;
        let live = self.0.live.load_full();
        let path = question.path.as_deref().unwrap_or(PATH);
        let subject = Subject {
            caller: question.caller.as_deref().unwrap_or("anonymous"),
            team: question.team.as_deref(),
            ip: question.ip,
            model: question.model.as_deref(),
            route: path,
            path,
            class: question.class,
        };
        let (counted, rules) = match &live.counting {
            Counting::Memory(ladder) => {
                ("memory", ladder.explain(&subject, &question.cost, self.0.clock.now()))
            }
            Counting::Shared(rules) => match rules.explain(&subject, &question.cost).await {
                Ok(explained) => ("redis", explained),
                Err(_) => ("alone", rules.explain_alone(&subject, &question.cost)),
            },
        };
        let rules: Vec<_> = rules.iter().map(shown).collect();
        Ok(json!({ "caller": subject.caller, "path": path, "counted": counted, "rules": rules }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_or_its_fault_is_said() {
        let question = Question::read("caller=key%3Aa+b&model=m&prompt_tokens=7&ip=::1&class=batch").unwrap();
        assert_eq!((question.caller.as_deref(), question.model.as_deref()), (Some("key:a b"), Some("m")));
        assert_eq!((question.cost.prompt_tokens, question.class), (7, Class::Batch));
        for (query, words) in [
            ("user=a", "unknown parameter `user`"),
            ("prompt_tokens=-1", "must be a number; found \"-1\""),
            ("ip=here", "must be an address"),
            ("class=vip", "found \"vip\""),
        ] {
            assert!(Question::read(query).is_err_and(|fault| fault.contains(words)), "{query}");
        }
    }
}
