//! Reads the configured tokenizers, at start and on reload.

use std::sync::Arc;
use std::thread::available_parallelism;

use super::StartError;
use crate::config::Settings;
use crate::glob::Glob;
use crate::layers::tokenizers::Tokenizers;
use crate::openai::tokenizer::Tokenizer;

/// Reads them. A file with known contents is not parsed again: a large vocabulary would take a
/// second and its memory twice.
pub(super) fn load(settings: &Settings, before: Option<&Tokenizers>) -> Result<Tokenizers, StartError> {
    let mut models: Vec<(Glob, Arc<Tokenizer>)> = Vec::with_capacity(settings.models.len());
    for (index, model) in settings.models.iter().enumerate() {
        let Some(path) = &model.tokenizer else { continue };
        let read = || {
            let file = std::fs::read(path).map_err(|error| error.to_string())?;
            let known =
                models.iter().map(|(_, tokenizer)| tokenizer).find(|tokenizer| tokenizer.is_of(&file));
            match known.cloned().or_else(|| before?.tokenizer_of(&file)) {
                Some(tokenizer) => Ok(tokenizer),
                None => Tokenizer::read(&file).map(Arc::new),
            }
        };
        let fault = |problem| StartError::Tokenizer { index, file: path.clone(), problem };
        let tokenizer = read().map_err(fault)?;
        models.push((Glob::new(Arc::clone(&model.names.model)), tokenizer));
    }
    // The other half of the machine is for serving.
    let permits = available_parallelism().map_or(1, |cores| cores.get().div_ceil(2));
    Ok(Tokenizers::new(models, permits))
}
