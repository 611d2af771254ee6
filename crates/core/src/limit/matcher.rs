//! Decides which requests a rule applies to.

use super::rule::Match;
use super::subject::Subject;
use crate::glob::Glob;
use crate::request::{CallerId, Class};

#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    path: Option<Glob>,
    model: Option<Glob>,
    caller: Option<Glob>,
    class: Option<Class>,
}

impl Matcher {
    pub(crate) fn new(matches: &Match) -> Self {
        let glob = |pattern: &Option<std::sync::Arc<str>>| pattern.clone().map(Glob::new);
        Self {
            path: glob(&matches.path),
            model: glob(&matches.model),
            caller: glob(&matches.caller),
            class: matches.class,
        }
    }

    pub(crate) fn matches(&self, subject: &Subject<'_>) -> bool {
        self.class.is_none_or(|class| class == subject.class)
            && self.path.as_ref().is_none_or(|glob| glob.matches(subject.path))
            && self.model.as_ref().is_none_or(|glob| match subject.model {
                Some(model) => {
                    glob.matches(model) || subject.served.names.iter().any(|name| glob.matches(name))
                }
                // The worker will use its own model: the rule applies if that may match.
                None => subject.served.default_models.iter().any(|served| glob.overlaps(served)),
            })
            && self.caller.as_ref().is_none_or(|glob| {
                let id = CallerId::parse(subject.caller);
                glob.matches(subject.caller) || id.is_some_and(|id| glob.matches(id.name))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limit::Served;

    #[test]
    fn every_given_field_must_match() {
        let subject = Subject {
            caller: "key:team-a",
            team: None,
            ip: None,
            model: Some("gpt-4"),
            served: Served::AS_ASKED,
            route: "/v1/chat/completions",
            path: "/v1/chat/completions",
            class: Class::Batch,
            own: None,
        };
        let all = Match {
            path: Some("/v1/*".into()),
            model: Some("gpt-*".into()),
            caller: Some("team-*".into()),
            class: Some(Class::Batch),
        };
        let sees = |matches: Match, subject: &Subject<'_>| Matcher::new(&matches).matches(subject);
        assert!(sees(all.clone(), &subject) && sees(Match::default(), &subject));
        assert!(
            sees(Match { caller: Some("key:team-a".into()), ..all.clone() }, &subject),
            "with its namespace"
        );
        assert!(!sees(Match { caller: Some("team".into()), ..all.clone() }, &subject));
        assert!(!sees(Match { path: Some("/v2/*".into()), ..all.clone() }, &subject));
        assert!(!sees(Match { class: Some(Class::Critical), ..all.clone() }, &subject));
        assert!(!sees(all.clone(), &Subject { model: None, ..subject }), "nobody serves it");
        for (served, met) in [("gpt-4", true), ("gpt-*", true), ("*", true), ("llama", false)] {
            let unnamed = [Glob::new(served)];
            let served = Served { default_models: &unnamed, ..Served::AS_ASKED };
            assert_eq!(sees(all.clone(), &Subject { model: None, served, ..subject }), met, "{served:?}");
            assert!(!sees(all.clone(), &Subject { model: Some("llama"), served, ..subject }));
        }
        for (names, met) in [(&["llama".into(), "gpt-4".into()][..], true), (&["llama".into()], false)] {
            let served = Served { names, ..Served::AS_ASKED };
            assert_eq!(sees(all.clone(), &Subject { model: Some("assistant"), served, ..subject }), met);
        }
    }
}
