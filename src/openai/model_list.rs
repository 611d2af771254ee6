//! The names in a list of models (`GET /v1/models`).

use std::sync::Arc;

use serde::Deserialize;

/// Path of the list.
pub(crate) const MODELS_PATH: &str = "/v1/models";
/// Largest list that is read, in bytes.
pub(crate) const LARGEST_LIST: usize = 1 << 20;
/// Longest name, in bytes, and most names.
const LONGEST_NAME: usize = 256;
const MOST_NAMES: usize = 256;

/// Returns the names of the models in `page`, in its order; empty if it is no such list.
#[must_use]
pub(crate) fn model_names(page: &[u8]) -> Vec<Arc<str>> {
    #[derive(Deserialize)]
    struct ListedModel {
        id: Arc<str>,
    }
    #[derive(Deserialize)]
    struct ListedModels {
        data: Vec<ListedModel>,
    }
    let Ok(list) = serde_json::from_slice::<ListedModels>(page) else { return Vec::new() };
    let sound = |name: &Arc<str>| {
        (1..=LONGEST_NAME).contains(&name.len()) && !name.contains('*') && !name.chars().any(char::is_control)
    };
    list.data.into_iter().map(|model| model.id).filter(sound).take(MOST_NAMES).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_in_order_and_only_if_they_are_sound() {
        let long = "x".repeat(257);
        let page = format!(
            r#"{{"object":"list","data":[{{"id":"qwen3","object":"model"}},{{"id":""}},{{"id":"*"}},{{"id":"a\nb"}},
                {{"id":"{long}"}},{{"id":"lora"}}]}}"#
        );
        let names: Vec<String> = model_names(page.as_bytes()).iter().map(ToString::to_string).collect();
        assert_eq!(names, ["qwen3", "lora"]);
        for wrong in ["", "[]", "{}", r#"{"data":[{}]}"#, "<html>"] {
            assert!(model_names(wrong.as_bytes()).is_empty(), "{wrong}");
        }
    }
}
