//! Which requests a rule sees.

use super::rule::Match;
use super::subject::Subject;
use crate::request::Class;

/// A pattern in which `*` stands for any run of characters, also an empty one. Everything else stands for itself.
///
/// Cut at the stars once, so that matching is a prefix, a suffix and leftmost searches between: linear, whatever the
/// pattern.
#[derive(Clone, Debug)]
struct Glob(Box<[Box<str>]>);

impl Glob {
    fn new(pattern: &str) -> Self {
        Self(pattern.split('*').map(Box::from).collect())
    }

    fn matches(&self, text: &str) -> bool {
        let [first, between @ .., last] = &*self.0 else {
            return self.0.first().is_some_and(|whole| **whole == *text);
        };
        let Some(mut rest) = text.strip_prefix(&**first) else { return false };
        for piece in between {
            let Some((_, behind)) = rest.split_once(&**piece) else { return false };
            rest = behind;
        }
        rest.ends_with(&**last)
    }
}

/// A [`Match`], ready to be asked.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    path: Option<Glob>,
    model: Option<Glob>,
    caller: Option<Glob>,
    class: Option<Class>,
}

impl Matcher {
    pub(crate) fn new(matches: &Match) -> Self {
        let glob = |pattern: &Option<std::sync::Arc<str>>| pattern.as_deref().map(Glob::new);
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
            && self.model.as_ref().is_none_or(|glob| subject.model.is_some_and(|model| glob.matches(model)))
            && self.caller.as_ref().is_none_or(|glob| {
                let bare = subject.caller.split_once(':').map(|(_, bare)| bare);
                glob.matches(subject.caller) || bare.is_some_and(|bare| glob.matches(bare))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The definition, letter by letter.
    fn by_definition(pattern: &[u8], text: &[u8]) -> bool {
        match pattern.split_first() {
            None => text.is_empty(),
            Some((b'*', rest)) => (0..=text.len()).any(|skip| by_definition(rest, &text[skip..])),
            Some((letter, rest)) => {
                text.first() == Some(letter) && text.get(1..).is_some_and(|text| by_definition(rest, text))
            }
        }
    }

    proptest! {
        #[test]
        fn a_glob_matches_as_defined(pattern in "[ab*]{0,6}", text in "[ab]{0,8}") {
            prop_assert_eq!(Glob::new(&pattern).matches(&text), by_definition(pattern.as_bytes(), text.as_bytes()));
        }
    }

    #[test]
    fn every_given_field_must_match() {
        let subject = Subject {
            caller: "key:team-a",
            team: None,
            ip: None,
            model: Some("gpt-4"),
            route: "/v1/chat/completions",
            path: "/v1/chat/completions",
            class: Class::Batch,
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
        assert!(!sees(all, &Subject { model: None, ..subject }), "no model, no match");
    }
}
