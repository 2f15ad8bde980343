//! What a chunk of an answer says, read for what we need and for nothing else.

use serde_json::Value;

use super::refusal::Refusal;

/// What a chunk says.
#[derive(Debug, Default, Eq, PartialEq)]
pub(super) struct Piece {
    /// More of the answer.
    pub(super) text: String,
    /// Why the answer is at its end; none: it is not.
    pub(super) finish: Option<String>,
}

/// Reads a chunk, or a completion that was not streamed.
pub(super) fn piece(chunk: &Value) -> Result<Piece, Refusal> {
    if let Some(error) = chunk.get("error").filter(|error| !error.is_null()) {
        return Err(Refusal::in_stream(error));
    }
    // One answer is asked for; a chunk without any tells of the cost.
    let Some(choice) = chunk["choices"].get(0) else { return Ok(Piece::default()) };
    let said = choice.get("delta").or_else(|| choice.get("message")).unwrap_or(&Value::Null);
    let text = text(&said["content"]) + &text(&said["refusal"]);
    let finish = choice["finish_reason"].as_str().filter(|reason| !reason.is_empty());
    Ok(Piece { text, finish: finish.map(str::to_owned) })
}

/// A text, or the texts in a list of parts.
fn text(content: &Value) -> String {
    match content {
        Value::String(text) => text.clone(),
        Value::Array(parts) => parts.iter().filter_map(|part| part["text"].as_str()).collect(),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn said(chunk: &Value) -> String {
        piece(chunk).map(|piece| piece.text).unwrap_or_default()
    }

    #[test]
    fn a_chunk_is_read_for_its_text_and_its_end_and_whatever_else_it_has_is_passed_over() {
        let chunk = json!({"choices": [{"delta": {"role": "assistant", "content": "hi"}}], "x": 1});
        assert_eq!(said(&chunk), "hi");
        let last = json!({"choices": [{"delta": {}, "finish_reason": "stop"}]});
        assert_eq!(piece(&last).ok().and_then(|p| p.finish).as_deref(), Some("stop"));
        let whole = json!({"choices": [{"message": {"content": "hi"}, "finish_reason": "stop"}]});
        assert_eq!(said(&whole), "hi");
        let parts = json!({"choices": [{"delta": {"content": [{"type": "text", "text": "hi"}]}}]});
        assert_eq!(said(&parts), "hi");
        let refusal = json!({"choices": [{"delta": {"content": null, "refusal": "no"}}]});
        assert_eq!(said(&refusal), "no");
    }

    #[test]
    fn a_chunk_with_no_choices_in_any_spelling_says_nothing() {
        for chunk in [
            json!({}),
            json!(null),
            json!([]),
            json!("x"),
            json!(7),
            json!({"choices": null}),
            json!({"choices": []}),
            json!({"choices": [null]}),
            json!({"choices": [{}]}),
            json!({"choices": [{"delta": null, "finish_reason": null}]}),
            json!({"choices": [{"delta": {"content": 7}, "finish_reason": ""}]}),
            json!({"choices": [], "usage": {"total_tokens": 7}, "error": null}),
        ] {
            assert_eq!(piece(&chunk).ok(), Some(Piece::default()), "{chunk}");
        }
    }
}
