//! Member names that the gateway reads in a body.

use crate::openai::scan::JsonText;

/// Members of an OpenAI body that decisions depend on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BodyMember {
    Model,
    Messages,
    Prompt,
    Input,
    Instructions,
    Tools,
    Functions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    N,
    BestOf,
    Stream,
    StreamOptions,
    Store,
    System,
    Documents,
    ChatTemplate,
    ChatTemplateKwargs,
    Prediction,
    ResponseFormat,
    Suffix,
    Text,
}

impl BodyMember {
    /// Returns the member with that name, however it is escaped.
    pub(super) fn of(key: &JsonText<'_>) -> Option<Self> {
        Some(match key.name().as_ref() {
            b"model" => Self::Model,
            b"messages" => Self::Messages,
            b"prompt" => Self::Prompt,
            b"input" => Self::Input,
            b"instructions" => Self::Instructions,
            b"tools" => Self::Tools,
            b"functions" => Self::Functions,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"n" => Self::N,
            b"best_of" => Self::BestOf,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"store" => Self::Store,
            b"system" => Self::System,
            b"documents" => Self::Documents,
            b"chat_template" => Self::ChatTemplate,
            b"chat_template_kwargs" => Self::ChatTemplateKwargs,
            b"prediction" => Self::Prediction,
            b"response_format" => Self::ResponseFormat,
            b"suffix" => Self::Suffix,
            b"text" => Self::Text,
            _ => return None,
        })
    }

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Messages => "messages",
            Self::Prompt => "prompt",
            Self::Input => "input",
            Self::Instructions => "instructions",
            Self::Tools => "tools",
            Self::Functions => "functions",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::N => "n",
            Self::BestOf => "best_of",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::Store => "store",
            Self::System => "system",
            Self::Documents => "documents",
            Self::ChatTemplate => "chat_template",
            Self::ChatTemplateKwargs => "chat_template_kwargs",
            Self::Prediction => "prediction",
            Self::ResponseFormat => "response_format",
            Self::Suffix => "suffix",
            Self::Text => "text",
        }
    }
}
