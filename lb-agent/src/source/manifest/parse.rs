//! Text to documents.

use std::iter;

use serde_json::Value;
use serde_saphyr::Spanned;

/// A document of a file.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Document {
    /// Number from 1; empty documents do not count.
    pub(super) number: usize,
    /// Line of the file on which it starts, from 1.
    pub(super) line: u64,
    /// What it holds.
    pub(super) value: Value,
}

/// A document that is neither YAML nor JSON.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    /// Number from 1; empty documents do not count.
    pub(super) document: usize,
    /// Line and column, from 1.
    pub(super) position: Option<(u64, u64)>,
    /// What the parser says.
    pub(super) reason: String,
}

/// Splits a file into its documents.
pub(super) fn documents(text: &str) -> Result<Vec<Document>, SyntaxError> {
    // YAML is a superset of JSON but for tabs and repeated keys.
    let may_be_json = text.trim_start().starts_with('{');
    match may_be_json.then(|| json(text)) {
        Some(Ok(documents)) => Ok(documents),
        Some(Err(_)) | None => yaml(text),
    }
}

fn json(text: &str) -> serde_json::Result<Vec<Document>> {
    let mut stream = serde_json::Deserializer::from_str(text).into_iter::<Value>();
    let mut number = 0;
    iter::from_fn(|| {
        number += 1;
        let read = text.get(..stream.byte_offset()).unwrap_or_default();
        let rest = text.get(stream.byte_offset()..).unwrap_or_default();
        let blank = rest.len() - rest.trim_start().len();
        let newlines = |text: &str| text.bytes().filter(|byte| *byte == b'\n').count();
        let before = newlines(read) + newlines(rest.get(..blank).unwrap_or_default());
        let line = u64::try_from(before).unwrap_or(0) + 1;
        let value = stream.next()?;
        Some(value.map(|value| Document {
            number,
            line,
            value,
        }))
    })
    .collect()
}

fn yaml(text: &str) -> Result<Vec<Document>, SyntaxError> {
    let options = serde_saphyr::options! {
        // The message goes into a log line, so without the source's lines around it.
        with_snippet: false,
        // Manifests may be a whole cluster; what limits aliases, depth and bytes stays.
        budget: serde_saphyr::budget! {
            max_documents: usize::MAX,
            max_events: usize::MAX,
            max_nodes: usize::MAX,
        },
        alias_limits: serde_saphyr::alias_limits! {
            max_total_replayed_events: 100_000,
        },
    };
    let mut reader = text.as_bytes();
    let documents = serde_saphyr::read_with_options::<_, Spanned<Value>>(&mut reader, options);
    documents
        .enumerate()
        .map(|(index, document)| match document {
            Ok(spanned) => Ok(Document {
                number: index + 1,
                line: spanned.referenced.line(),
                value: spanned.value,
            }),
            Err(error) => Err(SyntaxError {
                document: index + 1,
                position: error.location().map(|l| (l.line(), l.column())),
                reason: error.to_string(),
            }),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &[(usize, u64, &str)]) {
        let documents = documents(text).unwrap();
        let seen: Vec<_> = documents
            .iter()
            .map(|document| (document.number, document.line, document.value.to_string()))
            .collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(number, line, value)| (*number, *line, (*value).to_owned()))
            .collect();
        assert_eq!(seen, expected, "{text}");
    }

    #[test]
    fn documents_are_numbered_and_placed() {
        check("a: 1\n", &[(1, 1, r#"{"a":1}"#)]);
        check(
            "# comment\n---\na: 1\n---\n# nothing\n---\nb: [x, 'y']\n...\n",
            &[(1, 3, r#"{"a":1}"#), (2, 7, r#"{"b":["x","y"]}"#)],
        );
        check("", &[]);
        check("---\n---\n", &[]);
    }

    #[test]
    fn json_is_read_with_tabs_and_one_after_another() {
        check(
            "{\n\t\"a\":\t1}\n\n{\"b\": null}\n",
            &[(1, 1, r#"{"a":1}"#), (2, 4, r#"{"b":null}"#)],
        );
    }

    #[test]
    fn a_yaml_flow_mapping_is_not_taken_for_json() {
        check(
            "{a: 1}\n---\n{b: 2}\n",
            &[(1, 1, r#"{"a":1}"#), (2, 3, r#"{"b":2}"#)],
        );
    }

    #[test]
    fn a_syntax_error_names_document_and_line() {
        let error = documents("a: 1\n---\nb: [1\nc: 2\n").unwrap_err();
        assert_eq!(error.document, 2);
        assert!(matches!(error.position, Some((3..=5, _))), "{error:?}");
        assert!(!error.reason.contains('\n'), "{error:?}");
    }

    #[test]
    fn many_documents_are_not_too_many() {
        let many = "---\na: 1\n".repeat(1_100);
        assert_eq!(documents(&many).unwrap().len(), 1_100);
    }

    #[test]
    fn an_alias_bomb_is_an_error() {
        let mut text = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for i in 1..9 {
            let alias = format!("*a{}", i - 1);
            text.push_str(&format!(
                "a{i}: &a{i} [{}]\n",
                [alias.as_str(); 10].join(", ")
            ));
        }
        assert!(documents(&text).is_err());
    }

    #[test]
    fn a_repeated_key_is_an_error() {
        let error = documents("a: 1\nb: 2\na: 3\n").unwrap_err();
        assert_eq!(error.position.map(|(line, _)| line), Some(3), "{error:?}");
    }
}
