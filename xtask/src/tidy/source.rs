//! Source files, read and parsed once for all checks.

use std::{fs, path::Path};

use anyhow::{Context as _, Result};
use proc_macro2::{Delimiter, TokenStream, TokenTree};
use quote::ToTokens as _;
use syn::{Attribute, Item, Meta, spanned::Spanned as _};
use walkdir::{DirEntry, WalkDir};

/// A file of Rust.
pub(crate) struct Source {
    /// Path from the workspace's root.
    pub(crate) path: String,
    /// Number of its lines.
    pub(super) lines: usize,
    /// What it says.
    pub(crate) syntax: syn::File,
}

/// A token and the line it is on, counted from 1.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) text: String,
    pub(super) line: usize,
}

impl Source {
    /// Parses `text`, which stands in the file `path`.
    pub(crate) fn parse(path: &str, text: &str) -> Result<Self> {
        let syntax = syn::parse_file(text).with_context(|| format!("cannot parse {path}"))?;
        Ok(Self {
            path: path.to_owned(),
            lines: text.lines().count(),
            syntax,
        })
    }

    /// Reads all files of Rust under `root`, but what cargo built and hidden directories.
    pub(crate) fn read_all(root: &Path) -> Result<Vec<Self>> {
        let mut sources = Vec::new();
        for entry in WalkDir::new(root)
            .sort_by_file_name()
            .into_iter()
            .filter_entry(is_ours)
        {
            let entry = entry.context("cannot list the sources")?;
            let path = entry.path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let text = fs::read_to_string(path)
                .with_context(|| format!("cannot read {}", path.display()))?;
            let name = path.strip_prefix(root).unwrap_or(path).to_string_lossy();
            sources.push(Self::parse(&name, &text)?);
        }
        Ok(sources)
    }

    /// Whether the whole file is compiled for tests only.
    pub(super) fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// The file's items that are not compiled for tests only.
    pub(super) fn product_items(&self) -> impl Iterator<Item = &Item> {
        let items = if self.is_test() {
            &[]
        } else {
            self.syntax.items.as_slice()
        };
        items.iter().filter(|item| !is_for_tests(item))
    }

    /// The lines of items that are compiled for tests only.
    pub(super) fn test_lines(&self) -> usize {
        let items = self.syntax.items.iter().filter(|item| is_for_tests(item));
        items.map(|item| lines_of(&item.span())).sum()
    }

    /// All tokens of the file, comments and documentation aside.
    pub(super) fn tokens(&self) -> Vec<Token> {
        flatten(self.syntax.to_token_stream())
    }

    /// The tokens of [`Self::product_items`].
    pub(super) fn product_tokens(&self) -> Vec<Token> {
        self.product_items()
            .flat_map(|item| flatten(item.to_token_stream()))
            .collect()
    }
}

/// The number of lines that a piece of code covers.
pub(super) fn lines_of(span: &proc_macro2::Span) -> usize {
    span.end().line + 1 - span.start().line
}

/// The places in `tokens` where `pattern` begins.
pub(super) fn places<'a>(
    tokens: &'a [Token],
    pattern: &'a [&str],
) -> impl Iterator<Item = usize> + 'a {
    let windows = tokens.windows(pattern.len()).enumerate();
    windows.filter_map(|(at, window)| {
        window
            .iter()
            .map(|token| &token.text)
            .eq(pattern.iter().copied())
            .then_some(at)
    })
}

fn is_ours(entry: &DirEntry) -> bool {
    let name = entry.file_name().to_string_lossy();
    entry.depth() == 0 || !(name.starts_with('.') || (entry.depth() == 1 && name == "target"))
}

fn is_for_tests(item: &Item) -> bool {
    attributes(item)
        .iter()
        .any(|attribute| match &attribute.meta {
            Meta::List(list) => list.path.is_ident("cfg") && list.tokens.to_string() == "test",
            _ => false,
        })
}

/// Attributes of the kinds of items that carry `#[cfg(test)]`.
fn attributes(item: &Item) -> &[Attribute] {
    match item {
        Item::Const(item) => &item.attrs,
        Item::ExternCrate(item) => &item.attrs,
        Item::Fn(item) => &item.attrs,
        Item::Impl(item) => &item.attrs,
        Item::Mod(item) => &item.attrs,
        Item::Struct(item) => &item.attrs,
        Item::Use(item) => &item.attrs,
        _ => &[],
    }
}

/// Groups become their delimiters and what is between them.
fn flatten(stream: TokenStream) -> Vec<Token> {
    let mut tokens = Vec::new();
    for tree in stream {
        let line = tree.span().start().line;
        match tree {
            TokenTree::Group(group) => {
                let (open, close) = delimiters(group.delimiter());
                let last = group.span_close().end().line;
                tokens.push(Token {
                    text: open.to_owned(),
                    line,
                });
                tokens.extend(flatten(group.stream()));
                tokens.push(Token {
                    text: close.to_owned(),
                    line: last,
                });
            }
            other => tokens.push(Token {
                text: other.to_string(),
                line,
            }),
        }
    }
    tokens
}

fn delimiters(delimiter: Delimiter) -> (&'static str, &'static str) {
    match delimiter {
        Delimiter::Parenthesis => ("(", ")"),
        Delimiter::Brace => ("{", "}"),
        Delimiter::Bracket => ("[", "]"),
        Delimiter::None => ("", ""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comments_documentation_and_text_hold_no_tokens() {
        let source = Source::parse(
            "a.rs",
            "//! todo!()\n/* todo!() */\nfn f() { \"todo!()\"; }",
        )
        .unwrap();
        assert_eq!(places(&source.tokens(), &["todo", "!"]).count(), 0);
    }

    #[test]
    fn tokens_within_macros_are_seen_with_their_lines() {
        let source = Source::parse(
            "a.rs",
            "fn f() {\n    select! {\n        x => todo!(),\n    }\n}",
        )
        .unwrap();
        let tokens = source.tokens();
        let lines: Vec<_> = places(&tokens, &["todo", "!"])
            .map(|at| tokens[at].line)
            .collect();
        assert_eq!(lines, [3]);
    }

    #[test]
    fn modules_for_tests_are_not_product_code() {
        let text = "fn f() {}\n#[cfg(test)]\nmod tests {\n    fn g() {}\n}\n";
        let source = Source::parse("a.rs", text).unwrap();
        assert_eq!(source.product_items().count(), 1);
        assert_eq!(source.test_lines(), 4);
    }

    #[test]
    fn files_of_tests_hold_no_product_code() {
        for path in ["lb-agent/src/model/tests.rs", "lb-agent/tests/run.rs"] {
            assert_eq!(
                Source::parse(path, "fn f() {}")
                    .unwrap()
                    .product_items()
                    .count(),
                0
            );
        }
    }
}
