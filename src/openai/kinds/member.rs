//! Names of the members that the gateway reads in a body.

use super::{KindRow, Output};
use crate::openai::scan::JsonText;

/// Members of a body that decisions depend on. Those of the prompt differ by kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::openai) enum BodyMember {
    Model,
    Messages,
    /// `input` and `messages` of the answers before, in vLLM.
    PreviousInputMessages,
    Prompt,
    Input,
    /// `input` of llama.cpp.
    Content,
    Instructions,
    Tools,
    Functions,
    MaxTokens,
    MaxCompletionTokens,
    MaxOutputTokens,
    /// `max_tokens` of llama.cpp, which there outweighs the other one.
    NPredict,
    N,
    /// `n` of llama.cpp, likewise.
    NCmpl,
    BestOf,
    Stream,
    StreamOptions,
    Store,
    PreviousResponseId,
    System,
    Documents,
    /// `documents` of TEI and llama.cpp.
    Texts,
    ChatTemplate,
    ChatTemplateKwargs,
    ToolPrompt,
    Guideline,
    Prediction,
    ResponseFormat,
    OutputConfig,
    OutputFormat,
    Suffix,
    Text,
    Query,
    Queries,
    Items,
    Text1,
    Text2,
    Data1,
    Data2,
    CacheSalt,
}

impl BodyMember {
    /// Returns the member with that name, however it is escaped.
    pub(in crate::openai) fn of(key: &JsonText<'_>) -> Option<Self> {
        Self::named(&key.name())
    }

    /// Returns the member with that name.
    pub(in crate::openai) fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"model" => Self::Model,
            b"messages" => Self::Messages,
            b"previous_input_messages" => Self::PreviousInputMessages,
            b"prompt" => Self::Prompt,
            b"input" => Self::Input,
            b"content" => Self::Content,
            b"instructions" => Self::Instructions,
            b"tools" => Self::Tools,
            b"functions" => Self::Functions,
            b"max_tokens" => Self::MaxTokens,
            b"max_completion_tokens" => Self::MaxCompletionTokens,
            b"max_output_tokens" => Self::MaxOutputTokens,
            b"n_predict" => Self::NPredict,
            b"n" => Self::N,
            b"n_cmpl" => Self::NCmpl,
            b"best_of" => Self::BestOf,
            b"stream" => Self::Stream,
            b"stream_options" => Self::StreamOptions,
            b"store" => Self::Store,
            b"previous_response_id" => Self::PreviousResponseId,
            b"system" => Self::System,
            b"documents" => Self::Documents,
            b"texts" => Self::Texts,
            b"chat_template" => Self::ChatTemplate,
            b"chat_template_kwargs" => Self::ChatTemplateKwargs,
            b"tool_prompt" => Self::ToolPrompt,
            b"guideline" => Self::Guideline,
            b"prediction" => Self::Prediction,
            b"response_format" => Self::ResponseFormat,
            b"output_config" => Self::OutputConfig,
            b"output_format" => Self::OutputFormat,
            b"suffix" => Self::Suffix,
            b"text" => Self::Text,
            b"query" => Self::Query,
            b"queries" => Self::Queries,
            b"items" => Self::Items,
            b"text_1" => Self::Text1,
            b"text_2" => Self::Text2,
            b"data_1" => Self::Data1,
            b"data_2" => Self::Data2,
            b"cache_salt" => Self::CacheSalt,
            _ => return None,
        })
    }

    pub(in crate::openai) const fn name(self) -> &'static str {
        match self {
            Self::Model => "model",
            Self::Messages => "messages",
            Self::PreviousInputMessages => "previous_input_messages",
            Self::Prompt => "prompt",
            Self::Input => "input",
            Self::Content => "content",
            Self::Instructions => "instructions",
            Self::Tools => "tools",
            Self::Functions => "functions",
            Self::MaxTokens => "max_tokens",
            Self::MaxCompletionTokens => "max_completion_tokens",
            Self::MaxOutputTokens => "max_output_tokens",
            Self::NPredict => "n_predict",
            Self::N => "n",
            Self::NCmpl => "n_cmpl",
            Self::BestOf => "best_of",
            Self::Stream => "stream",
            Self::StreamOptions => "stream_options",
            Self::Store => "store",
            Self::PreviousResponseId => "previous_response_id",
            Self::System => "system",
            Self::Documents => "documents",
            Self::Texts => "texts",
            Self::ChatTemplate => "chat_template",
            Self::ChatTemplateKwargs => "chat_template_kwargs",
            Self::ToolPrompt => "tool_prompt",
            Self::Guideline => "guideline",
            Self::Prediction => "prediction",
            Self::ResponseFormat => "response_format",
            Self::OutputConfig => "output_config",
            Self::OutputFormat => "output_format",
            Self::Suffix => "suffix",
            Self::Text => "text",
            Self::Query => "query",
            Self::Queries => "queries",
            Self::Items => "items",
            Self::Text1 => "text_1",
            Self::Text2 => "text_2",
            Self::Data1 => "data_1",
            Self::Data2 => "data_2",
            Self::CacheSalt => "cache_salt",
        }
    }

    /// Returns `true` if the gateway reads it in a body of this kind.
    pub(in crate::openai) fn is_read(self, row: &KindRow) -> bool {
        let is_of_llama = matches!(self, Self::NPredict | Self::NCmpl);
        self.is_control() || row.counts(self).is_some() || (is_of_llama && row.output == Output::Choices)
    }

    /// Returns `true` if it bounds the output tokens of a sequence.
    pub(in crate::openai) const fn is_output_bound(self) -> bool {
        matches!(self, Self::MaxTokens | Self::MaxCompletionTokens | Self::MaxOutputTokens | Self::NPredict)
    }

    /// Returns `true` if it is a number of sequences.
    pub(in crate::openai) const fn is_sequences(self) -> bool {
        matches!(self, Self::N | Self::NCmpl | Self::BestOf)
    }

    /// Returns `true` if it is read for every kind, not only where it is prompt.
    const fn is_control(self) -> bool {
        matches!(
            self,
            Self::Model
                | Self::MaxTokens
                | Self::MaxCompletionTokens
                | Self::MaxOutputTokens
                | Self::N
                | Self::BestOf
                | Self::Stream
                | Self::StreamOptions
                | Self::Store
                | Self::CacheSalt
                | Self::PreviousResponseId
        )
    }
}
