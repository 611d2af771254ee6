//! Checks names and fallbacks of models.

use std::sync::Arc;

use super::{Distinct, Files};
use crate::config::file::{ConfigFile, FallbackSection, ModelSection, ServeSection, ShareSection};
use crate::config::settings::ModelSettings;
use crate::config::source::{ErrorCollector, SettingPath};
use crate::config::syntax::{Text, Word};
use crate::models::{FallbackSpec, ModelShare, ModelSpec, chain_fault};

pub(super) fn models(
    file: &ConfigFile,
    root: &SettingPath<'_>,
    files: Files<'_>,
    report: &mut ErrorCollector,
) -> Vec<ModelSettings> {
    let at = root.key("models");
    let mut patterns = Distinct::new();
    let mut model = |(index, model): (usize, &ModelSection)| {
        let at = at.index(index);
        patterns.add(model.model.0.clone(), &at.key("model"), report);
        ModelSettings {
            names: ModelSpec {
                model: model.model.0.0.clone(),
                serve: serve(model.serve.as_ref(), &at.key("serve"), report),
                fallback: fallback(&model.fallback, &at.key("fallback"), report),
            },
            image_tokens: model.image_tokens,
            tokenizer: model
                .tokenizer
                .as_ref()
                .map(|tokenizer| files.readable(&tokenizer.0, &at.key("tokenizer"), report)),
        }
    };
    let models: Vec<ModelSettings> = file.models.iter().enumerate().map(&mut model).collect();
    let specs: Vec<ModelSpec> = models.iter().map(|model| model.names.clone()).collect();
    if let Some(fault) = chain_fault(&specs) {
        let at = at.index(fault.entry).key("fallback").index(fault.fallback).key("model");
        report.fault(&at, fault.to_string());
    }
    models
}

/// Returns a name of a model; a pattern is none.
fn name(model: &Text<Word>, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Arc<str> {
    if model.0.0.contains('*') {
        report.fault(at, "must be the name of one model, without `*`");
    }
    model.0.0.clone()
}

fn serve(serve: Option<&ServeSection>, at: &SettingPath<'_>, report: &mut ErrorCollector) -> Vec<ModelShare> {
    match serve {
        None => Vec::new(),
        Some(ServeSection::One(model)) => vec![ModelShare { model: name(model, at, report), weight: 1 }],
        Some(ServeSection::Shares(shares)) => {
            let mut names = Distinct::new();
            let share = |(index, ShareSection { model, weight }): (usize, &ShareSection)| {
                let at = at.index(index).key("model");
                names.add(model.0.clone(), &at, report);
                ModelShare { model: name(model, &at, report), weight: *weight }
            };
            shares.iter().enumerate().map(share).collect()
        }
    }
}

fn fallback(
    fallback: &[FallbackSection],
    at: &SettingPath<'_>,
    report: &mut ErrorCollector,
) -> Vec<FallbackSpec> {
    let mut names = Distinct::new();
    let one = |(index, fallback): (usize, &FallbackSection)| {
        let at = at.index(index);
        names.add(fallback.model.0.clone(), &at.key("model"), report);
        let mut reasons = Distinct::new();
        for (index, reason) in fallback.on.iter().enumerate() {
            reasons.add(*reason, &at.key("on").index(index), report);
        }
        FallbackSpec {
            model: name(&fallback.model, &at.key("model"), report),
            on: fallback.on.clone(),
            share: fallback.share,
        }
    };
    fallback.iter().enumerate().map(one).collect()
}
